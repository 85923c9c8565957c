// Numbers, rates, delays and times as words. All pure; `now` is an argument.
//
// Invariants: a rate that is not zero never reads as "0 %"; nothing measured reads as "–", never as zero; times are UTC
// and say so.

export const NONE = '–';

/** 12,345. */
export function count(n: number | null | undefined): string {
  return n === null || n === undefined || !Number.isFinite(n) ? NONE : Math.round(n).toLocaleString('en-US');
}

/** 1.2 M, 18 M, 940: for places where the last digit does not matter. */
export function short(n: number | null | undefined): string {
  if (n === null || n === undefined || !Number.isFinite(n)) return NONE;
  const units: [number, string][] = [[1e12, ' T'], [1e9, ' G'], [1e6, ' M'], [1e3, ' k']];
  for (const [size, unit] of units) {
    if (Math.abs(n) >= size) {
      const v = n / size;
      return (v >= 99.5 ? v.toFixed(0) : v.toPrecision(2).includes('e') ? v.toFixed(0) : String(Number(v.toPrecision(2)))) + unit;
    }
  }
  return Number.isInteger(n) ? String(n) : n.toFixed(1);
}

/** A share, 0 to 1, as a percentage with two digits that mean something. */
export function rate(r: number | null | undefined): string {
  if (r === null || r === undefined || !Number.isFinite(r)) return NONE;
  const p = r * 100;
  if (p === 0) return '0 %';
  if (p >= 99.95) return '100 %';
  if (p >= 9.95) return `${p.toFixed(0)} %`;
  if (p >= 0.995) return `${p.toFixed(1)} %`;
  if (p >= 0.01) return `${p.toFixed(2)} %`;
  if (p >= 0.001) return `${p.toFixed(3)} %`;
  return '< 0.001 %';
}

/** `0.71 to 1.4 %`. */
export function interval(low: number, high: number): string {
  const a = rate(low);
  const b = rate(high);
  if (a === b) return a;
  return a.endsWith(' %') && b.endsWith(' %') && !a.startsWith('<') ? `${a.slice(0, -2)} to ${b}` : `${a} to ${b}`;
}

/** A confidence, 0 to 1: two digits, three where it is near one; never rounded up, and never "100 %". */
export function confidence(c: number): string {
  if (c >= 0.9995) return '> 99.9 %';
  // a hair more, so that 0.29 is not 28 % for want of binary digits
  if (c >= 0.99) return `${(Math.floor(c * 1000 + 1e-9) / 10).toFixed(1)} %`;
  return `${Math.floor(c * 100 + 1e-9)} %`;
}

/** Nanoseconds. */
export function delay(ns: number | null | undefined): string {
  if (ns === null || ns === undefined || !Number.isFinite(ns)) return NONE;
  const a = Math.abs(ns);
  const digits = (v: number) => (v >= 100 ? v.toFixed(0) : v >= 10 ? v.toFixed(1) : v.toFixed(2));
  const sign = ns < 0 ? '−' : '';
  if (a >= 1e9) return `${sign}${digits(a / 1e9)} s`;
  if (a >= 1e6) return `${sign}${digits(a / 1e6)} ms`;
  if (a >= 1e3) return `${sign}${digits(a / 1e3)} µs`;
  return `${sign}${a.toFixed(0)} ns`;
}

/** How long, in at most two units: `14 min`, `2 h 5 min`, `3 d 4 h`. */
export function duration(ms: number): string {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  const m = Math.floor(s / 60);
  if (m < 10) return s % 60 ? `${m} min ${s % 60} s` : `${m} min`;
  if (m < 60) return `${m} min`;
  const h = Math.floor(m / 60);
  if (h < 24) return m % 60 ? `${h} h ${m % 60} min` : `${h} h`;
  const d = Math.floor(h / 24);
  return h % 24 ? `${d} d ${h % 24} h` : `${d} d`;
}

/** `14 min ago`; `now` under two seconds. */
export function ago(at: string, now: number): string {
  const ms = now - Date.parse(at);
  if (!Number.isFinite(ms)) return NONE;
  return ms < 2000 ? 'now' : `${duration(ms)} ago`;
}

const two = (n: number) => String(n).padStart(2, '0');

/** `03:12:08 UTC`, with the date in front where it is not the day of `now`. */
export function clock(at: string, now: number): string {
  const t = new Date(at);
  if (Number.isNaN(t.getTime())) return NONE;
  const day = t.toISOString().slice(0, 10);
  const time = `${two(t.getUTCHours())}:${two(t.getUTCMinutes())}:${two(t.getUTCSeconds())} UTC`;
  return day === new Date(now).toISOString().slice(0, 10) ? time : `${day} ${time}`;
}

/** Marks of a time axis, Unix seconds: `03:12`, with seconds or the day where they are needed to tell them apart. */
export function times(marks: readonly number[]): string[] {
  const step = marks.length > 1 ? marks[1]! - marks[0]! : 60;
  return marks.map((s) => {
    const t = new Date(s * 1000);
    const iso = t.toISOString();
    if (step >= 86_400) return iso.slice(5, 10);
    const midnight = t.getUTCHours() === 0 && t.getUTCMinutes() === 0 && t.getUTCSeconds() === 0;
    return midnight ? iso.slice(5, 10) : iso.slice(11, step < 60 ? 19 : 16);
  });
}

/** `1 link`, `3 links`. */
export function plural(n: number, one: string, many = `${one}s`): string {
  return `${count(n)} ${n === 1 ? one : many}`;
}

const KINDS: Record<string, string> = {
  loss: 'Loss',
  blackhole: 'Black hole',
  selective_loss: 'Selective loss',
  corruption: 'Corruption',
  reorder: 'Reordering',
  ecn_marking: 'ECN marking',
  delay: 'Delay',
  congestion: 'Congestion',
  flap: 'Flapping',
  host_stall: 'Host stall',
  agent_stopped: 'Agent stopped',
  incast: 'Incast',
  pfc_storm: 'PFC storm',
  wearing: 'Wearing cable',
};
/** The fault's kind as a heading. A kind this page does not know is shown as the hub calls it. */
export function kind(k: string): string {
  return KINDS[k] ?? k.replaceAll('_', ' ');
}

/** How large a fault is, in its own unit. */
export function size(f: { kind: string; rate: number; delay_excess_ns: number }): string {
  if (f.kind === 'delay') return `+${delay(f.delay_excess_ns)}`;
  if (f.kind === 'agent_stopped') return NONE;
  return rate(f.rate);
}

/** What an on-call person should make of a confidence (docs/diagnosis.md: above 0.9 means act). */
export function advice(c: number): 'act' | 'look' {
  return c > 0.9 ? 'act' : 'look';
}
