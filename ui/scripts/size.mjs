// What the built pages weigh, gzipped, against what they may: all of it, and what the first paint of Now needs.
// Exits with 1 where it is too much, so that a build that grew too large does not go unseen.
import { readdirSync, readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

const DIST = new URL('../dist/', import.meta.url);
const ALL_MAX = 400_000;
const FIRST_MAX = 80_000;
const files = readdirSync(DIST, { recursive: true, withFileTypes: true }).filter((f) => f.isFile());
const weigh = (path) => gzipSync(readFileSync(path), { level: 9 }).length;
const sizes = files.map((f) => ({ name: f.name, bytes: weigh(`${f.parentPath}/${f.name}`) })).sort((a, b) => b.bytes - a.bytes);
const html = readFileSync(new URL('index.html', DIST), 'utf8');
const first = sizes.filter((s) => s.name === 'index.html' || html.includes(s.name));
const sum = (of) => of.reduce((n, s) => n + s.bytes, 0);
for (const s of sizes) console.log(`${String(s.bytes).padStart(8)}  ${s.name}${first.includes(s) ? '  (first paint)' : ''}`);
console.log(`${String(sum(sizes)).padStart(8)}  all, gzipped; at most ${ALL_MAX}`);
console.log(`${String(sum(first)).padStart(8)}  first paint, gzipped; at most ${FIRST_MAX}`);
if (sum(sizes) > ALL_MAX || sum(first) > FIRST_MAX) {
  console.error('The pages have grown too large: see what was added to the entry, or load it when it is needed.');
  process.exit(1);
}
