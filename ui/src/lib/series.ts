// An incident's figures over time, put together into as many points as a small plot has room for. Pure.
//
// Invariant: where nothing was sent there is no point, rather than one at zero.
import type { Maybe, Series } from './api';

export interface Binned {
  /** Unix seconds, the middle of each bin. */
  t: number[];
  crossing: Maybe[];
  elsewhere: Maybe[];
  /** Packets a second, of the steps in which something was sent. */
  crossingSent: Maybe[];
  delay: Maybe[];
}

export function binned(s: Series, most = 150): Binned {
  const n = s.crossing.sent.length;
  const per = Math.max(1, Math.ceil(n / most));
  const out: Binned = { t: [], crossing: [], elsewhere: [], crossingSent: [], delay: [] };
  const share = (of: { sent: Maybe[]; hurt: Maybe[] }, from: number, to: number): [Maybe, Maybe] => {
    let sent: Maybe = null;
    let hurt = 0;
    let steps = 0;
    for (let i = from; i < to; i++) {
      const x = of.sent[i];
      if (x === null || x === undefined) continue;
      sent = (sent ?? 0) + x;
      steps += 1;
      hurt += of.hurt[i] ?? 0;
    }
    return [sent ? hurt / sent : null, sent === null ? null : (sent / steps / s.step_ms) * 1000];
  };
  for (let i = 0; i < n; i += per) {
    const to = Math.min(n, i + per);
    out.t.push((s.start_ms + ((i + to) / 2) * s.step_ms) / 1000);
    const [c, sent] = share(s.crossing, i, to);
    out.crossing.push(c);
    out.crossingSent.push(sent);
    out.elsewhere.push(share(s.elsewhere, i, to)[0]);
    const late = s.delay_excess_ns.slice(i, to).filter((x): x is number => x !== null);
    out.delay.push(late.length > 0 ? late.reduce((a, b) => a + b, 0) / late.length : null);
  }
  return out;
}
