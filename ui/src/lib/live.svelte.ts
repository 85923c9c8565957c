// The stream of events from the hub, and what the page knows about its own age.
//
// Invariants: one EventSource for the whole page; it is closed while the tab has been hidden for a while, since a
// browser gives a host only a few connections; every number is shown as live only while `fresh.state` is "live".
import type { Incident, Now } from './api';
import { freshness, type Freshness } from './fresh';

const HIDDEN_CLOSES_AFTER_MS = 20_000;
/** A browser that gave up by itself (an error answer, not a broken connection) is helped along after this long. */
const RETRY_MS = 3000;

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
  #source: EventSource | null = null;
  #hidden: ReturnType<typeof setTimeout> | undefined;
  #retry: ReturnType<typeof setTimeout> | undefined;

  start(): void {
    this.#open();
    setInterval(() => this.#look(), 1000);
    document.addEventListener('visibilitychange', () => {
      clearTimeout(this.#hidden);
      if (document.hidden) this.#hidden = setTimeout(() => this.stop(), HIDDEN_CLOSES_AFTER_MS);
      else if (!this.#source) this.#open();
    });
  }
  stop(): void {
    this.#source?.close();
    this.#source = null;
    this.#up = false;
    clearTimeout(this.#retry);
    this.#look();
  }
  /** Opens the stream anew, as after a login. */
  restart(): void {
    this.stop();
    this.#open();
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
        this.#retry = setTimeout(() => this.#open(), RETRY_MS);
      }
    });
  }
}
export const live = new Live();
