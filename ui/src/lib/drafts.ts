// What was typed and not yet sent, kept through a login, a reload or a look at another page.
//
// Invariants: kept in this tab only (sessionStorage, which may be full or forbidden and is then done without); what one
// person typed is never shown to another; sent means forgotten.

const KEY = 'selvedge.drafts';
const MOST = 20;
const LONGEST = 20_000;

type Store = Pick<Storage, 'getItem' | 'setItem' | 'removeItem'>;
interface Kept {
  by: string;
  texts: [string, string][];
}

export class Drafts {
  constructor(private readonly store: () => Store) {}

  /** Says whose drafts these are; those of anybody else are forgotten. */
  own(by: string): void {
    if (this.#read().by !== by) this.#write({ by, texts: [] });
  }
  get(what: string): string {
    return this.#read().texts.find(([w]) => w === what)?.[1] ?? '';
  }
  set(what: string, text: string): void {
    const kept = this.#read();
    const others = kept.texts.filter(([w]) => w !== what);
    if (!text.trim() && others.length === kept.texts.length) return;
    this.#write({ by: kept.by, texts: text.trim() && text.length <= LONGEST ? [...others, [what, text] as [string, string]].slice(-MOST) : others });
  }
  clear(): void {
    try {
      this.store().removeItem(KEY);
    } catch {
      // there is none
    }
  }

  #read(): Kept {
    try {
      const kept = JSON.parse(this.store().getItem(KEY) ?? 'null') as Partial<Kept> | null;
      const texts = Array.isArray(kept?.texts) ? kept.texts.filter((t) => Array.isArray(t) && typeof t[0] === 'string' && typeof t[1] === 'string') : [];
      return { by: typeof kept?.by === 'string' ? kept.by : '', texts };
    } catch {
      return { by: '', texts: [] };
    }
  }
  #write(kept: Kept): void {
    try {
      this.store().setItem(KEY, JSON.stringify(kept));
    } catch {
      // a draft is a convenience
    }
  }
}
export const drafts = new Drafts(() => sessionStorage);
