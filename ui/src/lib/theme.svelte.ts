// Light or dark: the system's choice unless this person chose otherwise, which is kept in localStorage.

export type Theme = 'system' | 'light' | 'dark';
const KEY = 'selvedge.theme';

class Look {
  choice = $state<Theme>('system');
  dark = $state(false);
  #system = matchMedia('(prefers-color-scheme: dark)');

  start(): void {
    const kept = localStorage.getItem(KEY);
    this.choice = kept === 'light' || kept === 'dark' ? kept : 'system';
    this.#system.addEventListener('change', () => this.#apply());
    this.#apply();
  }
  /** The other one of light and dark; choosing what the system has means following the system again. */
  toggle(): void {
    const dark = !this.dark;
    this.choice = dark === this.#system.matches ? 'system' : dark ? 'dark' : 'light';
    if (this.choice === 'system') localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, this.choice);
    this.#apply();
  }
  #apply(): void {
    this.dark = this.choice === 'system' ? this.#system.matches : this.choice === 'dark';
    document.documentElement.dataset.theme = this.dark ? 'dark' : 'light';
  }
}
export const look = new Look();
