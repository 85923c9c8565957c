// How fast: first paint of Now, and frames while the map of about 10,000 links is moved. Prints what it measured.
//
// The large fabric is put in by the test, so that any hub will do.
import { expect, test, type Page } from '@playwright/test';
import { cpus, loadavg } from 'node:os';
import { enter } from './help';

const FIRST_PAINT_MAX_MS = 1000;
/** Sixty a second, with one frame in twenty late. */
const FRAMES_MIN = 57;
const TRIES = 3;
const COST_MAX_MS = 8;

function largeFabric() {
  const [P, L, S, H] = [4, 32, 32, 256];
  const map = { epoch: 'large', planes: P, nodes: { name: [] as string[], kind: [] as string[], plane: [] as number[] }, links: { id: [] as number[], name: [] as string[], a: [] as number[], b: [] as number[], plane: [] as number[] } };
  const at = new Map<string, number>();
  const node = (name: string, kind: string, plane: number) => {
    at.set(name, map.nodes.name.length);
    map.nodes.name.push(name);
    map.nodes.kind.push(kind);
    map.nodes.plane.push(plane);
  };
  const link = (name: string, a: string, b: string, plane: number) => {
    map.links.id.push(map.links.id.length);
    map.links.name.push(name);
    map.links.a.push(at.get(a)!);
    map.links.b.push(at.get(b)!);
    map.links.plane.push(plane);
  };
  for (let h = 0; h < H; h++) node(`host${h}`, 'host', -1);
  for (let p = 0; p < P; p++) {
    for (let h = 0; h < H; h++) node(`host${h}-p${p}`, 'nic', p);
    for (let l = 0; l < L; l++) node(`p${p}-leaf${l}`, 'leaf', p);
    for (let s = 0; s < S; s++) node(`p${p}-spine${s}`, 'spine', p);
    for (let h = 0; h < H; h++) {
      const leaf = `p${p}-leaf${Math.floor((h * L) / H)}`;
      link(`host${h}:${leaf}`, `host${h}-p${p}`, leaf, p);
      link(`${leaf}:host${h}`, leaf, `host${h}-p${p}`, p);
    }
    for (let l = 0; l < L; l++) {
      for (let s = 0; s < S; s++) {
        const [leaf, spine] = [`p${p}-leaf${l}`, `p${p}-spine${s}`];
        link(`${leaf}:${spine}`, leaf, spine, p);
        link(`${spine}:${leaf}`, spine, leaf, p);
      }
    }
  }
  const n = map.links.id.length;
  const health = {
    at: new Date().toISOString(), live: true, incidents: [],
    links: { id: map.links.id, sent: Array(n).fill(900), lost: Array(n).fill(0), rate: map.links.id.map((i) => (i % 997 === 0 ? 0.012 : 0)), delay_excess_ns: Array(n).fill(0), probes: Array(n).fill(5400) },
  };
  return { map, health, n };
}

interface Measured {
  fps: number;
  p95: number;
  worst: number;
  n: number;
  /** What a frame took of the page's own thread, not counting the time it waited for a core. */
  cost: number;
}
async function frames(page: Page, move: () => Promise<void>): Promise<Measured> {
  const cdp = await page.context().newCDPSession(page);
  await cdp.send('Performance.enable', { timeDomain: 'threadTicks' });
  const spent = async () => (await cdp.send('Performance.getMetrics')).metrics.find((m) => m.name === 'TaskDuration')!.value * 1000;
  await page.evaluate(() => {
    const g = globalThis as unknown as { stamps: number[]; turn: number };
    const mine = (g.turn = (g.turn ?? 0) + 1);
    const stamps: number[] = [];
    g.stamps = stamps;
    const tick = (t: number) => {
      stamps.push(t);
      if (g.turn === mine) requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  });
  const before = await spent();
  await move();
  const after = await spent();
  const stamps = await page.evaluate(() => {
    const g = globalThis as unknown as { stamps: number[]; turn: number };
    g.turn += 1;
    return g.stamps;
  });
  await cdp.detach();
  const gaps = stamps.slice(1).map((t, i) => t - stamps[i]!).sort((x, y) => x - y);
  const total = stamps.at(-1)! - stamps[0]!;
  return { fps: (gaps.length / total) * 1000, p95: gaps[Math.floor(gaps.length * 0.95)]!, worst: gaps.at(-1)!, n: gaps.length, cost: (after - before) / gaps.length };
}

test('first paint of Now', async ({ page }) => {
  await enter(page);
  const runs: number[] = [];
  for (let i = 0; i < 5; i++) {
    const context = await page.context().browser()!.newContext({ viewport: { width: 1440, height: 900 }, storageState: await page.context().storageState(), baseURL: process.env.SELVEDGE_URL });
    const fresh = await context.newPage();
    await fresh.goto('/');
    await expect(fresh.getByRole('heading', { level: 1 })).toBeVisible();
    runs.push(await fresh.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0]!.startTime));
    await context.close();
  }
  runs.sort((a, b) => a - b);
  console.log(`first contentful paint of Now, empty cache: median ${runs[2]!.toFixed(0)} ms of ${runs.length} runs, worst ${runs.at(-1)!.toFixed(0)} ms; at most ${FIRST_PAINT_MAX_MS} ms`);
  expect(runs[2]!).toBeLessThan(FIRST_PAINT_MAX_MS);
});

test('frames while the large map is moved', async ({ page }) => {
  await enter(page);
  const { map, health, n } = largeFabric();
  await page.route('**/api/v1/map', (r) => r.fulfill({ json: map }));
  await page.route(/\/api\/v1\/health(\?.*)?$/, (r) => r.fulfill({ json: health }));
  const began = Date.now();
  await page.goto('/fabric');
  await expect(page.getByRole('application')).toHaveAttribute('aria-label', new RegExp(`${n.toLocaleString('en-US')} directed links`));
  console.log(`${n} directed links: map shown ${Date.now() - began} ms after the address was entered`);
  const canvas = page.locator('canvas');
  const box = (await canvas.boundingBox())!;
  const [cx, cy] = [box.x + box.width / 2, box.y + box.height / 2];
  const drag = async () => {
    await page.mouse.move(cx, cy);
    await page.mouse.down();
    for (let i = 0; i < 240; i++) await page.mouse.move(cx + 300 * Math.sin(i / 18), cy + 140 * Math.sin(i / 11));
    await page.mouse.up();
  };
  const missed: string[] = [];
  for (const [what, steps] of [['all of it', 0], ['racks and lines', 4], ['nearest', 4]] as const) {
    await page.mouse.move(cx, cy);
    for (let i = 0; i < steps; i++) {
      await page.mouse.wheel(0, -300);
      await page.waitForTimeout(60);
    }
    await page.waitForTimeout(500);
    // What else the machine does takes frames from any page. So the best of three counts, and where that is not enough,
    // what a frame takes of the page's thread: a map that leaves half of every frame free is not what was slow.
    let best = 0;
    let cost = 0;
    for (let k = 0; k < TRIES && best < FRAMES_MIN; k++) {
      const f = await frames(page, drag);
      console.log(`${what}: ${f.fps.toFixed(1)} frames a second over ${f.n} frames, 95th percentile ${f.p95.toFixed(1)} ms, worst ${f.worst.toFixed(1)} ms, each ${f.cost.toFixed(1)} ms of the page's thread; at least ${FRAMES_MIN}; load ${loadavg()[0]!.toFixed(1)} on ${cpus().length} cores`);
      best = Math.max(best, f.fps);
      cost = Math.max(cost, f.cost);
    }
    if (best < FRAMES_MIN && (cost > COST_MAX_MS || loadavg()[0]! < 2 * cpus().length)) missed.push(`${what}: ${best.toFixed(1)}, ${cost.toFixed(1)} ms each`);
  }
  expect(missed).toEqual([]);
});
