// The hub's HTTP interface: every type and every call, written once.
//
// Invariants: every request is same-origin and under /api/v1; whatever changes something carries the CSRF token of
// `me`; an answer that is not 2xx becomes an ApiError with the hub's own words.

export interface Me {
  name: string;
  role: 'viewer' | 'operator' | 'admin';
  /** Whose hosts this person sees; null: the whole fabric. */
  tenant: string | null;
  auth: 'none' | 'session' | 'token';
  csrf: string;
  login: 'local' | 'oidc' | 'none';
}
export type ComponentKind = 'link' | 'switch' | 'nic' | 'host';
export type Judgement = 'right' | 'wrong' | 'partly';
export interface Fault {
  kind: string;
  rate: number;
  rate_low: number;
  rate_high: number;
  delay_excess_ns: number;
  flap: { period_s: number; duty: number } | null;
}
export interface Care {
  acknowledged_by: string | null;
  acknowledged_at: string | null;
  assigned_to: string | null;
  snoozed_until: string | null;
  closed_by: string | null;
}
export interface Incident {
  id: string;
  state: 'open' | 'closed';
  component: { kind: ComponentKind; name: string; id: number };
  alternatives: string[];
  links: number[];
  link_names: string[];
  fault: Fault;
  confidence: number;
  first_seen: string;
  last_seen: string;
  opened_at: string;
  closed_at: string | null;
  times_reopened: number;
  summary: string;
  label: { judgement: Judgement; note: string; at: string } | null;
  care?: Care;
}
export interface Tally {
  observations: number;
  sent: number;
  hurt: number;
}
export interface IncidentDetail extends Incident {
  evidence: {
    crossing_hurt: Tally;
    crossing_fine: Tally;
    elsewhere_hurt: Tally;
    moments: number;
    exemplars: { producer: string; sequence: number }[];
    /** What counters say; a hub of before has none. */
    counters?: { component: string; counter: string; events: number; of: number; weight: number }[];
    victims?: string[];
    senders?: number;
  };
  timeline: { at: string; change: string; text: string }[];
  notes?: { at: string; by: string; text: string }[];
  hurt?: { hosts: string[]; pairs: number; pairs_shown: [string, string][] };
}
export type Maybe = number | null;
export interface Series {
  step_ms: number;
  start_ms: number;
  crossing: { sent: Maybe[]; hurt: Maybe[] };
  elsewhere: { sent: Maybe[]; hurt: Maybe[] };
  delay_excess_ns: Maybe[];
}
export interface FabricInfo {
  name: string;
  mode: string;
  epoch: string;
  planes: number;
  leaves: number;
  spines: number;
  hosts: number;
  nics: number;
  switches: number;
  links: number;
  toml: string;
}
export type NodeKind = 'host' | 'nic' | 'leaf' | 'spine';
export interface FabricMap {
  epoch: string;
  planes: number;
  nodes: { name: string[]; kind: NodeKind[]; plane: number[] };
  links: { id: number[]; name: string[]; a: number[]; b: number[]; plane: number[] };
}
export interface Health {
  at: string;
  live: boolean;
  links: {
    id: number[];
    sent: number[];
    lost: number[];
    rate: number[];
    delay_excess_ns: number[];
    probes: number[];
  };
  incidents: Incident[];
}
export interface LinkHealth {
  id: number;
  name: string;
  plane: number;
  sent_10s: number;
  lost_10s: number;
  rate_10s: number;
  sent_60s: number;
  lost_60s: number;
  rate_60s: number;
  delay_excess_ns: number;
  incidents: string[];
}
export interface PathInfo {
  id: number;
  name: string;
  plane: number;
  rate_10s: number;
  rate_60s: number;
  delay_excess_ns: number;
  measured?: {
    sent: number;
    lost: number;
    lost_round_trip: number;
    rate: number;
    delay_min_ns: Maybe;
    delay_p50_ns: Maybe;
    delay_max_ns: Maybe;
  } | null;
  hops: LinkHealth[];
}
export interface Paths {
  from: string;
  to: string;
  paths: PathInfo[];
  omitted: number;
}
export interface Top {
  at: string;
  incidents: Incident[];
  links: LinkHealth[];
  paths: PathInfo[];
  agents_reporting: number;
  agents_expected: number;
  observations_stored: number;
  packets: number;
}
export interface Agent {
  host: string;
  state: 'reporting' | 'connected' | 'silent' | 'away';
  software: string;
  last_heard: string;
  batches: number;
  observations: number;
  lost: number;
  counters: Record<string, number>;
}
export interface PrecisionRow {
  kind: string;
  right: number;
  wrong: number;
  partly: number;
  precision: number | null;
}
export interface Precision {
  incidents: number;
  judged: number;
  rows: PrecisionRow[];
}
export interface Now {
  at: string;
  well: boolean;
  sentence: string;
  planes: { plane: number; links: number; sent_10s: number; lost_10s: number; rate_10s: number; sick: number }[];
  agents: { reporting: number; expected: number; silent: string[] };
  changes: { at: string; kind: string; text: string; link: string | null }[];
  precision: Precision;
  ingest: { observations_per_s: number; stored: number; lost: number };
}
export type PatternKind = 'row' | 'column' | 'cross' | 'block';
export interface Pattern {
  kind: PatternKind;
  from: string[];
  to: string[];
  text: string;
}
export interface Matrix {
  at: string;
  by: 'host' | 'leaf';
  labels: string[];
  from: number[];
  to: number[];
  sent: number[];
  lost: number[];
  p50_ns: Maybe[];
  p99_ns: Maybe[];
  patterns: Pattern[];
}
export interface Schema {
  tables: { name: string; text: string; columns: { name: string; type: string; text: string }[] }[];
  functions: { name: string; signature: string; text: string; example: string }[];
  examples: { title: string; sql: string }[];
}
export type Cell = string | number | boolean | null | object;
export interface QueryResult {
  columns: { name: string; type: string }[];
  rows: Cell[][];
  truncated: boolean;
  elapsed_ms: number;
}
export interface DocEntry {
  path: string;
  title: string;
}

/** What the hub said instead of an answer. `status` 0: it could not be reached at all. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly line: number | null = null,
    readonly column: number | null = null,
    readonly login: string | null = null,
  ) {
    super(message);
  }
}

let csrf = '';
/** Called with the 401 that an expired session brings, wherever it comes up. */
let onUnauthorised: (e: ApiError) => void = () => {};
/** Called with the 403 of an act: whether it is worth another try, as after a login in another tab. */
let onForbidden: () => Promise<boolean> = () => Promise.resolve(false);
export function setCsrf(token: string): void {
  csrf = token;
}
export function setOnUnauthorised(f: (e: ApiError) => void): void {
  onUnauthorised = f;
}
export function setOnForbidden(f: () => Promise<boolean>): void {
  onForbidden = f;
}

async function problem(r: Response): Promise<ApiError> {
  let body: { error?: unknown; line?: unknown; column?: unknown; login?: unknown } = {};
  try {
    body = (await r.json()) as typeof body;
  } catch {
    // not JSON: the status has to do
  }
  const number = (v: unknown) => (typeof v === 'number' ? v : null);
  const wait = r.status === 429 ? r.headers.get('retry-after') : null;
  let text = typeof body.error === 'string' ? body.error : `the hub answered ${r.status}`;
  if (wait) text += ` (try again in ${wait} s)`;
  return new ApiError(r.status, text, number(body.line), number(body.column), typeof body.login === 'string' ? body.login : null);
}

async function call(path: string, init: RequestInit = {}): Promise<Response> {
  let r: Response;
  try {
    r = await fetch(`/api/v1${path}`, { credentials: 'same-origin', ...init });
  } catch (e) {
    if (e instanceof DOMException && e.name === 'AbortError') throw e;
    throw new ApiError(0, 'the hub does not answer');
  }
  if (r.ok) return r;
  const error = await problem(r);
  if (r.status === 401 && path !== '/login') onUnauthorised(error);
  throw error;
}

async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await (await call(path, signal ? { signal } : {})).json()) as T;
}

async function post(path: string, body: unknown, signal?: AbortSignal): Promise<Response> {
  const send = () =>
    call(path, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'x-selvedge-csrf': csrf },
      body: JSON.stringify(body),
      ...(signal ? { signal } : {}),
    });
  try {
    return await send();
  } catch (e) {
    if (e instanceof ApiError && e.status === 403 && (await onForbidden())) return send();
    throw e;
  }
}

const query = (o: Record<string, string | number | null | undefined>): string => {
  const q = new URLSearchParams();
  for (const [k, v] of Object.entries(o)) if (v !== null && v !== undefined && v !== '') q.set(k, String(v));
  const s = q.toString();
  return s ? `?${s}` : '';
};
const one = encodeURIComponent;
type S = AbortSignal | undefined;

export type IncidentAction =
  | ['acknowledge', Record<string, never>]
  | ['assign', { to: string }]
  | ['snooze', { until: string }]
  | ['close', { note: string }]
  | ['note', { text: string }]
  | ['label', { judgement: Judgement; note: string }];

export const api = {
  me: (s?: S) => get<Me>('/me', s),
  /** The hub's clock, to the second, from who may not follow its events. */
  clock: async (s?: S) => Date.parse((await call('/me', s ? { signal: s } : {})).headers.get('date') ?? ''),
  login: async (name: string, password: string) => (await (await post('/login', { name, password })).json()) as Me,
  logout: () => post('/logout', {}),
  now: (s?: S) => get<Now>('/now', s),
  top: (limit: number, s?: S) => get<Top>(`/top${query({ limit })}`, s),
  agents: (s?: S) => get<Agent[]>('/agents', s),
  fabric: (s?: S) => get<FabricInfo>('/fabric', s),
  map: (s?: S) => get<FabricMap>('/map', s),
  health: (at: string | null, s?: S) => get<Health>(`/health${query({ at })}`, s),
  span: (s?: S) => get<{ from: string; to: string }>('/health/span', s),
  matrix: (by: string, plane: string, s?: S) => get<Matrix>(`/matrix${query({ by, plane, window: 60 })}`, s),
  paths: (from: string, to: string, s?: S) => get<Paths>(`/paths${query({ from, to })}`, s),
  incidents: (state: string, s?: S) => get<Incident[]>(`/incidents${query({ state })}`, s),
  incident: (id: string, s?: S) => get<IncidentDetail>(`/incidents/${one(id)}`, s),
  guide: (id: string, s?: S) => get<{ id: string; markdown: string }>(`/incidents/${one(id)}/guide`, s),
  retrospective: (id: string, s?: S) => get<{ id: string; markdown: string }>(`/incidents/${one(id)}/retrospective`, s),
  series: (id: string, s?: S) => get<Series>(`/incidents/${one(id)}/series`, s),
  act: async (id: string, [what, body]: IncidentAction) => {
    await post(`/incidents/${one(id)}/${what}`, body);
    return get<IncidentDetail>(`/incidents/${one(id)}`);
  },
  schema: (s?: S) => get<Schema>('/schema', s),
  query: async (sql: string, limit: number, s?: S) =>
    (await (await post('/query', { sql, format: 'json', limit }, s)).json()) as QueryResult,
  queryFile: async (sql: string, format: 'csv' | 'arrow' | 'parquet', s?: S) => (await post('/query', { sql, format }, s)).blob(),
  docs: (s?: S) => get<DocEntry[]>('/docs/index', s),
  doc: (path: string, s?: S) => get<{ path: string; title: string; markdown: string }>(`/docs/page${query({ path })}`, s),
};
