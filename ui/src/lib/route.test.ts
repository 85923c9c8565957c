// Addresses: every state comes back from its address, and no link leads where it must not.
import { describe, expect, it } from 'vitest';
import { askUrl, docHref, fabricUrl, incidentsUrl, matrixUrl, parseAsk, parseFabric, parseIncidents, parseMatrix, parsePaths, pathsUrl, quote, route } from './route';

const query = (url: string) => new URL(url, 'http://hub').searchParams;

describe('route', () => {
  it.each([
    ['/', { page: 'now' }], ['/fabric', { page: 'fabric' }], ['/incidents', { page: 'incidents' }], ['/incidents/inc-3', { page: 'incident', id: 'inc-3' }],
    ['/incidents/inc-3/retrospective', { page: 'retrospective', id: 'inc-3' }], ['/incidents/inc-3/else', { page: 'missing' }], ['/docs', { page: 'docs', path: '' }],
    ['/docs/guides/loss.md', { page: 'docs', path: 'guides/loss.md' }], ['/fabric/x', { page: 'missing' }], ['/constructor', { page: 'missing' }], ['/%E0%A4%A', { page: 'missing' }],
  ])('%s', (path, is) => expect(route(path)).toEqual(is));
});

describe('an address holds the whole state', () => {
  it('of the map', () => {
    for (const layer of ['loss', 'delay', 'load', 'coverage', 'incidents'] as const) {
      for (const select of [null, 'p0-leaf1:p0-spine2#1', 'host3']) {
        for (const at of [null, '2026-01-31T03:12:08Z']) {
          const s = { layer, select, at, table: at === null };
          expect(parseFabric(query(fabricUrl(s)))).toEqual(s);
        }
      }
    }
  });
  it('of the matrix', () => {
    const s = { by: 'leaf' as const, plane: '1', show: 'p99' as const, pair: ['leaf1', 'leaf2'] as [string, string] };
    expect(parseMatrix(query(matrixUrl(s)))).toEqual(s);
    expect(matrixUrl({ by: 'host', plane: 'all', show: 'loss', pair: null })).toBe('/matrix');
  });
  it('of lists, paths and questions', () => {
    const i = { state: 'open' as const, kind: 'loss', text: 'p0 & p1=?' };
    expect(parseIncidents(query(incidentsUrl(i)))).toEqual(i);
    const p = { from: 'host3', to: 'host12', sort: 'delay' as const };
    expect(parsePaths(query(pathsUrl(p)))).toEqual(p);
    const a = { sql: "SELECT '%&=+#'\nFROM x -- ü", view: 'plot' as const, x: 't', y: ['lost', 'sent'] };
    expect(parseAsk(query(askUrl(a)))).toEqual(a);
  });
  it('and what makes no sense falls back', () => {
    expect(parseFabric(query('/fabric?layer=heat&at=yesterday'))).toEqual({ layer: 'loss', select: null, at: null, table: false });
    expect(parseMatrix(query('/matrix?plane=x&from=host1'))).toEqual({ by: 'host', plane: 'all', show: 'loss', pair: null });
  });
});

describe('links of a document', () => {
  it.each([
    ['probing.md#delays', 'diagnosis.md', '/docs/probing.md#delays'], ['../api.md', 'guides/README.md', '/docs/api.md'], ['loss.md', 'guides/README.md', '/docs/guides/loss.md'],
    ['#kinds', 'diagnosis.md', '#kinds'], ['https://example.org/x', 'a.md', 'https://example.org/x'],
  ])('%s from %s', (href, from, to) => expect(docHref(href, from)?.href).toBe(to));
  it.each(['javascript:alert(1)', 'JaVaScRiPt:alert(1)', 'data:text/html,x', 'vbscript:x', '//evil.example/x', '../../etc/passwd'])('%s leads nowhere', (href) => expect(docHref(href, 'guides/a.md') === null || href === '').toBe(true));
});

it('quotes for SQL', () => expect(quote("o'neil")).toBe("'o''neil'"));
