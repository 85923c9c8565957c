// What the browser tests share: logging in, pictures, accessibility, and watching for what must never happen.
//
// SELVEDGE_SHORT leaves out the dark theme, whose colours are the only thing that differs, and SELVEDGE_SCREENS, a folder,
// adds pictures.
import { expect, type Page } from '@playwright/test';
import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const SCREENS = process.env.SELVEDGE_SCREENS;
const SHORT = process.env.SELVEDGE_SHORT !== undefined;

/** Fails the test at its end if the page broke its Content-Security-Policy, threw, or asked another host. */
export function watch(page: Page, hub = process.env.SELVEDGE_URL ?? 'http://127.0.0.1:8080'): () => void {
  const wrong: string[] = [];
  const home = new URL(hub).origin;
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

/** Logs in on the login page. */
export async function login(page: Page, name: string, password: string): Promise<void> {
  await page.getByLabel('Name').fill(name);
  await page.getByLabel('Password').fill(password);
  await page.getByRole('button', { name: 'Log in' }).click();
}
/** Logs in with SELVEDGE_USER and SELVEDGE_PASSWORD where the hub wants it. */
export async function enter(page: Page): Promise<void> {
  const me = await page.request.get('/api/v1/me');
  if (me.status() !== 401) return;
  await page.goto('/login');
  await login(page, process.env.SELVEDGE_USER ?? '', process.env.SELVEDGE_PASSWORD ?? '');
  await expect(page).toHaveURL(/\/$/);
}

/** Everything asked for is there, colours have faded, and what was changed is drawn. */
export async function settled(page: Page): Promise<void> {
  await expect(page.locator('main')).not.toContainText(/Asking|Loading/, { timeout: 10_000 });
  await page.evaluate(async () => {
    // what is folded away does not move, and would never finish
    const seen = document.getAnimations().filter((a) => a.effect instanceof KeyframeEffect && a.effect.target?.checkVisibility());
    await Promise.all(seen.map((a) => a.finished.catch(() => undefined)));
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  });
}

/** Lets the stream of events be cut from inside the browser: nothing else ends one that is already open. */
export async function severable(page: Page): Promise<() => Promise<void>> {
  await page.addInitScript(() => {
    const streams: EventSource[] = [];
    const Real = globalThis.EventSource;
    globalThis.EventSource = class extends Real {
      constructor(url: string | URL) {
        super(url);
        streams.push(this);
      }
    };
    Object.assign(globalThis, {
      cut: () => {
        for (const s of streams.splice(0)) {
          s.close();
          s.dispatchEvent(new Event('error'));
        }
      },
    });
  });
  return () => page.evaluate(() => (globalThis as unknown as { cut: () => void }).cut());
}

export async function dark(page: Page, on: boolean): Promise<void> {
  await page.emulateMedia({ colorScheme: on ? 'dark' : 'light' });
  await expect(page.locator('html')).toHaveAttribute('data-theme', on ? 'dark' : 'light');
}

/** Nothing has to be moved sideways to be seen, but for what scrolls by itself. */
export async function fits(page: Page): Promise<void> {
  const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  expect(over, `${new URL(page.url()).pathname} is no wider than the screen`).toBeLessThanOrEqual(1);
}

/** A picture of the page for the documentation, where SELVEDGE_SCREENS says into which folder; also a dark one. */
export async function picture(page: Page, name: string, also: { dark?: boolean } = {}): Promise<void> {
  if (!SCREENS) return;
  mkdirSync(SCREENS, { recursive: true });
  await page.mouse.move(0, 0);
  await page.evaluate(() => window.scrollTo({ top: 0, behavior: 'instant' }));
  // nothing is checked here: a second more of figures makes a better picture
  await page.waitForTimeout(1200);
  await page.screenshot({ path: join(SCREENS, `${name}.png`) });
  if (!also.dark) return;
  await dark(page, true);
  await page.waitForTimeout(500);
  await page.screenshot({ path: join(SCREENS, `${name}-dark.png`) });
  await dark(page, false);
}

/** Nothing that axe finds, in light and, unless it must be short, in dark. */
export async function accessible(page: Page, what: string): Promise<void> {
  for (const on of SHORT ? [false] : [false, true]) {
    await dark(page, on);
    await settled(page);
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
