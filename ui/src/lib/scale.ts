// From a figure to one of six steps, for every picture: colour and line width go together, so that colour is never the
// only sign. Pure.
//
// Invariant: step 0 is "well", -1 is "not measured"; the legend is made of the same table as the picture.
import type { Layer } from './route';

export interface Step {
  /** Lower end, inclusive. */
  from: number;
  label: string;
}
export const LOSS: readonly Step[] = [
  { from: 0, label: 'below 0.01 %' },
  { from: 1e-4, label: '0.01 % and more' },
  { from: 1e-3, label: '0.1 % and more' },
  { from: 1e-2, label: '1 % and more' },
  { from: 1e-1, label: '10 % and more' },
];
export const DELAY: readonly Step[] = [
  { from: 0, label: 'usual, below 10 µs more' },
  { from: 10_000, label: '10 µs more' },
  { from: 50_000, label: '50 µs more' },
  { from: 200_000, label: '200 µs more' },
  { from: 1_000_000, label: '1 ms more' },
];
/** Probes a minute: few is worth a look, so the scale runs the other way. */
export const COVERAGE: readonly Step[] = [
  { from: 0, label: 'none: a fault here is not seen' },
  { from: 1, label: 'below 100 a minute' },
  { from: 100, label: '100 a minute and more' },
  { from: 1000, label: '1,000 a minute and more' },
  { from: 10_000, label: '10,000 a minute and more' },
];
export const UNMEASURED = -1;

export function step(value: number | null | undefined, table: readonly Step[]): number {
  if (value === null || value === undefined || !Number.isFinite(value)) return UNMEASURED;
  let s = 0;
  for (let i = 0; i < table.length; i++) if (value >= table[i]!.from) s = i;
  return s;
}

/** The table of a layer; none where there is nothing to measure yet. */
export function table(layer: Layer): readonly Step[] | null {
  switch (layer) {
    case 'loss':
      return LOSS;
    case 'delay':
      return DELAY;
    case 'coverage':
      return COVERAGE;
    default:
      return null;
  }
}
