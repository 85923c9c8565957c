// Addresses: which page a path means, and what its query holds. Pure; the browser's part is in nav.svelte.ts.
//
// Invariant: parse(format(x)) = x for every state, so that an address can be sent to somebody else.

export type Route =
  | { page: 'now' | 'fabric' | 'matrix' | 'incidents' | 'paths' | 'ask' | 'login' | 'missing' }
  | { page: 'incident' | 'retrospective'; id: string }
  | { page: 'docs'; path: string };

const PLAIN = { '': 'now', fabric: 'fabric', matrix: 'matrix', incidents: 'incidents', paths: 'paths', ask: 'ask', login: 'login' } as const;

function decode(s: string): string {
  try {
    return decodeURIComponent(s);
  } catch {
    return s;
  }
}

export function route(pathname: string): Route {
  const parts = pathname.split('/').filter(Boolean).map(decode);
  const [head = '', second, third] = parts;
  if (head === 'docs') return { page: 'docs', path: parts.slice(1).join('/') };
  if (head === 'incidents' && second) {
    if (parts.length === 2) return { page: 'incident', id: second };
    if (parts.length === 3 && third === 'retrospective') return { page: 'retrospective', id: second };
    return { page: 'missing' };
  }
  if (parts.length <= 1 && Object.hasOwn(PLAIN, head)) return { page: PLAIN[head as keyof typeof PLAIN] };
  return { page: 'missing' };
}

export const LAYERS = ['loss', 'delay', 'load', 'coverage', 'incidents'] as const;
export type Layer = (typeof LAYERS)[number];

export interface FabricState {
  layer: Layer;
  /** Name of the chosen node or link. */
  select: string | null;
  /** RFC 3339; null is live. */
  at: string | null;
  table: boolean;
}
export interface MatrixState {
  by: 'host' | 'leaf';
  plane: string;
  show: 'loss' | 'p50' | 'p99';
  pair: [string, string] | null;
}
export interface IncidentsState {
  state: 'open' | 'closed' | 'all';
  kind: string;
  text: string;
}
export interface PathsState {
  from: string;
  to: string;
  sort: 'loss' | 'delay' | 'name';
}
export interface AskState {
  sql: string;
  view: 'table' | 'plot';
  x: string;
  y: string[];
}

/** An address from a path and its query; what is empty or null is left out. */
export function address(path: string, query: Record<string, string | null | undefined | false>): string {
  const q = new URLSearchParams();
  for (const [k, v] of Object.entries(query)) if (v) q.set(k, v);
  const s = q.toString();
  return s ? `${path}?${s}` : path;
}

const among = <T extends string>(v: string | null, all: readonly T[], otherwise: T): T =>
  all.includes(v as T) ? (v as T) : otherwise;

export function parseFabric(q: URLSearchParams): FabricState {
  const at = q.get('at');
  return {
    layer: among(q.get('layer'), LAYERS, 'loss'),
    select: q.get('select'),
    at: at !== null && Number.isFinite(Date.parse(at)) ? at : null,
    table: q.get('table') === '1',
  };
}
export function fabricUrl(s: Partial<FabricState>): string {
  return address('/fabric', {
    layer: s.layer === 'loss' ? null : s.layer,
    select: s.select,
    at: s.at,
    table: s.table && '1',
  });
}
export function parseMatrix(q: URLSearchParams): MatrixState {
  const from = q.get('from');
  const to = q.get('to');
  const plane = q.get('plane');
  return {
    by: among(q.get('by'), ['host', 'leaf'] as const, 'host'),
    plane: plane !== null && /^\d+$/.test(plane) ? plane : 'all',
    show: among(q.get('show'), ['loss', 'p50', 'p99'] as const, 'loss'),
    pair: from && to ? [from, to] : null,
  };
}
export function matrixUrl(s: Partial<MatrixState>): string {
  return address('/matrix', {
    by: s.by === 'host' ? null : s.by,
    plane: s.plane === 'all' ? null : s.plane,
    show: s.show === 'loss' ? null : s.show,
    from: s.pair?.[0],
    to: s.pair?.[1],
  });
}
export function parseIncidents(q: URLSearchParams): IncidentsState {
  return { state: among(q.get('state'), ['open', 'closed', 'all'] as const, 'all'), kind: q.get('kind') ?? '', text: q.get('q') ?? '' };
}
export function incidentsUrl(s: Partial<IncidentsState>): string {
  return address('/incidents', { state: s.state === 'all' ? null : s.state, kind: s.kind, q: s.text });
}
export function parsePaths(q: URLSearchParams): PathsState {
  return { from: q.get('from') ?? '', to: q.get('to') ?? '', sort: among(q.get('sort'), ['loss', 'delay', 'name'] as const, 'loss') };
}
export function pathsUrl(s: Partial<PathsState>): string {
  return address('/paths', { from: s.from, to: s.to, sort: s.sort === 'loss' ? null : s.sort });
}
export function parseAsk(q: URLSearchParams): AskState {
  return { sql: q.get('sql') ?? '', view: among(q.get('view'), ['table', 'plot'] as const, 'table'), x: q.get('x') ?? '', y: (q.get('y') ?? '').split(',').filter(Boolean) };
}
export function askUrl(s: Partial<AskState>): string {
  return address('/ask', { sql: s.sql, view: s.view === 'plot' ? 'plot' : null, x: s.x, y: s.y?.join(',') });
}

/** A quoted SQL string. */
export function quote(s: string): string {
  return `'${s.replaceAll("'", "''")}'`;
}

/**
 * Where a link of a documentation page leads: another page here, an anchor, a page outside, or nowhere (anything but
 * http, https and mailto). `from` is the path of the page the link stands on.
 */
export function docHref(href: string, from: string): { href: string; outside: boolean } | null {
  if (href.startsWith('#')) return { href, outside: false };
  if (/^(https?:\/\/|mailto:)/i.test(href)) return { href, outside: true };
  if (/^[a-z][a-z0-9+.-]*:/i.test(href) || href.startsWith('//')) return null;
  if (href.startsWith('/')) return { href, outside: false };
  const [file = '', hash] = href.split('#', 2);
  const parts = from.split('/').slice(0, -1);
  for (const p of file.split('/')) {
    if (p === '..') {
      if (parts.length === 0) return null;
      parts.pop();
    } else if (p && p !== '.') parts.push(p);
  }
  return { href: `/docs/${parts.map(encodeURIComponent).join('/')}${hash ? `#${hash}` : ''}`, outside: false };
}
