// Questions: what was asked before, a first question about a name, and which columns a plot can use. Pure but for
// localStorage, which may be full or forbidden and is then done without.
import type { Cell, QueryResult, Schema } from './api';
import { numeric } from './cells';
import { quote } from './route';

const KEY = 'selvedge.asked';
const MOST = 40;

export function remember(asked: readonly string[], sql: string): string[] {
  const s = sql.trim();
  return s ? [s, ...asked.filter((a) => a !== s)].slice(0, MOST) : [...asked];
}
export function asked(): string[] {
  try {
    const kept: unknown = JSON.parse(localStorage.getItem(KEY) ?? '[]');
    return Array.isArray(kept) ? kept.filter((s): s is string => typeof s === 'string') : [];
  } catch {
    return [];
  }
}
export function keep(list: readonly string[]): void {
  try {
    localStorage.setItem(KEY, JSON.stringify(list));
  } catch {
    // the history is a convenience
  }
}

/** Where a name may stand, the likeliest first. */
function columnsFor(name: string): string[] {
  if (name.includes(':')) return ['link', 'link_name', 'name', 'component'];
  if (/-(leaf|spine)\d+$/.test(name)) return ['switch', 'from_node', 'node', 'component', 'name'];
  if (/-p\d+(r\d+)?$/.test(name)) return ['nic', 'node', 'component', 'name'];
  return ['host', 'producer', 'node', 'component', 'name'];
}

/** A first question about a name, made of what the schema really has. Null where nothing there takes names. */
export function about(schema: Schema, name: string): string | null {
  for (const wanted of columnsFor(name)) {
    for (const t of schema.tables) {
      if (!t.columns.some((c) => c.name === wanted && c.type === 'text')) continue;
      const time = t.columns.find((c) => c.type === 'time');
      return `SELECT *\nFROM ${t.name}\nWHERE ${wanted} = ${quote(name)}${time ? `\nORDER BY ${time.name} DESC` : ''}\nLIMIT 100`;
    }
  }
  return null;
}

/** Columns for the axes: x is the first time or number, y the numbers after it. */
export function axes(r: QueryResult, x: string, y: readonly string[]): { x: string; y: string[]; xs: string[]; ys: string[] } {
  const xs = r.columns.filter((c) => c.type === 'time' || numeric(c.type)).map((c) => c.name);
  const takes = (n: string) => xs.includes(n);
  const first = takes(x) ? x : (r.columns.find((c) => c.type === 'time')?.name ?? xs[0] ?? '');
  const ys = r.columns.filter((c) => numeric(c.type) && c.name !== first).map((c) => c.name);
  const chosen = y.filter((n) => ys.includes(n));
  return { x: first, y: chosen.length > 0 ? chosen : ys.slice(0, 1), xs, ys };
}

/** The plot's columns, in the order of x; rows without an x are left out. */
export function plotted(r: QueryResult, x: string, y: readonly string[]): { x: number[]; ys: (number | null)[][]; time: boolean } {
  const at = (n: string) => r.columns.findIndex((c) => c.name === n);
  const time = r.columns[at(x)]?.type === 'time';
  const number = (v: Cell | undefined): number | null => {
    if (typeof v === 'number') return v;
    if (time && typeof v === 'string') {
      const t = Date.parse(v) / 1000;
      return Number.isFinite(t) ? t : null;
    }
    return null;
  };
  const rows = r.rows.map((row) => ({ x: number(row[at(x)]), row })).filter((p): p is { x: number; row: Cell[] } => p.x !== null);
  rows.sort((a, b) => a.x - b.x);
  return { x: rows.map((p) => p.x), ys: y.map((n) => rows.map((p) => (typeof p.row[at(n)] === 'number' ? (p.row[at(n)] as number) : null))), time };
}
