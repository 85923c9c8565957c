// Draws the fabric map on a canvas: as much as the zoom can show.
//
// How: from far away leaves come in groups, then one by one, then with their racks; all-to-all trunks are one grey
// sheet until there is room for lines. Whatever is worth a look is drawn at every zoom, wider, with its figure beside.
// Invariants: pure but for the canvas; no line is drawn for a link that nobody measured as if it were well.
import type { FabricMap } from './api';
import type { Box, Cable, Chip, Layout, Panel } from './layout';
import { UNMEASURED } from './scale';
import { distance, type View } from './view';

export interface Ink {
  ground: string;
  surface: string;
  line: string;
  text: string;
  muted: string;
  well: string;
  accent: string;
  steps: string[];
  cover: string[];
  font: string;
}
export interface Marks {
  /** Step of each link by index of the map, -1 where it was not measured. */
  steps: Int8Array;
  /** 1 where a link is worth a look: drawn at every zoom. */
  loudly: Uint8Array;
  /** Links that an open incident names. */
  incident: Set<number>;
  /** Nodes (by name) that an open incident names: switches, NICs, hosts. */
  sickNodes: Set<string>;
  /** The figure beside a notable link. */
  label: (link: number) => string;
  /** How many links are worth a look in all: beyond a few dozen the figures beside them only hide each other. */
  loud: number;
  /** Coverage has colours of its own. */
  coverage: boolean;
}
export interface Chosen {
  link: number;
  node: string | null;
}

/** Zoom by zoom: 0 groups of leaves, 1 single leaves, 2 racks and lines. */
export function detail(l: Layout, k: number): 0 | 1 | 2 {
  const px = l.leafWidth * k;
  return px < 12 ? 0 : px < 56 ? 1 : 2;
}
/** How many leaves come together at a zoom. */
export function grouping(l: Layout, k: number): number {
  return Math.max(1, Math.ceil(GROUP_PX / (l.leafWidth * k)));
}

/** A group is wide enough to read its name. */
const GROUP_PX = 62;
const WIDTH = [1, 1.6, 2.4, 3.2, 4.4];

interface Frame {
  w: number;
  h: number;
  view: View;
}
/** Air around what is drawn, for labels that reach beyond it, in pixels. */
const AIR = 12;
const hits = (f: Frame, x: number, y: number, w: number, h: number, air = AIR) => {
  const { k, x: ox, y: oy } = f.view;
  return x * k + ox - air < f.w && (x + w) * k + ox + air > 0 && y * k + oy - air < f.h && (y + h) * k + oy + air > 0;
};

/** Both ends of a direction on the screen; the two directions of a cable lie side by side where there is room. */
function ends(c: Cable, up: boolean, v: View): [number, number, number, number] {
  const x1 = c.x1 * v.k + v.x;
  const y1 = c.y1 * v.k + v.y;
  const x2 = c.x2 * v.k + v.x;
  const y2 = c.y2 * v.k + v.y;
  const gap = Math.min(3, 5 * v.k);
  const len = Math.hypot(x2 - x1, y2 - y1) || 1;
  const nx = (-(y2 - y1) / len) * gap;
  const ny = ((x2 - x1) / len) * gap;
  return up ? [x1 + nx, y1 + ny, x2 + nx, y2 + ny] : [x2 - nx, y2 - ny, x1 - nx, y1 - ny];
}

function colour(ink: Ink, m: Marks, step: number): string {
  return (m.coverage ? ink.cover : ink.steps)[Math.max(0, step)] ?? ink.well;
}

/** A direction that is worth a look: a wide line, an arrow head in its middle, its figure beside. */
function notable(ctx: CanvasRenderingContext2D, ink: Ink, at: [number, number, number, number], col: string, width: number, label: string): void {
  const [x1, y1, x2, y2] = at;
  ctx.strokeStyle = col;
  ctx.lineWidth = width;
  ctx.beginPath();
  ctx.moveTo(x1, y1);
  ctx.lineTo(x2, y2);
  ctx.stroke();
  const angle = Math.atan2(y2 - y1, x2 - x1);
  const mx = x1 + (x2 - x1) * 0.56;
  const my = y1 + (y2 - y1) * 0.56;
  const s = 4 + width * 1.6;
  ctx.fillStyle = col;
  ctx.beginPath();
  ctx.moveTo(mx + Math.cos(angle) * s, my + Math.sin(angle) * s);
  ctx.lineTo(mx + Math.cos(angle + 2.4) * s, my + Math.sin(angle + 2.4) * s);
  ctx.lineTo(mx + Math.cos(angle - 2.4) * s, my + Math.sin(angle - 2.4) * s);
  ctx.fill();
  if (label) tag(ctx, ink, mx + 12, my, label, col);
}
function tag(ctx: CanvasRenderingContext2D, ink: Ink, x: number, y: number, label: string, col: string): void {
  ctx.font = `600 12px ${ink.font}`;
  const w = ctx.measureText(label).width + 12;
  ctx.fillStyle = ink.surface;
  ctx.strokeStyle = col;
  ctx.lineWidth = 1.5;
  ctx.beginPath();
  ctx.roundRect(x, y - 10, w, 20, 4);
  ctx.fill();
  ctx.stroke();
  ctx.fillStyle = ink.text;
  ctx.textAlign = 'left';
  ctx.textBaseline = 'middle';
  ctx.fillText(label, x + 6, y + 0.5);
}

function box(ctx: CanvasRenderingContext2D, ink: Ink, v: View, b: { x: number; y: number; w: number; h: number }, text: string, sick: boolean): void {
  const x = b.x * v.k + v.x;
  const y = b.y * v.k + v.y;
  const w = b.w * v.k;
  const h = Math.max(b.h * v.k, 5);
  ctx.fillStyle = sick ? ink.steps[3]! : ink.surface;
  ctx.strokeStyle = sick ? ink.steps[4]! : ink.muted;
  ctx.lineWidth = sick ? 2 : 1;
  ctx.beginPath();
  ctx.roundRect(x, y, w, h, Math.min(4, h / 4));
  ctx.fill();
  ctx.stroke();
  if (h < 12) return;
  ctx.font = `${Math.min(13, Math.max(9.5, h * 0.58))}px ${ink.font}`;
  ctx.fillStyle = sick ? ink.ground : ink.text;
  ctx.textAlign = 'center';
  ctx.textBaseline = 'middle';
  // the whole name, else its number
  const fits = [text, /[\d–]+$/.exec(text)?.[0] ?? ''].find((t) => t && ctx.measureText(t).width <= w - 4);
  if (fits) ctx.fillText(fits, x + w / 2, y + h / 2 + 0.5);
}

/** `p0-leaf3` is `leaf3` inside the panel of its plane. */
const inPanel = (name: string) => name.replace(/^p\d+-/, '');

function panelSheet(ctx: CanvasRenderingContext2D, ink: Ink, v: View, p: Panel): void {
  const [s0, s1, l0, l1] = [p.spines[0], p.spines.at(-1), p.leaves[0], p.leaves.at(-1)];
  if (!s0 || !s1 || !l0 || !l1) return;
  const X = (x: number) => x * v.k + v.x;
  const Y = (y: number) => y * v.k + v.y;
  ctx.fillStyle = ink.line;
  ctx.globalAlpha = 0.45;
  ctx.beginPath();
  ctx.moveTo(X(s0.x), Y(s0.y + s0.h));
  ctx.lineTo(X(s1.x + s1.w), Y(s1.y + s1.h));
  ctx.lineTo(X(l1.x + l1.w), Y(l1.y));
  ctx.lineTo(X(l0.x), Y(l0.y));
  ctx.fill();
  ctx.globalAlpha = 1;
}

function groups(ctx: CanvasRenderingContext2D, ink: Ink, f: Frame, boxes: Box[], each: number, badge: (b: Box) => number, sick: Set<string>): void {
  for (let i = 0; i < boxes.length; i += each) {
    const some = boxes.slice(i, i + each);
    const a = some[0]!;
    const z = some.at(-1)!;
    const b = { x: a.x, y: a.y, w: z.x + z.w - a.x, h: Math.max(a.h, 18 / f.view.k) };
    if (!hits(f, b.x, b.y, b.w, b.h)) continue;
    const name = each === 1 ? inPanel(a.name) : `${inPanel(a.name)}–${/\d+$/.exec(z.name)?.[0] ?? ''}`;
    box(ctx, ink, f.view, b, name, some.some((x) => sick.has(x.name)));
    const n = some.reduce((m, x) => m + badge(x), 0);
    if (n > 0) {
      const x = (b.x + b.w / 2) * f.view.k + f.view.x;
      tag(ctx, ink, x - 8, (b.y + b.h) * f.view.k + f.view.y + 14, `${n} below`, ink.steps[3]!);
    }
  }
}

function chip(ctx: CanvasRenderingContext2D, ink: Ink, m: Marks, v: View, c: Chip): void {
  const sick = m.sickNodes.has(c.name) || m.sickNodes.has(c.host);
  box(ctx, ink, v, c, c.host, sick);
  // two marks on its upper edge: what it sends (left) and what it receives (right)
  const x = c.x * v.k + v.x;
  const y = c.y * v.k + v.y;
  const half = (c.w * v.k) / 2;
  const hgt = Math.max(2, 3 * v.k);
  for (const [l, at] of [[c.up, x + 1], [c.down, x + half + 0.5]] as const) {
    if (l < 0) continue;
    const s = m.steps[l]!;
    if (s === UNMEASURED) continue;
    const loud = m.loudly[l] === 1;
    ctx.fillStyle = m.incident.has(l) && s < 2 ? ink.steps[3]! : colour(ink, m, s);
    ctx.fillRect(at, y - (loud ? 2 * hgt : hgt), half - 1.5, loud ? 2.5 * hgt : hgt);
  }
}

/** Everything but what is chosen, for one tile of the screen: what a tile shows depends on the view alone, so that tiles
 * drawn at different moments fit together. */
export function drawMap(ctx: CanvasRenderingContext2D, l: Layout, f: Frame, ink: Ink, m: Marks): void {
  const v = f.view;
  const level = detail(l, v.k);
  ctx.fillStyle = ink.ground;
  ctx.fillRect(0, 0, f.w, f.h);
  const loud: { at: [number, number, number, number]; step: number; link: number }[] = [];
  const isLoud = (i: number) => i >= 0 && m.loudly[i] === 1;
  for (const p of l.panels) {
    if (!hits(f, p.x, p.y, p.w, p.h, 120)) continue;
    // frame and title
    const px = p.x * v.k + v.x;
    const py = p.y * v.k + v.y;
    ctx.strokeStyle = ink.line;
    ctx.lineWidth = 1;
    ctx.beginPath();
    ctx.roundRect(px, py, p.w * v.k, p.h * v.k, 8);
    ctx.stroke();
    ctx.font = `600 ${Math.min(14, Math.max(11, 15 * v.k))}px ${ink.font}`;
    ctx.fillStyle = ink.muted;
    ctx.textAlign = 'left';
    ctx.textBaseline = 'alphabetic';
    const n = p.cables.reduce((s, c) => s + Number(isLoud(c.up)) + Number(isLoud(c.down)), 0);
    const title = level < 2 ? `Plane ${p.plane}: ${p.leaves.length} leaves, ${p.spines.length} spines, ${p.cables.length.toLocaleString('en-US')} cables between${n > 0 ? `, ${n} of their directions worth a look` : ''}` : `Plane ${p.plane}`;
    ctx.fillText(title, px + 2, py - 5, Math.max(60, p.w * v.k));

    if (level < 2) panelSheet(ctx, ink, v, p);
    // trunks: one path for each step, so that thousands of lines are a few strokes
    const buckets: Path2D[] = [];
    const unmeasured = new Path2D();
    let any = false;
    for (const c of p.cables) {
      for (const up of [true, false]) {
        const link = up ? c.up : c.down;
        if (link < 0) continue;
        if (isLoud(link)) {
          if (hits(f, Math.min(c.x1, c.x2), c.y2, Math.abs(c.x2 - c.x1), c.y1 - c.y2, 110)) loud.push({ at: ends(c, up, v), step: m.steps[link]!, link });
          continue;
        }
        if (level < 2) continue;
        const left = Math.min(c.x1, c.x2);
        if (!hits(f, left, c.y2, Math.abs(c.x2 - c.x1), c.y1 - c.y2)) continue;
        const s = m.steps[link]!;
        const path = s === UNMEASURED ? unmeasured : (buckets[s] ??= new Path2D());
        any = true;
        const [x1, y1, x2, y2] = ends(c, up, v);
        path.moveTo(x1, y1);
        path.lineTo(x2, y2);
      }
    }
    if (any) {
      const dense = p.cables.length > 200 ? 0.55 : 1;
      ctx.globalAlpha = dense;
      ctx.setLineDash([3, 5]);
      ctx.strokeStyle = ink.muted;
      ctx.lineWidth = 1;
      ctx.stroke(unmeasured);
      ctx.setLineDash([]);
      buckets.forEach((path, s) => {
        ctx.strokeStyle = colour(ink, m, s);
        ctx.lineWidth = m.coverage ? [1.6, 1, 1, 1.4, 2][s]! : WIDTH[s]!;
        ctx.stroke(path);
      });
      ctx.globalAlpha = 1;
    }
    // switches and racks
    if (level === 2) {
      if (p.chips.length > 0 && p.chips[0]!.leaf) {
        const wires = new Path2D();
        for (const c of p.chips) {
          if (!hits(f, c.x, c.leaf.y, c.w, c.y - c.leaf.y)) continue;
          const row0 = c.y - (c.leaf.y + c.leaf.h) < 40;
          if (!row0) continue;
          const lx = Math.min(c.leaf.x + c.leaf.w - 6, Math.max(c.leaf.x + 6, c.x + c.w / 2));
          wires.moveTo(lx * v.k + v.x, (c.leaf.y + c.leaf.h) * v.k + v.y);
          wires.lineTo((c.x + c.w / 2) * v.k + v.x, c.y * v.k + v.y);
        }
        ctx.strokeStyle = ink.line;
        ctx.lineWidth = 1.5;
        ctx.stroke(wires);
      }
      for (const c of p.chips) if (hits(f, c.x, c.y - 8, c.w, c.h + 8)) chip(ctx, ink, m, v, c);
      for (const b of p.spines) if (hits(f, b.x, b.y, b.w, b.h)) box(ctx, ink, v, b, inPanel(b.name), m.sickNodes.has(b.name));
      for (const b of p.leaves) if (hits(f, b.x, b.y, b.w, b.h)) box(ctx, ink, v, b, inPanel(b.name), m.sickNodes.has(b.name));
    } else {
      const each = grouping(l, v.k);
      const below = new Map<number, number>();
      for (const c of p.chips) {
        if (isLoud(c.up) || isLoud(c.down) || m.sickNodes.has(c.name)) below.set(c.leaf.node, (below.get(c.leaf.node) ?? 0) + 1);
      }
      const spinePitch = (p.spines[1]?.x ?? Infinity) - (p.spines[0]?.x ?? 0);
      groups(ctx, ink, f, p.spines, Math.max(1, Math.ceil(GROUP_PX / (spinePitch * v.k))), () => 0, m.sickNodes);
      groups(ctx, ink, f, p.leaves, each, (b) => below.get(b.node) ?? 0, m.sickNodes);
    }
  }
  loud.sort((a, b) => a.step - b.step);
  const labels = m.loud <= 40;
  for (const { at, step, link } of loud) {
    const s = Math.max(step, m.incident.has(link) ? 2 : 0);
    notable(ctx, ink, at, m.coverage ? colour(ink, m, step) : ink.steps[s]!, m.coverage ? 2 : WIDTH[s]!, labels ? m.label(link) : '');
  }
}

/** What is chosen, on top of the map. */
export function drawChosen(ctx: CanvasRenderingContext2D, l: Layout, v: View, ink: Ink, m: Marks, chosen: Chosen, width = 3): void {
  const far = detail(l, v.k) < 2;
  ctx.strokeStyle = ink.accent;
  ctx.lineWidth = width;
  const ring = (b: { x: number; y: number; w: number; h: number }) => {
    ctx.beginPath();
    ctx.roundRect(b.x * v.k + v.x - 4, b.y * v.k + v.y - 4, b.w * v.k + 8, Math.max(b.h * v.k, 5) + 8, 6);
    ctx.stroke();
  };
  const line = (c: Cable, up: boolean) => {
    const [x1, y1, x2, y2] = ends(c, up, v);
    ctx.beginPath();
    ctx.moveTo(x1, y1);
    ctx.lineTo(x2, y2);
    ctx.stroke();
  };
  if (chosen.link >= 0) {
    const cable = l.cableOf.get(chosen.link);
    if (cable) {
      const up = cable.up === chosen.link;
      const s = m.steps[chosen.link]!;
      ctx.globalAlpha = 0.35;
      ctx.lineWidth = 14;
      line(cable, up);
      ctx.globalAlpha = 1;
      const loud = m.loudly[chosen.link] === 1;
      const shown = Math.max(s, m.incident.has(chosen.link) ? 2 : 0);
      notable(ctx, ink, ends(cable, up, v), loud ? (m.coverage ? ink.cover[0]! : ink.steps[shown]!) : ink.accent, loud ? WIDTH[shown]! : 2, m.label(chosen.link));
      ctx.strokeStyle = ink.accent;
      ctx.lineWidth = width;
      ring(cable.leaf);
      ring(cable.spine);
      if (far) {
        tag(ctx, ink, (cable.leaf.x + cable.leaf.w) * v.k + v.x + 8, cable.leaf.y * v.k + v.y + 6, cable.leaf.name, ink.accent);
        tag(ctx, ink, (cable.spine.x + cable.spine.w) * v.k + v.x + 8, cable.spine.y * v.k + v.y + 6, cable.spine.name, ink.accent);
      }
    }
    const chip = l.chipOf.get(chosen.link);
    if (chip) {
      ring(chip.leaf);
      if (far) tag(ctx, ink, (chip.leaf.x + chip.leaf.w) * v.k + v.x + 8, chip.leaf.y * v.k + v.y + 6, `${chip.name} below ${inPanel(chip.leaf.name)}: ${m.label(chosen.link)}`, ink.accent);
      else ring(chip);
    }
  } else if (chosen.node) {
    const box = l.boxByName.get(chosen.node);
    if (box) {
      ctx.lineWidth = 1.5;
      ctx.globalAlpha = 0.6;
      for (const p of l.panels) {
        if (p.plane !== box.plane) continue;
        for (const c of p.cables) if (c.leaf === box || c.spine === box) line(c, true);
      }
      ctx.globalAlpha = 1;
      ctx.lineWidth = width;
      ring(box);
      if (far) tag(ctx, ink, (box.x + box.w) * v.k + v.x + 8, box.y * v.k + v.y + 6, box.name, ink.accent);
    }
    for (const c of l.chipsByName.get(chosen.node) ?? []) {
      ring(c.leaf);
      if (far) tag(ctx, ink, (c.leaf.x + c.leaf.w) * v.k + v.x + 8, c.leaf.y * v.k + v.y + 6, `${c.name} below ${inPanel(c.leaf.name)}`, ink.accent);
      else ring(c);
    }
  }
}

/** What lies under a point of the screen: a switch or NIC before a link, a notable link before a quiet one. */
export function pick(l: Layout, map: FabricMap, v: View, x: number, y: number, m: Marks): string | null {
  const wx = (x - v.x) / v.k;
  const wy = (y - v.y) / v.k;
  const level = detail(l, v.k);
  const inside = (b: { x: number; y: number; w: number; h: number }, air: number) =>
    wx >= b.x - air && wx <= b.x + b.w + air && wy >= b.y - air && wy <= b.y + b.h + air;
  const air = 3 / v.k;
  let best: string | null = null;
  let near = 8;
  for (const p of l.panels) {
    if (!inside(p, 10 / v.k)) continue;
    if (level === 2) for (const c of p.chips) if (inside(c, air)) return c.name;
    if (level > 0) for (const b of [...p.leaves, ...p.spines]) if (inside(b, air)) return b.name;
    for (const c of p.cables) {
      for (const up of [true, false]) {
        const link = up ? c.up : c.down;
        if (link < 0) continue;
        const loud = m.loudly[link] === 1;
        if (level < 2 && !loud) continue;
        const d = distance(x, y, ...ends(c, up, v)) - (loud ? 4 : 0);
        if (d < near) {
          near = d;
          best = map.links.name[link]!;
        }
      }
    }
  }
  return best;
}
