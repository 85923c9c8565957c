// What the hub will answer this person: which pages, which acts, which tables. Pure.
//
// Invariant: nothing here lets anybody in. The hub decides every request anew; this only keeps the pages from offering
// what it would refuse, and says why.
import type { Me, Schema } from './api';
import { PLACES } from './keys';
import type { Route } from './route';

/** Pages that show the whole fabric, which the hub does not show to people of a tenant. */
const WHOLE: ReadonlySet<Route['page']> = new Set(['now', 'fabric', 'paths', 'incident', 'retrospective']);
/** Tables only administrators may ask about. */
const GUARDED = ['audit'] as const;

/** An operator or an admin may acknowledge, assign, snooze, close, note and judge. */
export function mayAct(me: Me | null): boolean {
  return me !== null && me.role !== 'viewer';
}
/** Whether this person sees the whole fabric and not a tenant's part of it. */
export function seesAll(me: Me | null): boolean {
  return !me?.tenant;
}
export function sees(me: Me | null, page: Route['page']): boolean {
  return seesAll(me) || !WHOLE.has(page);
}
/** The pages to go to. */
export function places(me: Me | null): typeof PLACES {
  return seesAll(me) ? PLACES : PLACES.filter((p) => p.to !== '/' && p.to !== '/fabric' && p.to !== '/paths');
}
/** Where this person begins. */
export function home(me: Me | null): string {
  return seesAll(me) ? '/' : '/incidents';
}
/** Role and tenant, as the header says them. */
export function standing(me: Me): string {
  return me.tenant ? `${me.role}, tenant ${me.tenant}` : me.role;
}

/** Tables a question names that the schema does not show to this person, in words; null where there are none. */
export function guarded(me: Me | null, schema: Schema | null, sql: string): string | null {
  if (!me || !schema) return null;
  const bare = sql.replaceAll(/--[^\n]*|'(?:[^']|'')*'/g, ' ');
  const named = GUARDED.filter((t) => new RegExp(`\\b${t}\\b`, 'i').test(bare) && !schema.tables.some((s) => s.name === t));
  if (named.length === 0) return null;
  const why = me.tenant ? `and you see what is of tenant ${me.tenant}` : `and you are ${me.role}`;
  return `The table ${named.join(', ')} is only for administrators of the whole fabric, ${why}.`;
}
/** Tables that are not listed for this person. */
export function unlisted(me: Me | null, schema: Schema): string[] {
  return me && me.auth !== 'none' ? GUARDED.filter((t) => !schema.tables.some((s) => s.name === t)) : [];
}

/**
 * The address to come back to after a login: only ever a path of ours, and not the login itself. A tab or a newline in it
 * would be skipped where it is followed, and what is behind it might be another host.
 */
export function safeNext(next: string | null): string {
  return next && /^\/(?![/\\])[\x21-\x7e]*$/.test(next) && !/^\/login(?:[/?#]|$)/.test(next) ? next : '/';
}
/** The login page, with the address to come back to. */
export function loginUrl(from: string): string {
  const next = safeNext(from);
  return next === '/' ? '/login' : `/login?next=${encodeURIComponent(next)}`;
}
/** Where a sign-in elsewhere begins. The hub takes 2,000 bytes to come back to: of a longer address the page is kept. */
export function signInUrl(next: string | null): string {
  const to = new URL(safeNext(next), 'http://hub');
  const all = to.pathname + to.search + to.hash;
  return `/api/v1/login/oidc?next=${encodeURIComponent(all.length <= 2000 ? all : to.pathname)}`;
}

const REFUSED: Record<string, string> = {
  sign_in_state: 'The sign-in did not begin in this browser, or took longer than ten minutes. Begin again.',
  sign_in_refused: 'The identity provider refused the sign-in.',
  id_token: 'What the identity provider sent could not be verified. The log of the hub says why.',
  no_role: 'You are known to the identity provider, but no role here is meant for your groups. Whoever looks after the access file can change that.',
  provider: 'The identity provider cannot be reached. A local name and password still work.',
  too_many_logins: 'Too many sign-ins were begun. Wait a minute.',
};
/** Why a sign-in elsewhere came back without a session. Words of ours only: an address can be sent by anybody. */
export function refusal(code: string | null): string | null {
  if (!code) return null;
  return Object.hasOwn(REFUSED, code) ? REFUSED[code]! : 'The sign-in did not succeed.';
}
