// How old what the page shows is. Pure: `now` is an argument.
//
// Invariant: "live" is only said while the stream is up and ticked within the last four seconds.

/** The hub ticks once a second; three missed ticks and the page no longer calls itself live. */
export const STALE_AFTER_MS = 4000;

export type Freshness =
  | { state: 'connecting' }
  | { state: 'live' }
  | { state: 'old'; age_ms: number }
  | { state: 'lost'; age_ms: number | null };

/** `up`: null before the first connection. `heard`: when the last event came, on the clock of `now`. */
export function freshness(up: boolean | null, heard: number | null, now: number): Freshness {
  if (up === null) return { state: 'connecting' };
  if (!up) return { state: 'lost', age_ms: heard === null ? null : Math.max(0, now - heard) };
  if (heard === null) return { state: 'connecting' };
  const age = now - heard;
  return age > STALE_AFTER_MS ? { state: 'old', age_ms: age } : { state: 'live' };
}
