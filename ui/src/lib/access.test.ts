// Who is offered what, where a login leads back to, what outlives it, and when an act is tried again.
import { afterEach, describe, expect, it, vi } from 'vitest';
import { guarded, home, loginUrl, mayAct, places, refusal, safeNext, seesAll, sees, signInUrl, standing, unlisted } from './access';
import { api, ApiError, setCsrf, setOnForbidden, setOnUnauthorised, type Me, type Schema } from './api';
import { Drafts } from './drafts';
import { meaning } from './keys';

const me = (role: Me['role'], tenant: string | null = null, auth: Me['auth'] = 'session'): Me => ({ name: 'x', role, tenant, auth, csrf: 'c', login: 'local' });

describe('what is offered', () => {
  it('offers acts to operators', () => expect([null, me('viewer'), me('operator'), me('admin')].map(mayAct)).toEqual([false, false, true, true]));
  it('shows a tenant its pages and begins at the first', () => {
    const blue = me('operator', 'blue');
    expect(places(blue).map((p) => p.text)).toEqual(['Incidents', 'Matrix', 'Ask', 'Docs']);
    expect([home(blue), home(me('viewer')), home(null)]).toEqual(['/incidents', '/', '/']);
    for (const page of ['now', 'fabric', 'paths', 'incident', 'retrospective'] as const) expect([sees(blue, page), sees(me('viewer'), page), sees(null, page)]).toEqual([false, true, true]);
    for (const page of ['incidents', 'matrix', 'ask', 'docs', 'login', 'missing'] as const) expect(sees(blue, page)).toBe(true);
    expect([meaning('g', 'f', places(blue)), meaning('g', 'm', places(blue))]).toEqual([null, { go: '/matrix' }]);
  });
  it('sees all without users', () => expect(seesAll({ ...me('operator', null, 'none'), name: '' })).toBe(true));
  it('says role and tenant', () => expect([standing(me('viewer')), standing(me('operator', 'blue'))]).toEqual(['viewer', 'operator, tenant blue']));
});

const schema = (...names: string[]): Schema => ({ tables: names.map((name) => ({ name, text: '', columns: [] })), functions: [], examples: [] });
describe('the audit table', () => {
  it('is named to who asks about it in vain', () => {
    const ask = (sql: string, who: Me | null = me('operator'), s: Schema | null = schema('link')) => guarded(who, s, sql);
    expect(ask('SELECT * FROM Audit')).toBe('The table audit is only for administrators of the whole fabric, and you are operator.');
    expect(ask('SELECT * FROM audit', me('admin', 'blue'))).toContain('tenant blue');
    expect(ask('SELECT * FROM audit', me('admin'), schema('audit'))).toBeNull();
    for (const sql of ['', 'SELECT auditor FROM link', "SELECT 'audit' FROM link -- audit"]) expect(ask(sql)).toBeNull();
    expect([ask('SELECT * FROM audit', null), ask('SELECT * FROM audit', me('viewer'), null)]).toEqual([null, null]);
  });
  it('is said to be missing from the list', () => {
    expect(unlisted(me('viewer'), schema('link'))).toEqual(['audit']);
    expect(unlisted(me('admin'), schema('audit'))).toEqual([]);
    expect(unlisted(me('operator', null, 'none'), schema('link'))).toEqual([]);
  });
});

describe('the way back from a login', () => {
  it('leads to a path of ours only', () => {
    expect([null, '', '/', '//evil.example', '/\\evil.example', 'https://evil.example', '/\t/evil.example', '/\n\\evil.example', '/login', '/login?next=/ask'].map(safeNext)).toEqual(Array(10).fill('/'));
    expect(['/ask?sql=SELECT%201', '/docs/lab.md#up', '/logins'].map(safeNext)).toEqual(['/ask?sql=SELECT%201', '/docs/lab.md#up', '/logins']);
  });
  it('is part of the address of the login', () => {
    expect(loginUrl('/')).toBe('/login');
    expect(loginUrl('/ask?sql=a&view=plot')).toBe('/login?next=%2Fask%3Fsql%3Da%26view%3Dplot');
    expect(signInUrl('/incidents?q=leaf#x')).toBe('/api/v1/login/oidc?next=%2Fincidents%3Fq%3Dleaf%23x');
    expect(signInUrl(`/ask?sql=${'x'.repeat(2000)}`)).toBe('/api/v1/login/oidc?next=%2Fask');
    expect(signInUrl('//evil.example')).toBe('/api/v1/login/oidc?next=%2F');
  });
  it('shows no words of the address', () => {
    expect(refusal(null)).toBeNull();
    expect(refusal('no_role')).toContain('no role');
    expect(refusal('call 555-0100')).toBe('The sign-in did not succeed.');
    expect(refusal('constructor')).toBe('The sign-in did not succeed.');
  });
});

describe('drafts', () => {
  const store = () => {
    const all = new Map<string, string>();
    return { getItem: (k: string) => all.get(k) ?? null, setItem: (k: string, v: string) => void all.set(k, v), removeItem: (k: string) => void all.delete(k) };
  };
  it('outlive the page and end when sent', () => {
    const s = store();
    const d = new Drafts(() => s);
    d.own('vera');
    d.set('inc-1 note', 'looked at ');
    d.set('inc-2 note', 'b');
    const next = new Drafts(() => s);
    next.own('vera');
    expect(next.get('inc-1 note')).toBe('looked at ');
    next.set('inc-1 note', '');
    expect([next.get('inc-1 note'), next.get('inc-2 note')]).toEqual(['', 'b']);
  });
  it('are not shown to another person', () => {
    const s = store();
    const d = new Drafts(() => s);
    d.own('vera');
    d.set('x', 'secret');
    d.own('otto');
    expect(d.get('x')).toBe('');
    d.own('vera');
    expect(d.get('x')).toBe('');
  });
  it('are few, and done without where nothing can be kept', () => {
    const s = store();
    const d = new Drafts(() => s);
    for (let i = 0; i < 30; i++) d.set(`n${i}`, 'x');
    expect([d.get('n9'), d.get('n10'), d.get('n29')]).toEqual(['', 'x', 'x']);
    d.set('n29', 'y'.repeat(20_001));
    expect(d.get('n29')).toBe('');
    s.setItem('selvedge.drafts', '{"by":1,"texts":[[1,2],"x"]}');
    expect(d.get('n10')).toBe('');
    const none = new Drafts(() => {
      throw new Error('forbidden');
    });
    none.own('vera');
    none.set('x', 'y');
    none.clear();
    expect(none.get('x')).toBe('');
  });
});

describe('an act', () => {
  afterEach(() => {
    vi.unstubAllGlobals();
    setOnForbidden(() => Promise.resolve(false));
    setOnUnauthorised(() => {});
    setCsrf('');
  });
  const answer = (status: number, body: object) => new Response(JSON.stringify(body), { status });
  it('is tried once more with the token of a newer session', async () => {
    const sent: (string | null)[] = [];
    vi.stubGlobal('fetch', (_: string, init: RequestInit) => {
      const token = new Headers(init.headers).get('x-selvedge-csrf');
      sent.push(token);
      return Promise.resolve(token === 'new' ? answer(200, {}) : answer(403, { error: 'expected the header' }));
    });
    setCsrf('old');
    await expect(api.logout()).rejects.toThrow('expected the header');
    setOnForbidden(() => {
      setCsrf('new');
      return Promise.resolve(true);
    });
    expect((await api.logout()).status).toBe(200);
    setCsrf('old');
    setOnForbidden(() => Promise.resolve(true));
    await expect(api.logout()).rejects.toThrow(ApiError);
    expect(sent).toEqual(['old', 'old', 'new', 'old', 'old']);
  });
  it('tells of a session that is over, but not of a wrong password', async () => {
    let over: string | null = null;
    setOnUnauthorised((e) => (over = e.login));
    vi.stubGlobal('fetch', () => Promise.resolve(answer(401, { error: 'x', login: 'oidc' })));
    await expect(api.login('vera', 'wrong')).rejects.toThrow('x');
    expect(over).toBeNull();
    await expect(api.logout()).rejects.toThrow('x');
    expect(over).toBe('oidc');
  });
});
