// The fabric's topology, asked for once and shared by every page that draws or searches it.
//
// Invariant: one request for a page's life unless the epoch changes; a failed one is asked anew next time.
import { api, type FabricMap } from './api';
import type { Named } from './names';
import { fabricUrl } from './route';

let asked: Promise<FabricMap> | null = null;

export function topology(): Promise<FabricMap> {
  asked ??= api.map().catch((e: unknown) => {
    asked = null;
    throw e;
  });
  return asked;
}
/** Forgets it: the fabric has changed. */
export function forgetTopology(): void {
  asked = null;
}

/** Everything of the map that has a name. */
export function names(map: FabricMap): Named[] {
  const out: Named[] = [];
  map.nodes.name.forEach((name, i) => out.push({ name, kind: map.nodes.kind[i]!, to: fabricUrl({ select: name }) }));
  map.links.name.forEach((name) => out.push({ name, kind: 'link', to: fabricUrl({ select: name }) }));
  return out;
}
/** Names of the hosts, in their order. */
export function hosts(map: FabricMap): string[] {
  const named = map.nodes.name.filter((_, i) => map.nodes.kind[i] === 'host');
  return named.length > 0 ? named : [...new Set(map.nodes.name.filter((_, i) => map.nodes.kind[i] === 'nic').map((n) => n.replace(/-p\d+(r\d+)?$/, '')))];
}
