// What the browser tests share: signing in, pictures, accessibility, and watching for what must never happen.
import { expect, type Page } from '@playwright/test';
import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const SCREENS = process.env.SELVEDGE_SCREENS;

/** Fails the test at its end if the page broke its Content-Security-Policy, threw, or asked another host. */
export function watch(page: Page): () => void {
  const wrong: string[] = [];
  const home = new URL(process.env.SELVEDGE_URL ?? 'http://127.0.0.1:8080').origin;
  page.on('pageerror', (e) => wrong.push(`threw: ${e.message}`));
  page.on('console', (m) => {
    if (/Content Security Policy|Refused to/i.test(m.text())) wrong.push(`${page.url()}: ${m.text()}`);
  });
  page.on('request', (r) => {
    const u = new URL(r.url());
    if (u.protocol.startsWith('http') && u.origin !== home) wrong.push(`asked ${u.origin}`);
  });
  return () => expect(wrong, 'what must never happen').toEqual([]);
}

/** Signs in with SELVEDGE_USER and SELVEDGE_PASSWORD where the hub wants it. */
export async function enter(page: Page): Promise<void> {
  const me = await page.request.get('/api/v1/me');
  if (me.status() !== 401) return;
  await page.goto('/login');
  await page.getByLabel('Name').fill(process.env.SELVEDGE_USER ?? '');
  await page.getByLabel('Password').fill(process.env.SELVEDGE_PASSWORD ?? '');
  await page.getByRole('button', { name: 'Sign in' }).click();
  await expect(page).toHaveURL(/\/$/);
}

export async function dark(page: Page, on: boolean): Promise<void> {
  await page.emulateMedia({ colorScheme: on ? 'dark' : 'light' });
  await expect(page.locator('html')).toHaveAttribute('data-theme', on ? 'dark' : 'light');
}

/** A picture of the page for the documentation, where SELVEDGE_SCREENS says into which folder. */
export async function picture(page: Page, name: string): Promise<void> {
  if (!SCREENS) return;
  mkdirSync(SCREENS, { recursive: true });
  await page.mouse.move(0, 0);
  await page.evaluate(() => window.scrollTo({ top: 0, behavior: 'instant' }));
  await page.screenshot({ path: join(SCREENS, `${name}.png`) });
}

/** Nothing that axe finds, in light and in dark. */
export async function accessible(page: Page, what: string): Promise<void> {
  for (const on of [false, true]) {
    await dark(page, on);
    // colours fade over a tenth of a second
    await page.waitForTimeout(250);
    if (!(await page.evaluate(() => 'axe' in globalThis))) await page.evaluate(AXE);
    const found = await page.evaluate(async () => {
      const axe = (globalThis as unknown as { axe: { run: (c: Document, o: object) => Promise<{ violations: { id: string; help: string; nodes: { target: unknown[]; failureSummary?: string }[] }[] }> } }).axe;
      const r = await axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] });
      return r.violations.map((v) => `${v.id}: ${v.help}\n${v.nodes.slice(0, 4).map((n) => `    ${JSON.stringify(n.target)} ${n.failureSummary?.split('\n')[1]?.trim() ?? ''}`).join('\n')}`);
    });
    expect(found, `${what}, ${on ? 'dark' : 'light'}`).toEqual([]);
  }
  await dark(page, false);
}
