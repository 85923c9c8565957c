// A hub with users: logging in and out, what a viewer and a tenant are offered, and a session that ends in the middle of
// work.
//
// The hub at SELVEDGE_GUARDED_URL, over TLS, must know vera (viewer), otto (operator) and bea (viewer, of the tenant blue),
// all with the password SELVEDGE_GUARDED_PASSWORD. It needs no agents: where an incident is needed, one is put in by the
// test, and what is done about it is asked of the hub. A hub takes ten logins a minute from one address, of which these
// tests use nine.
import { expect, test, type Page } from '@playwright/test';
import type { IncidentDetail } from '../src/lib/api';
import { accessible, fits, login, picture, settled, severable, watch } from './help';

const URL_OF = process.env.SELVEDGE_GUARDED_URL;
const PASSWORD = process.env.SELVEDGE_GUARDED_PASSWORD ?? '';
const WHY = 'SELVEDGE_GUARDED_URL names no hub with users';
if (!URL_OF) console.log(`guarded.test.ts is left out: ${WHY}`);

test.use({ baseURL: URL_OF, ignoreHTTPSErrors: true });
test.skip(!URL_OF, WHY);

const ago = (s: number) => new Date(Date.now() - s * 1000).toISOString();
const INCIDENT: IncidentDetail = {
  id: 'inc-1', state: 'open', component: { kind: 'link', name: 'p0-leaf1:p0-spine0', id: 68 }, alternatives: [], links: [68], link_names: ['p0-leaf1:p0-spine0'],
  fault: { kind: 'loss', rate: 0.01, rate_low: 0.008, rate_high: 0.012, delay_excess_ns: 0, flap: null },
  confidence: 0.97, first_seen: ago(70), last_seen: ago(2), opened_at: ago(65), closed_at: null, times_reopened: 0,
  summary: 'p0-leaf1:p0-spine0 loses 1.0 % of packets', label: null,
  care: { acknowledged_by: null, acknowledged_at: null, assigned_to: null, snoozed_until: null, closed_by: null },
  evidence: { crossing_hurt: { observations: 40, sent: 900, hurt: 9 }, crossing_fine: { observations: 400, sent: 9000, hurt: 0 }, elsewhere_hurt: { observations: 0, sent: 0, hurt: 0 }, moments: 12, exemplars: [] },
  timeline: [{ at: ago(65), change: 'opened', text: 'opened' }], notes: [],
};
async function withIncident(page: Page): Promise<void> {
  const get = (path: RegExp, json: unknown) => page.route(path, (r) => (r.request().method() === 'GET' ? r.fulfill({ json }) : r.continue()));
  await get(/\/api\/v1\/incidents(\?.*)?$/, [INCIDENT]);
  await get(/\/api\/v1\/incidents\/inc-1$/, INCIDENT);
  await get(/\/api\/v1\/incidents\/inc-1\/guide$/, { id: 'inc-1', markdown: '# Loss at a link\n\n## Look\n\nAt the counters of both ends.' });
}
/** Logs in without the page, as another tab would. */
async function session(page: Page, name: string): Promise<{ csrf: string }> {
  const r = await page.request.post('/api/v1/login', { data: { name, password: PASSWORD } });
  expect(r.status(), `${name} can log in`).toBe(200);
  return (await r.json()) as { csrf: string };
}
const who = (page: Page) => page.getByRole('group', { name: 'Logged in' });

test('wrong and right, back where one was, and out', async ({ page }) => {
  const fine = watch(page, URL_OF);
  const asked: string[] = [];
  page.on('request', (r) => {
    if (r.url().includes('/api/')) asked.push(new URL(r.url()).pathname);
  });
  await page.goto('/fabric?layer=coverage');
  await expect(page).toHaveURL(/\/login\?next=%2Ffabric%3Flayer%3Dcoverage$/);
  await expect(page.getByRole('button', { name: 'Log in' })).toBeDisabled();
  // what is refused is written down: a page that nobody is logged in on asks only who it is
  expect(new Set(asked)).toEqual(new Set(['/api/v1/me']));
  await expect(page.getByRole('navigation')).toHaveCount(0);
  await picture(page, 'login', { dark: true });
  await accessible(page, 'login');
  await login(page, 'vera', 'not this one');
  await expect(page.getByRole('alert')).toHaveText('Name or password is wrong.');
  await expect(page.getByLabel('Password')).toHaveValue('');
  await accessible(page, 'login, refused');
  await login(page, 'vera', PASSWORD);
  await expect(page).toHaveURL(/\/fabric\?layer=coverage$/);
  await expect(who(page)).toHaveText(/vera\s*viewer/);
  await expect(page.getByText('live', { exact: true })).toBeVisible();
  await accessible(page, 'logged in');
  await page.goto('/login');
  await expect(page, 'who is logged in has nothing to do here').toHaveURL(/\/$/);
  await page.getByRole('button', { name: 'Log out' }).click();
  await expect(page).toHaveURL(/\/login$/);
  await expect(who(page)).toHaveCount(0);
  expect((await page.request.get('/api/v1/me')).status()).toBe(401);
  asked.length = 0;
  await page.goBack();
  await expect(page.getByRole('button', { name: 'Log in' })).toBeVisible();
  expect(new Set(asked), 'the way back shows and asks nothing').toEqual(new Set(['/api/v1/me']));
  fine();
});

test('a viewer looks and does not act', async ({ page }) => {
  const fine = watch(page, URL_OF);
  const cut = await severable(page);
  const { csrf } = await session(page, 'vera');
  await withIncident(page);
  await page.goto('/incidents/inc-1');
  const hand = page.getByRole('region', { name: 'In hand' });
  await expect(hand).toContainText('You are logged in as a viewer');
  for (const act of ['Acknowledge', 'Assign…', 'Snooze…', 'Close…', 'Add note', 'Right', 'Wrong']) await expect(page.getByRole('button', { name: act, exact: true })).toHaveCount(0);
  await accessible(page, 'an incident, to a viewer');
  const refused = await page.request.post('/api/v1/incidents/inc-1/acknowledge', { data: {}, headers: { 'x-selvedge-csrf': csrf } });
  expect(refused.status()).toBe(403);
  expect(await refused.text()).toContain('operator');
  await page.goto('/ask?sql=SELECT%20*%20FROM%20audit');
  await expect(page.getByText('The table audit is only for administrators of the whole fabric, and you are viewer.')).toBeVisible();
  await expect(page.getByRole('alert')).toContainText('audit');
  await accessible(page, 'ask, about the audit table');

  await test.step('a hub that has started anew knows no sessions: the page finds out by itself', async () => {
    await page.goto('/');
    await expect(page.getByText('live', { exact: true })).toBeVisible();
    await page.context().clearCookies();
    await cut();
    await expect(page).toHaveURL(/\/login$/, { timeout: 15_000 });
    await expect(page.getByText('Your session has ended.')).toBeVisible();
  });
  fine();
});

test('a session that ends in the middle of work', async ({ page }) => {
  const fine = watch(page, URL_OF);
  await session(page, 'otto');
  await withIncident(page);
  await page.goto('/incidents/inc-1');
  const note = page.getByLabel('Add a note');
  const add = page.getByRole('button', { name: 'Add note' });
  await note.fill('Both ends looked at');

  await test.step('another session of the same person: the note is sent with its token', async () => {
    await session(page, 'otto');
    await add.click();
    // the hub has no such incident, and says so only to who may act
    await expect(page.getByRole('region', { name: 'Notes' }).getByRole('alert')).toContainText('inc-1');
  });
  await test.step('no session: log in, and what was typed is there', async () => {
    await page.context().clearCookies();
    await add.click();
    await expect(page).toHaveURL(/\/login\?next=%2Fincidents%2Finc-1$/);
    await expect(page.getByText('Your session has ended.')).toBeVisible();
    await accessible(page, 'login, session over');
    await login(page, 'otto', PASSWORD);
    await expect(page).toHaveURL(/\/incidents\/inc-1$/);
    await expect(note).toHaveValue('Both ends looked at');
  });
  await test.step('a question that was not run', async () => {
    await page.goto('/ask');
    await page.locator('.cm-content').click();
    await page.keyboard.type('SELECT 42');
    await page.context().clearCookies();
    await page.getByRole('link', { name: 'Incidents' }).click();
    await page.getByRole('link', { name: 'Matrix' }).click();
    await expect(page).toHaveURL(/\/login\?next=%2Fmatrix$/);
    await login(page, 'otto', PASSWORD);
    await expect(page).toHaveURL(/\/matrix$/);
    await page.getByRole('link', { name: 'Ask' }).click();
    await expect(page.locator('.cm-content')).toHaveText('SELECT 42');
    await expect(page.getByText('This is what you had typed; it has not been run.')).toBeVisible();
    await page.getByRole('button', { name: 'Run', exact: true }).click();
    await expect(page.getByText(/1 row; /)).toBeVisible();
  });
  await test.step('and nobody else sees it', async () => {
    await page.goto('/incidents/inc-1');
    await expect(note).toHaveValue('Both ends looked at');
    await page.getByRole('button', { name: 'Log out' }).click();
    await expect(page).toHaveURL(/\/login$/);
    expect(await page.evaluate(() => sessionStorage.getItem('selvedge.drafts'))).toBeNull();
  });
  fine();
});

test('people of a tenant', async ({ page }) => {
  const fine = watch(page, URL_OF);
  const refused: string[] = [];
  page.on('response', (r) => {
    if (r.status() === 403) refused.push(r.url());
  });
  await session(page, 'bea');
  await withIncident(page);
  await page.goto('/');
  await expect(page).toHaveURL(/\/incidents$/);
  await expect(page.getByRole('navigation', { name: 'Pages' }).getByRole('link')).toHaveText(['Incidents', 'Matrix', 'Ask', 'Docs']);
  await expect(who(page)).toHaveText(/bea\s*viewer, tenant blue/);
  await expect(page.getByText('You are logged in for tenant blue')).toBeVisible();
  await expect(page.getByText(INCIDENT.summary)).toBeVisible();
  await expect(page.getByRole('link', { name: INCIDENT.summary })).toHaveCount(0);
  await expect(page.getByText('live', { exact: true })).toBeVisible();
  await accessible(page, 'incidents of a tenant');
  for (const path of ['/fabric', '/paths?from=host0&to=host1', '/incidents/inc-1']) {
    await page.goto(path);
    await expect(page.getByRole('heading', { level: 1 })).toHaveText('This page is about the whole fabric');
  }
  await accessible(page, 'closed to a tenant');
  await page.keyboard.press('g');
  await page.keyboard.press('m');
  await expect(page.getByRole('application')).toBeVisible();
  await expect(page.getByRole('application')).toHaveAttribute('aria-label', /^Matrix of 8 by 8\./);
  await expect(page.getByLabel('Plane').getByRole('option')).toHaveText(['all', '0', '1']);
  await accessible(page, 'matrix of a tenant');
  await page.keyboard.press('/');
  await expect(page.getByRole('combobox', { name: 'Go to a page' })).toBeFocused();
  await page.keyboard.press('Escape');
  await page.goto('/ask');
  await expect(page.getByText('as far as it is of tenant blue')).toBeVisible();
  await settled(page);
  await page.setViewportSize({ width: 390, height: 844 });
  await fits(page);
  await expect(page.getByRole('button', { name: 'Log out' })).toBeInViewport();
  expect(refused, 'nothing is asked that the hub refuses').toEqual([]);
  fine();
});

test('in and out with the keyboard alone', async ({ page }) => {
  const fine = watch(page, URL_OF);
  await page.goto('/incidents?state=open');
  await expect(page.getByLabel('Name')).toBeFocused();
  await page.keyboard.type('vera');
  await page.keyboard.press('Tab');
  await page.keyboard.type(PASSWORD);
  await page.keyboard.press('Enter');
  await expect(page).toHaveURL(/\/incidents\?state=open$/);
  await expect(who(page)).toBeVisible();
  const out = page.getByRole('button', { name: 'Log out' });
  for (let i = 0; i < 25 && !(await out.evaluate((b) => b === document.activeElement)); i++) await page.keyboard.press('Tab');
  await expect(out).toBeFocused();
  await page.keyboard.press('Enter');
  await expect(page).toHaveURL(/\/login$/);
  fine();
});

test('at a provider, or with a local password when it cannot be reached', async ({ page }) => {
  const fine = watch(page, URL_OF);
  // this hub has no provider: the answer of one that has
  await page.route('**/api/v1/me', (r) => r.fulfill({ status: 401, json: { error: 'log in first', login: 'oidc' } }));
  await page.goto('/matrix?by=leaf');
  const there = page.getByRole('link', { name: 'Sign in with your organisation' });
  await expect(there).toHaveAttribute('href', '/api/v1/login/oidc?next=%2Fmatrix%3Fby%3Dleaf');
  await expect(page.getByLabel('Name')).toBeHidden();
  await picture(page, 'login-provider', { dark: true });
  await accessible(page, 'login at a provider');
  await page.getByText('With a local name and password').focus();
  await page.keyboard.press('Enter');
  await expect(page.getByLabel('Password')).toBeVisible();
  await accessible(page, 'login at a provider, or with a password');
  await page.goto('/login?error=no_role');
  await expect(page.getByRole('alert')).toContainText('no role here is meant for your groups');
  await page.goto('/login?error=%3Cb%3Ecall%20me');
  await expect(page.getByRole('alert')).toHaveText('The sign-in did not succeed.');
  await accessible(page, 'login, refused by the provider');
  fine();
});
