// The stream of events from the hub, and what the page knows about its own age.
//
// How: an EventSource. People of a tenant get no events, which are of the whole fabric: for them the hub is asked once
// a second whether it is there, and the pages ask again for what they show, as they do with events.
// Invariants: one EventSource for the whole page; it is closed while the tab has been hidden for a while, since a
// browser gives a host only a few connections; every number is shown as live only while `fresh.state` is "live";
// nothing is asked before it is known who asks, nor after a session has ended.
import { api, ApiError, type Incident, type Now } from './api';
import { freshness, type Freshness } from './fresh';

const HIDDEN_CLOSES_AFTER_MS = 20_000;
/** A browser that gave up by itself (an error answer, not a broken connection) is helped along after this long. */
const RETRY_MS = 3000;
const BEAT_MS = 1000;
/** The date of an answer is a second coarse: less than this is no difference. */
const SKEW_MIN_MS = 2000;

class Live {
  /** The latest summary. */
  now = $state.raw<Now | null>(null);
  /** Counts incident events, so that who shows incidents knows to ask again. */
  incidentChanges = $state(0);
  lastIncident = $state.raw<Incident | null>(null);
  /** How many ticks there were. */
  ticks = $state(0);
  /** How often the stream came back after it was lost. */
  reconnects = $state(0);
  /** The hub's clock, once a second: ages are of its times, and the clock of a laptop may be anything. */
  clock = $state(Date.now());
  fresh = $state.raw<Freshness>({ state: 'connecting' });

  #skew = 0;
  #up: boolean | null = null;
  #heard: number | null = null;
  #how: 'events' | 'beat' | null = null;
  #source: EventSource | null = null;
  #abort: AbortController | null = null;
  #hidden: ReturnType<typeof setTimeout> | undefined;
  #retry: ReturnType<typeof setTimeout> | undefined;

  start(): void {
    setInterval(() => this.#look(), 1000);
    document.addEventListener('visibilitychange', () => {
      clearTimeout(this.#hidden);
      if (document.hidden) this.#hidden = setTimeout(() => this.#close(), HIDDEN_CLOSES_AFTER_MS);
      else if (!this.#source && !this.#abort) this.#open();
    });
  }
  /** Follows the hub by its events, or by asking whether it is there. */
  follow(how: 'events' | 'beat'): void {
    if (this.#how === how) return;
    if (this.#how) this.#close();
    this.#how = how;
    this.#open();
  }
  stop(): void {
    this.#how = null;
    this.#close();
  }

  #close(): void {
    this.#source?.close();
    this.#source = null;
    this.#abort?.abort();
    this.#abort = null;
    this.#up = false;
    clearTimeout(this.#retry);
    this.#look();
  }

  #look(): void {
    this.clock = Date.now() + this.#skew;
    const fresh = freshness(this.#up, this.#heard, performance.now());
    if (fresh.state !== this.fresh.state || fresh.state === 'old' || fresh.state === 'lost') this.fresh = fresh;
  }
  #heardNow(): void {
    if (this.#up === false) this.reconnects += 1;
    this.#up = true;
    this.#heard = performance.now();
    if (this.fresh.state !== 'live') this.#look();
  }
  #open(): void {
    clearTimeout(this.#retry);
    if (this.#how === 'events') this.#listen();
    else if (this.#how === 'beat') {
      this.#abort = new AbortController();
      void this.#beat(this.#abort.signal);
    }
  }
  async #beat(signal: AbortSignal): Promise<void> {
    let wait = BEAT_MS;
    try {
      const skew = (await api.clock(signal)) - Date.now();
      if (signal.aborted) return;
      if (Math.abs(skew - this.#skew) > SKEW_MIN_MS) this.#skew = skew;
      this.ticks += 1;
      this.#heardNow();
    } catch (e) {
      if (signal.aborted) return;
      if (!(e instanceof ApiError)) throw e;
      this.#up = false;
      this.#look();
      wait = RETRY_MS;
    }
    this.#retry = setTimeout(() => void this.#beat(signal), wait);
  }
  #listen(): void {
    const source = new EventSource('/api/v1/events');
    this.#source = source;
    source.addEventListener('tick', (e) => {
      const at = Date.parse((JSON.parse(e.data as string) as { at: string }).at);
      if (Number.isFinite(at)) this.#skew = at - Date.now();
      this.ticks += 1;
      this.#heardNow();
    });
    source.addEventListener('incident', (e) => {
      this.lastIncident = JSON.parse(e.data as string) as Incident;
      this.incidentChanges += 1;
      this.#heardNow();
    });
    source.addEventListener('now', (e) => {
      this.now = JSON.parse(e.data as string) as Now;
      this.#heardNow();
    });
    source.addEventListener('error', () => {
      this.#up = false;
      this.#look();
      if (source.readyState === EventSource.CLOSED && this.#source === source) {
        this.#source = null;
        this.#retry = setTimeout(() => void this.#again(), RETRY_MS);
      }
    });
  }
  /** A stream does not say why it was refused, so another question goes first: a session that ended ends here. */
  async #again(): Promise<void> {
    const there = await api.clock().then(
      () => true,
      () => false,
    );
    // who comes back to the tab opens it
    if (this.#how !== 'events' || this.#source || document.hidden) return;
    if (there) this.#listen();
    else this.#retry = setTimeout(() => void this.#again(), RETRY_MS);
  }
}
export const live = new Live();
