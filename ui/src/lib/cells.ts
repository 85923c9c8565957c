// Cells of a result: as text, in order, and how wide. Pure.
//
// Invariant: nothing is rounded away: a number reads as the hub wrote it.
import type { Cell } from './api';

export const numeric = (type: string): boolean => type === 'int' || type === 'float';

export function cell(v: Cell, type: string): string {
  if (v === null) return 'null';
  if (typeof v === 'object') return JSON.stringify(v);
  if (typeof v === 'number' && type === 'int') return v.toLocaleString('en-US', { maximumFractionDigits: 0 });
  return String(v);
}

/** null last, numbers as numbers, text as a person counts (host2 before host10). */
const collator = new Intl.Collator('en', { numeric: true });
export function compare(a: Cell, b: Cell): number {
  if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1;
  if (typeof a === 'number' && typeof b === 'number') return a - b;
  if (typeof a === 'boolean' && typeof b === 'boolean') return Number(a) - Number(b);
  return collator.compare(typeof a === 'object' ? JSON.stringify(a) : String(a), typeof b === 'object' ? JSON.stringify(b) : String(b));
}

/** Width of each column in characters, from its name and its first rows; at most 60. */
export function widths(columns: readonly { name: string; type: string }[], rows: readonly Cell[][]): number[] {
  return columns.map((c, i) => {
    let w = c.name.length + 3;
    for (const r of rows.slice(0, 100)) w = Math.max(w, cell(r[i] ?? null, c.type).length);
    return Math.min(60, w) + 4;
  });
}
