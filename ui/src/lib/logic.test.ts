// Small pieces: freshness, steps, patterns, names, cells, series, views, questions, verdicts, Markdown.
import { describe, expect, it } from 'vitest';
import type { Incident, Matrix, Now, QueryResult, Schema, Series } from './api';
import { about, axes, plotted, remember } from './ask';
import { cell, compare, widths } from './cells';
import { freshness } from './fresh';
import { meaning as shortcut } from './keys';
import { parse, plain, slug, words } from './markdown';
import { byName, find } from './names';
import { cells, median, patternText, rectangles, runs, stepAt, stepsOf } from './patterns';
import { COVERAGE, LOSS, step, UNMEASURED } from './scale';
import { binned } from './series';
import { quiet, ranked, verdict } from './verdict';
import { clamp, distance, fit, show, zoomAt } from './view';
import { linkEnds, meaning, otherWay } from './where';

describe('freshness', () => {
  it('is live only while ticks come', () => {
    expect(freshness(null, null, 5)).toEqual({ state: 'connecting' });
    expect(freshness(true, null, 5)).toEqual({ state: 'connecting' });
    expect(freshness(true, 1000, 1900)).toEqual({ state: 'live' });
    expect(freshness(true, 1000, 5000)).toEqual({ state: 'live' });
    expect(freshness(true, 1000, 5001)).toEqual({ state: 'old', age_ms: 4001 });
    expect(freshness(false, 1000, 1100)).toEqual({ state: 'lost', age_ms: 100 });
    expect(freshness(false, null, 1100)).toEqual({ state: 'lost', age_ms: null });
  });
});

describe('steps', () => {
  it('keeps what was not measured apart from what is well', () => {
    expect(step(null, LOSS)).toBe(UNMEASURED);
    expect(step(Number.NaN, LOSS)).toBe(UNMEASURED);
    expect(step(0, LOSS)).toBe(0);
  });
  it('takes the lower end in', () => expect([9.9e-5, 1e-4, 1e-3, 1e-2, 0.1, 1].map((r) => step(r, LOSS))).toEqual([0, 1, 2, 3, 4, 4]));
  it('knows that no probe is the worst coverage', () => expect([0, 1, 100, 5000].map((p) => step(p, COVERAGE))).toEqual([0, 1, 2, 3]));
});

const matrix: Matrix = {
  at: '', by: 'host', labels: ['host0', 'host1', 'host2', 'host3'], from: [0, 1, 1], to: [1, 0, 2], sent: [100, 100, 0], lost: [0, 2, 0], p50_ns: [1000, 8000, null], p99_ns: [null, null, null], patterns: [],
};
describe('matrix', () => {
  it('has a cell only for what was measured', () => {
    const at = cells(matrix);
    expect([at[1], at[4], at[6], at[2]]).toEqual([0, 1, 2, -1]);
    const t = stepsOf(matrix, 'loss');
    expect([at[1]!, at[4]!, at[6]!, -1].map((i) => stepAt(matrix, i, 'loss', t))).toEqual([0, 3, UNMEASURED, UNMEASURED]);
  });
  it('compares delays with the median pair', () => {
    expect(median([null, 3, 1, 2])).toBe(2);
    expect(stepAt(matrix, 1, 'p50', stepsOf({ ...matrix, p50_ns: [1000, 8000, 1000] }, 'p50'))).toBe(3);
  });
  it('puts neighbours together', () => expect(runs([3, 1, 2, 7, 7])).toEqual([[1, 3], [7, 7]]));
  it('draws each pattern where it is', () => {
    const at = (kind: 'row' | 'column' | 'cross' | 'block', from: string[], to: string[]) => rectangles({ kind, from, to, text: '' }, matrix.labels);
    expect(at('row', ['host3'], [])).toEqual([{ from: [3, 3], to: [0, 3] }]);
    expect(at('column', [], ['host1'])).toEqual([{ from: [0, 3], to: [1, 1] }]);
    expect(at('cross', ['host2'], ['host2'])).toEqual([{ from: [2, 2], to: [0, 3] }, { from: [0, 3], to: [2, 2] }]);
    expect(at('block', ['host0', 'host1'], ['host3'])).toEqual([{ from: [0, 1], to: [3, 3] }]);
    expect(at('block', ['host0', 'gone'], ['host1', 'host3'])).toHaveLength(2);
  });
  it('names each pattern', () => {
    for (const kind of ['row', 'column', 'cross', 'block'] as const) expect(patternText(kind).name.toLowerCase()).toBe(kind);
    expect(patternText('row').hint).toContain('one sender');
    expect(patternText('column').hint).toContain('one receiver');
  });
});

describe('names', () => {
  const all = ['host1', 'host10', 'p0-leaf1:host1', 'p0-leaf1', 'p0-leaf1:p0-spine2'].map((name) => ({ name, kind: '', to: name }));
  it('finds the exact one first, then what begins with it', () => expect(find(all, 'host1').map((n) => n.name)).toEqual(['host1', 'host10', 'p0-leaf1:host1']));
  it('takes several words', () => expect(find(all, 'spine2 leaf1').map((n) => n.name)).toEqual(['p0-leaf1:p0-spine2']));
  it('counts as people do', () => expect(['host10', 'host2'].sort(byName)).toEqual(['host2', 'host10']));
  it('reads links', () => {
    expect(linkEnds('p0-leaf1:p0-spine2#1')).toEqual(['p0-leaf1', 'p0-spine2']);
    expect(linkEnds('p0-leaf1')).toBeNull();
    expect(otherWay('p0-leaf1:p0-spine2#1')).toBe('p0-spine2:p0-leaf1#1');
    expect(otherWay('host3')).toBeNull();
  });
  it('says what a name means', () => {
    expect(meaning('link', 'p0-leaf1:p0-spine2', ['p0-leaf1:p0-spine2'])).toBe('What p0-leaf1 sends to p0-spine2. The other direction is not blamed.');
    expect(meaning('link', 'a:b', [])).toBe('What a sends to b.');
    expect(meaning('link', 'a:b', ['a:b', 'b:a'])).toContain('Both directions');
    expect(meaning('nic', 'host3-p1', [])).toBe('The port of host3 into plane 1, or its cable.');
  });
});

describe('cells', () => {
  it('sorts nulls last and text as people count', () => expect(['host10', null, 'host2'].sort(compare)).toEqual(['host2', 'host10', null]));
  it('writes numbers as they are', () => expect([cell(0.010279001, 'float'), cell(12_345, 'int'), cell(null, 'int'), cell({ a: 1 }, 'json')]).toEqual(['0.010279001', '12,345', 'null', '{"a":1}']));
  it('gives a column the room its content needs', () => expect(widths([{ name: 'a', type: 'text' }, { name: 'b', type: 'text' }], [['x'.repeat(200), 'y']])).toEqual([64, 8]));
});

describe('series', () => {
  const s: Series = { step_ms: 1000, start_ms: 0, crossing: { sent: [10, 10, null, null], hurt: [1, 3, null, null] }, elsewhere: { sent: [100, 0, 0, 0], hurt: [0, 0, 0, 0] }, delay_excess_ns: [null, 4, null, null] };
  it('puts steps together and leaves gaps open', () => {
    const b = binned(s, 2);
    expect(b.t).toEqual([1, 3]);
    expect(b.crossing).toEqual([0.2, null]);
    expect(b.crossingSent).toEqual([10, null]);
    expect(b.elsewhere).toEqual([0, null]);
    expect(b.delay).toEqual([4, null]);
  });
  it('stands nothing', () => expect(binned({ ...s, crossing: { sent: [], hurt: [] }, elsewhere: { sent: [], hurt: [] }, delay_excess_ns: [] }).t).toEqual([]));
});

describe('view', () => {
  it('keeps the point under the pointer', () => {
    const v = zoomAt({ k: 1, x: 10, y: 20 }, 2, 100, 50, 0.1);
    expect([(100 - v.x) / v.k, (50 - v.y) / v.k]).toEqual([90, 30]);
    expect(zoomAt({ k: 1, x: 0, y: 0 }, 1e9, 0, 0, 0.1).k).toBe(4);
    expect(zoomAt({ k: 1, x: 0, y: 0 }, 1e-9, 0, 0, 0.1).k).toBe(0.1);
  });
  it('fits, shows and never loses the world', () => {
    const v = fit(1000, 500, 2000, 200);
    expect(v.x * 2 + 2000 * v.k).toBeCloseTo(1000);
    const s = show(1000, 500, { x: 100, y: 100, w: 50, h: 10 });
    expect(s.x + 125 * s.k).toBeCloseTo(500);
    expect(clamp({ k: 1, x: 1e6, y: -1e6 }, 1000, 500, 2000, 200)).toEqual({ k: 1, x: 920, y: -120 });
  });
  it('measures to a segment, not to its line', () => expect([distance(0, 5, 0, 0, 10, 0), distance(20, 0, 0, 0, 10, 0), distance(3, 4, 0, 0, 0, 0)]).toEqual([5, 10, 5]));
});

const schema: Schema = {
  tables: [
    { name: 'runs', text: '', columns: [{ name: 'id', type: 'int', text: '' }] },
    { name: 'observations', text: '', columns: [{ name: 'at', type: 'time', text: '' }, { name: 'link', type: 'text', text: '' }, { name: 'host', type: 'int', text: '' }] },
  ],
  functions: [], examples: [],
};
describe('questions', () => {
  it('asks about a name what the schema can answer', () => {
    expect(about(schema, "p0-leaf1:it's")).toBe("SELECT *\nFROM observations\nWHERE link = 'p0-leaf1:it''s'\nORDER BY at DESC\nLIMIT 100");
    expect(about(schema, 'host3')).toBeNull();
  });
  it('remembers each once, newest first', () => expect(remember(['b', 'a'], ' a ')).toEqual(['a', 'b']));
  const r: QueryResult = { columns: [{ name: 'v', type: 'int' }, { name: 't', type: 'time' }, { name: 'n', type: 'text' }], rows: [[2, '1970-01-01T00:00:20Z', 'x'], [1, '1970-01-01T00:00:10Z', 'y'], [9, null, 'z']], truncated: false, elapsed_ms: 0 };
  it('chooses axes, time first', () => expect(axes(r, '', [])).toEqual({ x: 't', y: ['v'], xs: ['v', 't'], ys: ['v'] }));
  it('plots in the order of x, without rows that have none', () => expect(plotted(r, 't', ['v'])).toEqual({ x: [10, 20], ys: [[1, 2]], time: true }));
});

describe('verdict', () => {
  const now = { well: true, planes: [{ sent_10s: 5 }], agents: { reporting: 1, expected: 2, silent: [] } } as unknown as Now;
  it('calls nothing well that nobody measures', () => {
    expect(verdict(now)).toBe('well');
    expect(verdict({ ...now, well: false })).toBe('sick');
    expect(verdict({ ...now, agents: { ...now.agents, reporting: 0 } })).toBe('blind');
    expect(verdict({ ...now, planes: [] })).toBe('blind');
    const silent = { ...now, well: false, agents: { ...now.agents, reporting: 0 } };
    expect(verdict(silent)).toBe('blind');
    expect(verdict({ ...silent, planes: [{ ...now.planes[0]!, sick: 1 }] })).toBe('sick');
  });
  it('shows the loudest and surest first', () => {
    const i = (id: string, state: string, confidence: number, snoozed: string | null = null) => ({ id, state, confidence, opened_at: '2026-01-01T00:00:00Z', care: { snoozed_until: snoozed } }) as unknown as Incident;
    const at = Date.parse('2026-01-02T00:00:00Z');
    const all = [i('closed', 'closed', 1), i('asleep', 'open', 0.99, '2026-01-03T00:00:00Z'), i('b', 'open', 0.8), i('a', 'open', 0.9), i('awake', 'open', 0.7, '2026-01-01T00:00:00Z')];
    expect(ranked(all, at).map((x) => x.id)).toEqual(['a', 'b', 'awake', 'asleep', 'closed']);
    expect(quiet(all[1]!, at)).toBe(true);
  });
});

describe('markdown', () => {
  it('makes no markup of HTML', () => {
    const types = new Set<string>();
    const walk = (list: readonly { type: string; tokens?: unknown }[]) => list.forEach((t) => { types.add(t.type); if (Array.isArray(t.tokens)) walk(t.tokens as { type: string }[]); });
    walk(parse('a <b>x</b>\n\n<script>alert(1)</script>\n') as { type: string }[]);
    expect(types.has('html')).toBe(true);
  });
  it('anchors headings as links expect', () => {
    const heading = parse('## Reading `selvedge explain`, & more')[0] as { tokens?: never[] };
    expect(slug(words(heading.tokens ?? []))).toBe('reading-selvedge-explain--more');
    expect(plain('a &lt;b&gt; &amp;amp;')).toBe('a <b> &amp;');
  });
});

describe('shortcuts', () => {
  it('goes places in two keys and acts in one', () => {
    expect(shortcut('', 'g')).toEqual({ begin: 'g' });
    expect(shortcut('g', 'f')).toEqual({ go: '/fabric' });
    expect(shortcut('', 'f')).toBeNull();
    expect(shortcut('', '?')).toEqual({ act: '?' });
  });
});
