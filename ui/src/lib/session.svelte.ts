// Who is asking, and what that person may do.
//
// Invariant: a page shows an action only where `session.may` allows it; the hub decides anyway.
import { api, ApiError, setCsrf, setOnUnauthorised, type Me } from './api';
import { live } from './live.svelte';
import { nav } from './nav.svelte';

class Session {
  me = $state.raw<Me | null>(null);
  /** Set when the hub wants a login: how. */
  wants = $state<string | null>(null);
  /** An operator or an admin may acknowledge, assign, snooze, close, note and judge. */
  get may(): boolean {
    return this.me !== null && this.me.role !== 'viewer';
  }
  async start(): Promise<void> {
    setOnUnauthorised((e) => this.#unauthorised(e));
    try {
      this.set(await api.me());
    } catch (e) {
      if (!(e instanceof ApiError)) throw e;
    }
  }
  set(me: Me): void {
    this.me = me;
    this.wants = null;
    setCsrf(me.csrf);
  }
  async logout(): Promise<void> {
    await api.logout();
    this.me = null;
    live.stop();
    nav.go('/login');
  }
  #unauthorised(e: ApiError): void {
    this.me = null;
    live.stop();
    this.wants = e.login ?? 'local';
    if (nav.url.pathname !== '/login') {
      const next = nav.url.pathname + nav.url.search;
      nav.replace(next === '/' ? '/login' : `/login?next=${encodeURIComponent(next)}`);
    }
  }
}
export const session = new Session();

/** Where to go after a login: only ever a path of ours. */
export function safeNext(next: string | null): string {
  return next && /^\/(?![/\\])/.test(next) && !next.startsWith('/login') ? next : '/';
}
