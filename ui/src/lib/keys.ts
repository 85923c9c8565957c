// Keyboard shortcuts: two letters to go somewhere, one to do something. Pure; App.svelte listens.
//
// Invariant: no shortcut fires while somebody types, or with Ctrl, Alt or Meta held.

export interface Shortcut {
  keys: string;
  text: string;
}
export const PLACES: readonly (Shortcut & { to: string })[] = [
  { keys: 'g n', text: 'Now', to: '/' },
  { keys: 'g i', text: 'Incidents', to: '/incidents' },
  { keys: 'g f', text: 'Fabric', to: '/fabric' },
  { keys: 'g m', text: 'Matrix', to: '/matrix' },
  { keys: 'g p', text: 'Paths', to: '/paths' },
  { keys: 'g a', text: 'Ask', to: '/ask' },
  { keys: 'g d', text: 'Docs', to: '/docs' },
];
export const ANYWHERE: readonly Shortcut[] = [
  { keys: '/', text: 'Go to a host, switch, link or incident by name' },
  { keys: 't', text: 'Light or dark' },
  { keys: '?', text: 'This help' },
  { keys: 'Esc', text: 'Close, or let go of what is chosen' },
];
export const MAP: readonly Shortcut[] = [
  { keys: '← ↑ → ↓', text: 'Move the map' },
  { keys: '+ −', text: 'Nearer, farther' },
  { keys: '0', text: 'All of it' },
  { keys: 'n', text: 'Next link or component that is worth a look' },
];
export const MATRIX: readonly Shortcut[] = [
  { keys: '← ↑ → ↓', text: 'Next cell' },
  { keys: 'Home End', text: 'First, last in the row' },
  { keys: 'Enter', text: 'Paths of this pair' },
];
export const ASK: readonly Shortcut[] = [
  { keys: 'Ctrl Enter', text: 'Run' },
  { keys: 'Esc', text: 'Cancel what runs' },
  { keys: 'Ctrl Space', text: 'Complete' },
];

/** What a key means after the one before it: one of these places, a thing to do, a beginning (`g`), or nothing. */
export function meaning(before: string, key: string, places = PLACES): { go: string } | { act: '/' | 't' | '?' } | { begin: 'g' } | null {
  if (before === 'g') {
    const place = places.find((p) => p.keys === `g ${key}`);
    if (place) return { go: place.to };
  }
  if (key === 'g') return { begin: 'g' };
  return key === '/' || key === 't' || key === '?' ? { act: key } : null;
}

/** Whether somebody types into this element. */
export function typing(target: EventTarget | undefined): boolean {
  if (!(target instanceof HTMLElement)) return false;
  return target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName);
}
