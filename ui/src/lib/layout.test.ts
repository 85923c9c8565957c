// The map: everything has a place, nothing lies over anything.
import { describe, expect, it } from 'vitest';
import type { FabricMap, NodeKind } from './api';
import { bounds, layout, panelColumns, rackColumns, type Box } from './layout';
import { detail, grouping } from './mapdraw';

/** A fabric as the hub describes one. */
export function fabric(planes: number, leaves: number, spines: number, hosts: number): FabricMap {
  const map: FabricMap = { epoch: 'e', planes, nodes: { name: [], kind: [], plane: [] }, links: { id: [], name: [], a: [], b: [], plane: [] } };
  const at = new Map<string, number>();
  const node = (name: string, kind: NodeKind, plane: number) => {
    at.set(name, map.nodes.name.length);
    map.nodes.name.push(name);
    map.nodes.kind.push(kind);
    map.nodes.plane.push(plane);
  };
  const cable = (a: string, b: string, aName: string, plane: number) => {
    for (const [x, y, name] of [[a, b, `${aName}:${b}`], [b, a, `${b}:${aName}`]] as const) {
      map.links.id.push(map.links.id.length + 7);
      map.links.name.push(name);
      map.links.a.push(at.get(x)!);
      map.links.b.push(at.get(y)!);
      map.links.plane.push(plane);
    }
  };
  for (let h = 0; h < hosts; h++) node(`host${h}`, 'host', -1);
  for (let p = 0; p < planes; p++) {
    for (let h = 0; h < hosts; h++) node(`host${h}-p${p}`, 'nic', p);
    for (let l = 0; l < leaves; l++) node(`p${p}-leaf${l}`, 'leaf', p);
    for (let s = 0; s < spines; s++) node(`p${p}-spine${s}`, 'spine', p);
    for (let h = 0; h < hosts; h++) cable(`host${h}-p${p}`, `p${p}-leaf${Math.floor((h * leaves) / hosts)}`, `host${h}`, p);
    for (let l = 0; l < leaves; l++) for (let s = 0; s < spines; s++) cable(`p${p}-leaf${l}`, `p${p}-spine${s}`, `p${p}-leaf${l}`, p);
  }
  return map;
}

describe.each([[2, 4, 4, 16], [1, 1, 1, 1], [4, 32, 32, 256], [3, 5, 2, 11], [8, 8, 4, 64]])('%i planes of %i leaves, %i spines and %i hosts', (planes, leaves, spines, hosts) => {
  const map = fabric(planes, leaves, spines, hosts);
  const l = layout(map);
  it('has a place for every link', () => {
    for (let i = 0; i < map.links.id.length; i++) expect(l.cableOf.has(i) || l.chipOf.has(i), map.links.name[i]).toBe(true);
  });
  it('counts cables, not directions', () => {
    expect(l.panels.map((p) => p.cables.length)).toEqual(Array(planes).fill(leaves * spines));
    expect(l.panels.flatMap((p) => p.cables).every((c) => c.up >= 0 && c.down >= 0)).toBe(true);
    expect(l.panels.flatMap((p) => p.chips).every((c) => c.up >= 0 && c.down >= 0)).toBe(true);
  });
  it('lays nothing over anything, and everything inside its panel', () => {
    for (const p of l.panels) {
      const boxes: Pick<Box, 'x' | 'y' | 'w' | 'h'>[] = [...p.spines, ...p.leaves, ...p.chips];
      for (const b of boxes) expect(b.x >= p.x && b.y >= p.y && b.x + b.w <= p.x + p.w + 0.01 && b.y + b.h <= p.y + p.h + 0.01).toBe(true);
      const sorted = [...boxes].sort((a, b) => a.y - b.y || a.x - b.x);
      for (let i = 1; i < sorted.length; i++) {
        const [a, b] = [sorted[i - 1]!, sorted[i]!];
        expect(a.y + a.h <= b.y || b.x >= a.x + a.w - 0.01).toBe(true);
      }
    }
    for (let i = 1; i < l.panels.length; i++) {
      const [a, b] = [l.panels[i - 1]!, l.panels[i]!];
      expect(b.x >= a.x + a.w || b.y >= a.y + a.h).toBe(true);
    }
  });
  it('finds names', () => {
    for (const name of [`p0-leaf${leaves - 1}`, 'p0-spine0', 'host0', 'host0-p0', 'p0-leaf0:p0-spine0', 'host0:p0-leaf0']) expect(bounds(l, map, name), name).not.toBeNull();
    expect(bounds(l, map, 'host999')).toBeNull();
  });
});

it('knows parallel cables apart', () => {
  const map = fabric(1, 2, 2, 2);
  const i = map.links.name.indexOf('p0-leaf0:p0-spine0');
  for (const d of [0, 1]) {
    map.links.id.push(1000 + d);
    map.links.name.push(`${map.links.name[i + d]}#1`);
    map.links.a.push(map.links.a[i + d]!);
    map.links.b.push(map.links.b[i + d]!);
    map.links.plane.push(0);
  }
  const l = layout(map);
  expect(l.panels[0]!.cables.length).toBe(5);
  expect(l.cableOf.get(map.links.id.length - 1)).not.toBe(l.cableOf.get(i));
});

it('draws access links of a topology without NICs too', () => {
  const map = fabric(1, 1, 1, 2);
  map.nodes.kind = map.nodes.kind.map((k) => (k === 'nic' ? 'host' : k));
  expect(layout(map).panels[0]!.chips.length).toBe(2);
});

it('shows less from farther away', () => {
  const l = layout(fabric(4, 32, 32, 256));
  expect([detail(l, 0.02), detail(l, 0.1), detail(l, 1)]).toEqual([0, 1, 2]);
  expect(grouping(l, 0.02)).toBeGreaterThan(grouping(l, 0.1));
  expect(grouping(l, 1)).toBe(1);
});

it('makes racks and grids of a sensible shape', () => {
  expect([1, 3, 4, 8, 64].map(rackColumns)).toEqual([1, 3, 4, 4, 10]);
  expect(panelColumns(8, 100, 100, 2)).toBe(4);
  expect(panelColumns(1, 100, 10, 1)).toBe(1);
});
