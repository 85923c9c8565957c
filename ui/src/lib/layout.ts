// Where everything of a fabric lies on the map. Pure, from the topology alone, so the same fabric always looks the same.
//
// How: a panel for each plane; in it the spines in a row, the leaves in a row below, and under each leaf a rack of the
// NICs it serves. Panels go into the grid that fits the wanted shape best.
// Invariants: every node of the topology that has a link has a place; units are pixels at zoom 1; a cable is two
// directed links, `up` towards the spine (or from the NIC to its leaf) and `down` the other way, -1 where one is absent.
import type { FabricMap } from './api';

export interface Box {
  node: number;
  name: string;
  kind: 'leaf' | 'spine';
  plane: number;
  x: number;
  y: number;
  w: number;
  h: number;
}
export interface Chip {
  node: number;
  /** The host's name, as in link names. */
  host: string;
  /** The NIC's name, or the host's where the topology knows no NICs. */
  name: string;
  leaf: Box;
  plane: number;
  x: number;
  y: number;
  w: number;
  h: number;
  up: number;
  down: number;
}
export interface Cable {
  leaf: Box;
  spine: Box;
  x1: number;
  y1: number;
  x2: number;
  y2: number;
  up: number;
  down: number;
}
export interface Panel {
  plane: number;
  x: number;
  y: number;
  w: number;
  h: number;
  spines: Box[];
  leaves: Box[];
  chips: Chip[];
  cables: Cable[];
}
export interface Layout {
  w: number;
  h: number;
  panels: Panel[];
  /** From link index of the map to where it is drawn. */
  cableOf: Map<number, Cable>;
  chipOf: Map<number, Chip>;
  boxByName: Map<string, Box>;
  chipsByName: Map<string, Chip[]>;
  leafWidth: number;
}

export const CHIP = { w: 60, h: 24, gap: 6 } as const;
const BOX = { h: 26, leaf: 96, spine: 84 } as const;
const RACK_GAP = 34;
const MARGIN = 28;
const TITLE = 30;

/** `host3:p0-leaf0` and `p0-leaf0:host3` both give host3. */
function hostEnd(link: string): string {
  const [a = '', b = ''] = link.split(':', 2);
  return a.includes('-leaf') || a.includes('-spine') ? b.replace(/#\d+$/, '') : a;
}

/** Columns of a rack of `n`: one row up to four, else a little wider than high. */
export function rackColumns(n: number): number {
  return n <= 4 ? Math.max(1, n) : Math.ceil(Math.sqrt(n) * 1.2);
}

/** How many columns of panels come nearest to `aspect` (width by height). */
export function panelColumns(n: number, w: number, h: number, aspect: number): number {
  let best = 1;
  let off = Infinity;
  for (let c = 1; c <= n; c++) {
    const rows = Math.ceil(n / c);
    const d = Math.abs(Math.log((c * w) / (rows * h) / aspect)) + 0.15 * (rows * c - n);
    if (d < off) {
      off = d;
      best = c;
    }
  }
  return best;
}

export function layout(map: FabricMap, aspect = 1.8): Layout {
  const { nodes, links } = map;
  const kind = (i: number) => nodes.kind[i];
  const planes = [...new Set(links.plane)].sort((a, b) => a - b);
  const panels: Panel[] = [];
  const out: Layout = { w: 0, h: 0, panels, cableOf: new Map(), chipOf: new Map(), boxByName: new Map(), chipsByName: new Map(), leafWidth: 0 };

  // who hangs on which leaf, in the order of the topology
  const racks = new Map<number, Map<number, { host: string; up: number; down: number }>>();
  for (let l = 0; l < links.id.length; l++) {
    const a = links.a[l]!;
    const b = links.b[l]!;
    const up = kind(b) === 'leaf' && (kind(a) === 'nic' || kind(a) === 'host');
    const down = kind(a) === 'leaf' && (kind(b) === 'nic' || kind(b) === 'host');
    if (!up && !down) continue;
    const [leaf, end] = up ? [b, a] : [a, b];
    const rack = racks.get(leaf) ?? new Map<number, { host: string; up: number; down: number }>();
    racks.set(leaf, rack);
    const chip = rack.get(end) ?? { host: hostEnd(links.name[l]!), up: -1, down: -1 };
    rack.set(end, chip);
    if (up) chip.up = l;
    else chip.down = l;
  }
  const most = Math.max(1, ...[...racks.values()].map((r) => r.size));
  const columns = rackColumns(most);
  const rows = Math.ceil(most / columns);
  const rackW = columns * CHIP.w + (columns - 1) * CHIP.gap;
  const leafW = Math.max(BOX.leaf, rackW) + 26;
  out.leafWidth = leafW;

  const wanted = new Map<number, { leaves: number[]; spines: number[] }>(planes.map((p) => [p, { leaves: [], spines: [] }]));
  for (let i = 0; i < nodes.name.length; i++) {
    const of = wanted.get(nodes.plane[i]!);
    if (kind(i) === 'leaf') of?.leaves.push(i);
    else if (kind(i) === 'spine') of?.spines.push(i);
  }
  const widest = Math.max(1, ...[...wanted.values()].map((p) => Math.max(p.leaves.length * leafW, p.spines.length * (BOX.spine + 26))));
  const panelW = widest + 2 * MARGIN;
  // room below a panel grows with the fabric, so that titles fit between panels that are seen from far away
  const foot = Math.max(MARGIN, widest * 0.018);
  const between = Math.max(MARGIN, widest * 0.03);
  const fixed = TITLE + BOX.h + BOX.h + RACK_GAP + rows * (CHIP.h + CHIP.gap) + foot;
  const across = panelColumns(planes.length, panelW, fixed + widest * 0.24, aspect);
  // and the trunks are as high as the wanted shape leaves room for
  const down = Math.ceil(planes.length / across);
  const room = (across * panelW) / aspect / down - between - fixed;
  const trunkH = Math.min(widest * 0.4, Math.max(150, widest * 0.1, room));
  const panelH = fixed + trunkH;

  planes.forEach((plane, n) => {
    const x0 = (n % across) * (panelW + between);
    const y0 = between + Math.floor(n / across) * (panelH + between);
    const panel: Panel = { plane, x: x0, y: y0, w: panelW, h: panelH, spines: [], leaves: [], chips: [], cables: [] };
    panels.push(panel);
    const { leaves, spines } = wanted.get(plane)!;
    const place = (of: number[], y: number, w: number, k: 'leaf' | 'spine', into: Box[]) => {
      const pitch = widest / Math.max(1, of.length);
      of.forEach((node, i) => {
        const box: Box = { node, name: nodes.name[node]!, kind: k, plane, x: x0 + MARGIN + pitch * (i + 0.5) - w / 2, y, w, h: BOX.h };
        into.push(box);
        out.boxByName.set(box.name, box);
      });
    };
    const spineY = y0 + TITLE;
    const leafY = spineY + BOX.h + trunkH;
    place(spines, spineY, BOX.spine, 'spine', panel.spines);
    place(leaves, leafY, Math.max(BOX.leaf, Math.min(rackW, 270)), 'leaf', panel.leaves);
    for (const leaf of panel.leaves) {
      const rack = racks.get(leaf.node);
      if (!rack) continue;
      const left = leaf.x + leaf.w / 2 - rackW / 2;
      let i = 0;
      for (const [node, { host, up, down }] of rack) {
        const chip: Chip = {
          node, host, name: nodes.name[node]!, leaf, plane, up, down,
          x: left + (i % columns) * (CHIP.w + CHIP.gap),
          y: leafY + BOX.h + RACK_GAP + Math.floor(i / columns) * (CHIP.h + CHIP.gap),
          w: CHIP.w, h: CHIP.h,
        };
        i += 1;
        panel.chips.push(chip);
        if (up >= 0) out.chipOf.set(up, chip);
        if (down >= 0) out.chipOf.set(down, chip);
        for (const key of new Set([chip.name, host])) out.chipsByName.set(key, [...(out.chipsByName.get(key) ?? []), chip]);
      }
    }
  });

  // trunk cables: both directions of one cable share their ends and their number
  const cables = new Map<string, Cable>();
  for (let l = 0; l < links.id.length; l++) {
    const a = out.boxByName.get(nodes.name[links.a[l]!]!);
    const b = out.boxByName.get(nodes.name[links.b[l]!]!);
    if (!a || !b || a.kind === b.kind) continue;
    const up = a.kind === 'leaf';
    const [leaf, spine] = up ? [a, b] : [b, a];
    const nth = Number(/#(\d+)$/.exec(links.name[l]!)?.[1] ?? 0);
    const key = `${leaf.node}:${spine.node}#${nth}`;
    let cable = cables.get(key);
    if (!cable) {
      const aside = nth * 5;
      cable = {
        leaf, spine, up: -1, down: -1,
        x1: leaf.x + leaf.w / 2 + aside, y1: leaf.y, x2: spine.x + spine.w / 2 + aside, y2: spine.y + spine.h,
      };
      cables.set(key, cable);
      panels.find((p) => p.plane === leaf.plane)?.cables.push(cable);
    }
    if (up) cable.up = l;
    else cable.down = l;
    out.cableOf.set(l, cable);
  }
  out.w = Math.max(0, ...panels.map((p) => p.x + p.w));
  out.h = Math.max(0, ...panels.map((p) => p.y + p.h));
  return out;
}

/** Where a name lies: a switch, a NIC, a host (all its NICs) or a link. Null where the map has no such thing. */
export function bounds(l: Layout, map: FabricMap, name: string): { x: number; y: number; w: number; h: number } | null {
  const boxes: { x: number; y: number; w: number; h: number }[] = [];
  const box = l.boxByName.get(name);
  if (box) boxes.push(box);
  boxes.push(...(l.chipsByName.get(name) ?? []));
  const link = map.links.name.indexOf(name);
  if (link >= 0) {
    const cable = l.cableOf.get(link);
    if (cable) boxes.push(cable.leaf, cable.spine);
    const chip = l.chipOf.get(link);
    if (chip) boxes.push(chip, chip.leaf);
  }
  if (boxes.length === 0) return null;
  const x = Math.min(...boxes.map((b) => b.x));
  const y = Math.min(...boxes.map((b) => b.y));
  return { x, y, w: Math.max(...boxes.map((b) => b.x + b.w)) - x, h: Math.max(...boxes.map((b) => b.y + b.h)) - y };
}
