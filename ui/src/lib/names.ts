// Finding a name among thousands. Pure.
//
// Invariant: what begins with the typed text comes before what only contains it, and shorter before longer.

export interface Named {
  name: string;
  kind: string;
  to: string;
}

export function find(all: readonly Named[], typed: string, most = 12): Named[] {
  const words = typed.trim().toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return all.slice(0, most);
  const found: { n: Named; score: number }[] = [];
  for (const n of all) {
    const low = n.name.toLowerCase();
    if (!words.every((w) => low.includes(w))) continue;
    const first = words[0]!;
    const score = (low === typed.trim().toLowerCase() ? -1000 : 0) + (low.startsWith(first) ? 0 : 500) + low.length;
    found.push({ n, score });
  }
  found.sort((a, b) => a.score - b.score || a.n.name.localeCompare(b.n.name, 'en', { numeric: true }));
  return found.slice(0, most).map((f) => f.n);
}

/** `a` before `b` as a person counts: host2 before host10. */
const collator = new Intl.Collator('en', { numeric: true });
export const byName = (a: string, b: string): number => collator.compare(a, b);
