// What a summary means in one word, for the sign beside the sentence. Pure.
//
// Invariant: a fabric that nobody measures is never called well, nor sick where nothing was found.
import type { Incident, Now } from './api';

export type Verdict = 'well' | 'sick' | 'blind';

export function verdict(n: Now): Verdict {
  const sent = n.planes.reduce((s, p) => s + p.sent_10s, 0);
  const found = n.planes.some((p) => p.sick > 0);
  if (!found && (n.agents.reporting === 0 || sent === 0)) return 'blind';
  return n.well ? 'well' : 'sick';
}

/** Whether somebody already has it in hand: then it need not shout. */
export function quiet(i: Incident, now: number): boolean {
  return i.care?.snoozed_until !== null && i.care?.snoozed_until !== undefined && Date.parse(i.care.snoozed_until) > now;
}

/** Open before closed, loud before snoozed, surest first, newest first. */
export function ranked(all: readonly Incident[], now: number): Incident[] {
  const key = (i: Incident) => (i.state === 'open' ? (quiet(i, now) ? 1 : 0) : 2);
  return [...all].sort(
    (a, b) => key(a) - key(b) || (a.state === 'open' ? b.confidence - a.confidence : 0) || Date.parse(b.opened_at) - Date.parse(a.opened_at),
  );
}
