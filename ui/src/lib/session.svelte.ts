// Who is asking, and what that person may do.
//
// Invariants: a page shows an action only where `session.may` allows it, and the hub decides anyway; nothing is asked of
// the hub before it is known who asks, since what it refuses is counted; what one person saw or typed is not kept for
// the next one: a login, a logout and another person in the same browser load the pages anew.
import { mayAct, seesAll } from './access';
import { api, ApiError, setCsrf, setOnForbidden, setOnUnauthorised, type Me } from './api';
import { drafts } from './drafts';
import { live } from './live.svelte';

const RETRY_MS = 3000;

class Session {
  me = $state.raw<Me | null>(null);
  /** Whether the hub has been asked who this is. Until then no page asks anything. */
  asked = $state(false);
  /** Set when the hub wants a login, which is then the only page: how. */
  wants = $state<string | null>(null);
  /** A session of this page ended. */
  over = $state(false);
  /** Why a logout did not come about. */
  trouble = $state('');

  get may(): boolean {
    return mayAct(this.me);
  }
  async start(): Promise<void> {
    setOnUnauthorised((e) => this.#unauthorised(e));
    setOnForbidden(() => this.#again());
    // somebody may have logged in or out in another tab
    document.addEventListener('visibilitychange', () => {
      if (!document.hidden && this.asked && this.me?.auth !== 'none') void this.#ask();
    });
    await this.#ask();
  }
  async logout(): Promise<void> {
    this.trouble = '';
    try {
      await api.logout();
    } catch (e) {
      if (!(e instanceof ApiError)) throw e;
      if (e.status !== 401) this.trouble = `Not logged out: ${e.message}.`;
      return;
    }
    drafts.clear();
    location.assign('/login');
  }

  async #ask(): Promise<void> {
    try {
      this.#set(await api.me());
    } catch (e) {
      if (!(e instanceof ApiError)) throw e;
      if (e.status !== 401 && !this.me) {
        live.stop();
        setTimeout(() => void this.#ask(), RETRY_MS);
      }
    }
    this.asked = true;
  }
  #set(me: Me): void {
    if (this.over || (this.me && this.me.name !== me.name)) {
      location.reload();
      return;
    }
    drafts.own(me.name);
    this.me = me;
    this.wants = null;
    setCsrf(me.csrf);
    live.follow(seesAll(me) ? 'events' : 'beat');
  }
  /** After a 403: the same person with another session has another token against forged requests. */
  async #again(): Promise<boolean> {
    const before = this.me;
    const now = await api.me().catch(() => null);
    if (!now || !before) return false;
    this.#set(now);
    return now.name === before.name && now.csrf !== before.csrf;
  }
  #unauthorised(e: ApiError): void {
    this.over ||= this.me !== null;
    this.me = null;
    live.stop();
    this.wants = e.login ?? 'local';
  }
}
export const session = new Session();
