// The matrix: its cells, what to call a pattern in it, and where to draw one. Pure.
//
// Invariant: a pair that was not measured has no cell, and is never taken for a good one.
import type { Matrix, Maybe, Pattern, PatternKind } from './api';
import { LOSS, step, UNMEASURED, type Step } from './scale';

export type Show = 'loss' | 'p50' | 'p99';

/** From pair to its place in the columns; -1 where it was not measured. */
export function cells(m: Matrix): Int32Array {
  const n = m.labels.length;
  const at = new Int32Array(n * n).fill(-1);
  m.from.forEach((f, i) => {
    const t = m.to[i]!;
    if (f >= 0 && f < n && t >= 0 && t < n) at[f * n + t] = i;
  });
  return at;
}

export function value(m: Matrix, i: number, show: Show): Maybe {
  if (i < 0) return null;
  if (show === 'loss') return m.sent[i]! > 0 ? m.lost[i]! / m.sent[i]! : null;
  return (show === 'p50' ? m.p50_ns : m.p99_ns)[i] ?? null;
}

export function median(values: readonly Maybe[]): Maybe {
  const v = values.filter((x): x is number => x !== null).sort((a, b) => a - b);
  return v.length === 0 ? null : v[Math.floor(v.length / 2)]!;
}

/** Delays are compared with the median pair of this matrix: nothing else says what is usual here. */
export function delaySteps(usual: number): Step[] {
  return [
    { from: 0, label: 'below 1.5 × the median pair' },
    { from: usual * 1.5, label: '1.5 × and more' },
    { from: usual * 2.5, label: '2.5 × and more' },
    { from: usual * 5, label: '5 × and more' },
    { from: usual * 10, label: '10 × and more' },
  ];
}
export function stepsOf(m: Matrix, show: Show): readonly Step[] {
  if (show === 'loss') return LOSS;
  return delaySteps(median(show === 'p50' ? m.p50_ns : m.p99_ns) ?? 1);
}
export function stepAt(m: Matrix, i: number, show: Show, table: readonly Step[]): number {
  const v = value(m, i, show);
  return v === null ? UNMEASURED : step(v, table);
}

/** Neighbours put together: [1,2,3,7] is 1 to 3 and 7 to 7. */
export function runs(indices: readonly number[]): [number, number][] {
  const out: [number, number][] = [];
  for (const i of [...new Set(indices)].sort((a, b) => a - b)) {
    const last = out.at(-1);
    if (last && i === last[1] + 1) last[1] = i;
    else out.push([i, i]);
  }
  return out;
}

/** The rectangles of a pattern, in cells, both ends inclusive. A cross is its row and its column. */
export function rectangles(p: Pattern, labels: readonly string[]): { from: [number, number]; to: [number, number] }[] {
  const at = new Map(labels.map((l, i) => [l, i]));
  const places = (names: readonly string[]) => runs(names.map((n) => at.get(n)).filter((i): i is number => i !== undefined));
  const everything: [number, number] = [0, labels.length - 1];
  const froms = places(p.from);
  const tos = places(p.to);
  if (p.kind === 'cross') {
    const both = froms.length > 0 ? froms : tos;
    return both.flatMap((r) => [{ from: r, to: everything }, { from: everything, to: r }]);
  }
  const f = froms.length > 0 ? froms : [everything];
  const t = tos.length > 0 ? tos : [everything];
  return f.flatMap((from) => t.map((to) => ({ from, to })));
}

const TEXT: Record<PatternKind, [string, string]> = {
  row: ['Row', 'one sender suffers towards many: look at what it sends over'],
  column: ['Column', 'many suffer towards one receiver: look at what it receives over'],
  cross: ['Cross', 'one suffers both ways: look at the host, its NIC or its leaf'],
  block: ['Block', 'a group suffers towards a group: look at what only these share, as the links between their leaves'],
};
/** The pattern's name, and what such a shape usually points to. */
export function patternText(kind: PatternKind): { name: string; hint: string } {
  const [name, hint] = TEXT[kind];
  return { name, hint };
}
