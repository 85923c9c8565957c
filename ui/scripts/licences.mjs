// The licence of every installed package, against those that may be used here. Exits with 1 where one may not.
//
// axe-core is the one exception: MPL-2.0, it checks accessibility in the browser tests, and nothing of it is in the
// pages that are built. The check fails if anything but the tests were to use it.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const ROOT = new URL('..', import.meta.url).pathname;
const ALLOWED = new Set(['MIT', 'Apache-2.0', 'BSD-2-Clause', 'BSD-3-Clause', 'ISC', '0BSD']);
const TESTS_ONLY = new Map([['axe-core', 'MPL-2.0']]);

/** `(MIT OR CC0-1.0)` is fine if one of its choices is; `A AND B` only if both are. */
const fine = (expression) => {
  const e = expression.replaceAll(/[()]/g, ' ').trim();
  if (/\sAND\s/.test(e)) return e.split(/\sAND\s/).every(fine);
  return e.split(/\sOR\s/).some((l) => ALLOWED.has(l.trim()));
};
function* packages(modules) {
  let entries;
  try {
    entries = readdirSync(modules, { withFileTypes: true });
  } catch {
    return;
  }
  for (const e of entries) {
    if (!e.isDirectory() || e.name.startsWith('.')) continue;
    const path = join(modules, e.name);
    if (e.name.startsWith('@')) {
      yield* packages(path);
      continue;
    }
    let p;
    try {
      p = JSON.parse(readFileSync(join(path, 'package.json'), 'utf8'));
    } catch {
      continue;
    }
    yield { name: p.name, version: p.version, licence: typeof p.license === 'string' ? p.license : (p.license?.type ?? p.licenses?.map((l) => l.type).join(' OR ') ?? 'none named') };
    yield* packages(join(path, 'node_modules'));
  }
}
const sources = (folder) => readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true }).filter((f) => f.isFile()).map((f) => readFileSync(join(f.parentPath, f.name), 'utf8'));

const counts = new Map();
const wrong = [];
for (const p of packages(join(ROOT, 'node_modules'))) {
  counts.set(p.licence, (counts.get(p.licence) ?? 0) + 1);
  if (fine(p.licence)) continue;
  if (TESTS_ONLY.get(p.name) === p.licence && !sources('src').some((s) => s.includes(p.name))) continue;
  wrong.push(`${p.name} ${p.version}: ${p.licence}`);
}
if (counts.size === 0) {
  console.error('Nothing is installed: run npm ci first.');
  process.exit(1);
}
for (const [licence, n] of [...counts].sort((a, b) => b[1] - a[1])) console.log(`${String(n).padStart(4)}  ${licence}`);
for (const [name, licence] of TESTS_ONLY) console.log(`      ${name} (${licence}) is used by the browser tests only and is not in what is built`);
if (wrong.length > 0) {
  console.error(`These may not be used here:\n${wrong.join('\n')}`);
  process.exit(1);
}
