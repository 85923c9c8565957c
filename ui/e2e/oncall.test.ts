// What somebody on call does, from the alert to the retrospective, against a hub that has a real incident.
//
// The hub at SELVEDGE_URL must know an incident that hurts a link, NIC or switch; the newest open one is taken, else the
// newest of all.
import { expect, test, type Page } from '@playwright/test';
import { readFileSync } from 'node:fs';
import { accessible, dark, enter, fits, picture, settled, severable, watch } from './help';

interface Incident {
  id: string;
  state: string;
  component: { kind: string; name: string };
  link_names: string[];
  opened_at: string;
  summary: string;
  hurt?: { pairs_shown: [string, string][] };
}

/** What stands beside an answer. */
const ANSWERED = /rows?(, the first of more)?; [\d,]+ ms/;

async function incident(page: Page): Promise<Incident> {
  const all = (await (await page.request.get('/api/v1/incidents')).json()) as Incident[];
  expect(all.length, 'the hub knows an incident').toBeGreaterThan(0);
  const newest = [...all].sort((a, b) => Number(b.state === 'open') - Number(a.state === 'open') || Date.parse(b.opened_at) - Date.parse(a.opened_at))[0]!;
  return (await (await page.request.get(`/api/v1/incidents/${newest.id}`)).json()) as Incident;
}

test.describe.configure({ mode: 'serial' });
test.beforeEach(async ({ page }) => {
  await enter(page);
  await dark(page, false).catch(() => undefined);
});

test('every page, in light and dark', { tag: '@short' }, async ({ page }) => {
  const fine = watch(page);
  for (const [path, name, both] of [['/', 'now', true], ['/incidents', 'incidents', false], ['/fabric', 'fabric', true], ['/fabric?layer=coverage', 'fabric-coverage', false], ['/fabric?table=1', 'fabric-table', false], ['/matrix?by=leaf', 'matrix-leaves', false], ['/paths', 'paths-choose', false], ['/docs', 'docs', false], ['/login', 'login-without-users', false], ['/nowhere', 'missing', false]] as const) {
    await page.goto(path);
    await settled(page);
    await picture(page, name, { dark: both });
    await accessible(page, name);
  }
  fine();
});

test('from the alert to the retrospective', { tag: '@short' }, async ({ page }) => {
  const fine = watch(page);
  const it = await incident(page);

  await test.step('the alert leads to the incident: what, where, since when, how sure', async () => {
    await page.goto(`/incidents/${it.id}`);
    await expect(page.getByRole('heading', { level: 1 })).toHaveText(it.summary.replace(/[\d.]+ %.*/, '').trim() ? new RegExp(it.component.name.replaceAll(/[^\w]/g, '.')) : /./);
    for (const fact of ['What', 'Where', 'Since', 'How sure']) await expect(page.locator('dl.facts dt', { hasText: new RegExp(`^${fact}$`) })).toBeVisible();
    await expect(page.getByRole('link', { name: it.component.name }).first()).toBeVisible();
  });
  await test.step('the evidence, for and against', async () => {
    await expect(page.getByText('packets hurt', { exact: false }).first()).toBeVisible();
    await page.getByText('Observations to look up in a recording').click().catch(() => undefined);
    await settled(page);
    await picture(page, 'incident', { dark: true });
    await accessible(page, 'incident');
  });
  await test.step('the guide, with a command to copy', async () => {
    await page.getByRole('link', { name: 'What to do' }).click();
    const guide = page.getByRole('region', { name: 'What to do' });
    await expect(guide.getByRole('heading', { level: 3 }).first()).toBeVisible();
    await guide.getByRole('button', { name: 'Copy' }).first().click();
    await expect(guide.getByText('Copied').first()).toBeVisible();
    await picture(page, 'guide');
  });
  await test.step('acknowledge, assign and note', async () => {
    const hand = page.getByRole('region', { name: 'In hand' });
    const acknowledge = hand.getByRole('button', { name: 'Acknowledge' });
    if (await acknowledge.isVisible()) await acknowledge.click();
    if (it.state === 'open') {
      await expect(hand.getByText(/Acknowledged by/).or(hand.locator('dd').first())).not.toHaveText('by nobody');
      await hand.getByRole('button', { name: 'Assign…' }).click();
      const to = page.getByRole('dialog').getByLabel('To');
      const me = (await to.inputValue()) || 'ada';
      await to.fill(me);
      await page.getByRole('dialog').getByRole('button', { name: 'Assign' }).click();
      await expect(hand).toContainText(`to ${me}`);
    }
    const text = `Port counters at both ends looked at ${new Date().toISOString()}`;
    await page.getByLabel('Add a note').fill(text);
    await page.getByRole('button', { name: 'Add note' }).click();
    await expect(page.getByRole('region', { name: 'Notes' })).toContainText(text);
  });
  await test.step('on the map, with what is sick chosen', async () => {
    await page.goto(`/incidents/${it.id}`);
    await page.getByRole('link', { name: 'On the map', exact: true }).click();
    await expect(page).toHaveURL(/\/fabric\?/);
    const chosen = page.getByRole('complementary', { name: 'What is chosen' });
    await expect(chosen.getByRole('heading', { level: 2 })).toHaveText(it.component.name);
    if (it.state === 'open') await expect(chosen.getByRole('link', { name: it.id, exact: true })).toBeVisible();
    await settled(page);
    await picture(page, 'fabric-incident');
    await accessible(page, 'fabric');
  });
  await test.step('in the matrix', async () => {
    await page.goto('/matrix');
    await expect(page.getByRole('application')).toBeVisible();
    await page.getByRole('application').focus();
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('ArrowRight');
    await expect(page).toHaveURL(/from=.*to=/);
    await settled(page);
    await picture(page, 'matrix');
    await accessible(page, 'matrix');
  });
  await test.step('the paths of a pair that is hurt', async () => {
    const pair = it.hurt?.pairs_shown[0];
    const [from, to] = pair ?? ['host0', 'host1'];
    await page.goto(`/incidents/${it.id}`);
    if (pair) await page.getByRole('link', { name: `${from} → ${to}` }).first().click();
    else await page.goto(`/paths?from=${from}&to=${to}`);
    await expect(page).toHaveURL(new RegExp(`from=${from}&to=${to}`));
    await expect(page.getByRole('row').nth(1)).toContainText(from);
    await settled(page);
    await picture(page, 'paths');
    await accessible(page, 'paths');
  });
  await test.step('a question in SQL', async () => {
    await page.goto('/ask');
    await accessible(page, 'ask, nothing asked');
    await page.locator('.examples button').first().click();
    await expect(page.getByText(ANSWERED)).toBeVisible();
    await expect(page).toHaveURL(/sql=/);
    await settled(page);
    await picture(page, 'ask');
    await accessible(page, 'ask, answered');
    const saved = page.waitForEvent('download');
    await page.getByRole('button', { name: 'CSV' }).click();
    expect((await saved).suggestedFilename()).toMatch(/\.csv$/);
    const editor = page.locator('.cm-content');
    await editor.click();
    await page.keyboard.press('Control+A');
    await page.keyboard.type('SELECT FROM WHERE');
    await expect(editor).toHaveText('SELECT FROM WHERE');
    await page.keyboard.press('Escape');
    await page.keyboard.press('Control+Enter');
    await expect(page.getByRole('alert').or(page.getByText(ANSWERED))).toBeVisible();
  });
  await test.step('was it right?', async () => {
    await page.goto(`/incidents/${it.id}`);
    const judge = page.getByRole('region', { name: 'Was it right?' });
    await judge.getByLabel('What it was').fill('as it says');
    await judge.getByRole('button', { name: 'Right' }).click();
    await expect(judge).toContainText('Judged right');
  });
  await test.step('close it if it is open', async () => {
    const close = page.getByRole('button', { name: 'Close…' });
    if (await close.isVisible()) {
      await close.click();
      await page.getByLabel('Why').fill('taken out of service');
      await page.getByRole('button', { name: `Close ${it.id}` }).click();
      await expect(page.locator('header.head').getByText('closed', { exact: true })).toBeVisible();
    }
  });
  await test.step('the retrospective, and its file', async () => {
    await page.getByRole('link', { name: 'Retrospective' }).click();
    await expect(page.getByRole('article')).toContainText(it.component.name);
    await picture(page, 'retrospective');
    await accessible(page, 'retrospective');
    const saved = page.waitForEvent('download');
    await page.getByRole('button', { name: 'Download as Markdown' }).click();
    const file = await saved;
    expect(file.suggestedFilename()).toBe(`${it.id}.md`);
    expect(readFileSync(await file.path(), 'utf8')).toContain(it.component.name);
  });
  fine();
});

test('with the keyboard alone', { tag: '@short' }, async ({ page }) => {
  const fine = watch(page);
  await page.goto('/');
  await expect(page.getByRole('heading', { level: 1 })).toBeVisible();
  await page.keyboard.press('Tab');
  await expect(page.getByRole('link', { name: 'Skip to the page' })).toBeFocused();
  await page.keyboard.press('Enter');
  await expect(page.locator('main')).toBeFocused();
  await page.keyboard.press('?');
  await expect(page.getByRole('dialog', { name: 'Keyboard shortcuts' })).toBeVisible();
  await accessible(page, 'shortcuts');
  await page.keyboard.press('Escape');
  await expect(page.getByRole('dialog')).toHaveCount(0);
  await page.keyboard.press('g');
  await page.keyboard.press('f');
  await expect(page).toHaveURL(/\/fabric$/);
  await expect(page.getByRole('application')).toBeVisible();
  await page.keyboard.press('/');
  await expect(page.getByRole('combobox', { name: 'Go to a page, host, switch, link or incident' })).toBeFocused();
  await page.keyboard.type('leaf0');
  await expect(page.getByRole('option', { name: /p0-leaf0/ }).first()).toBeVisible();
  await accessible(page, 'go to');
  await page.keyboard.press('Enter');
  await expect(page).toHaveURL(/select=.*leaf0/);
  // a page lives on while its address changes: what has the focus keeps it
  await page.getByRole('application').focus();
  await page.keyboard.press('Escape');
  await expect(page).not.toHaveURL(/select=/);
  await expect(page.getByRole('application')).toBeFocused();
  await page.keyboard.press('g');
  await page.keyboard.press('i');
  await page.getByLabel('Name').pressSequentially('leaf');
  await expect(page).toHaveURL(/q=leaf/);
  await page.goto('/fabric?select=p0-leaf0');
  await expect(page.getByRole('complementary', { name: 'What is chosen' })).toBeVisible();
  await page.keyboard.press('g');
  await page.keyboard.press('n');
  await expect(page).toHaveURL(/\/$/);
  await page.goBack();
  await expect(page).toHaveURL(/select=.*leaf0/);
  await page.keyboard.press('t');
  await expect(page.locator('html')).toHaveAttribute('data-theme', 'dark');
  fine();
});

test('says when it is not connected', async ({ page }) => {
  const cut = await severable(page);
  await page.goto('/');
  await expect(page.getByText('live', { exact: true })).toBeVisible();
  await page.route('**/api/v1/events', (r) => r.abort());
  await cut();
  await expect(page.getByRole('alert').filter({ hasText: 'Not connected' })).toBeVisible({ timeout: 15_000 });
  await expect(page.getByText('live', { exact: true })).toHaveCount(0);
  await picture(page, 'not-connected');
  await page.unroute('**/api/v1/events');
  await expect(page.getByText('live', { exact: true })).toBeVisible({ timeout: 15_000 });
});

test('on a phone', async ({ page }) => {
  await page.setViewportSize({ width: 390, height: 844 });
  for (const path of ['/', '/incidents', '/fabric', '/matrix', '/paths', '/ask', '/docs']) {
    await page.goto(path);
    await settled(page);
    await fits(page);
    if (path === '/') await picture(page, 'phone');
  }
});
