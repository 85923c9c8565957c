// What a name means, in a sentence (README.md, "How to read a verdict"). Pure.
import type { ComponentKind } from './api';

/** Both ends of a link's name, without the number of a parallel cable. Null where it is no link's name. */
export function linkEnds(name: string): [string, string] | null {
  const [a, b, more] = name.split(':');
  return a && b && more === undefined ? [a, b.replace(/#\d+$/, '')] : null;
}
/** The other direction of the same cable. */
export function otherWay(name: string): string | null {
  const m = /^([^:#]+):([^:#]+)(#\d+)?$/.exec(name);
  return m ? `${m[2]}:${m[1]}${m[3] ?? ''}` : null;
}
export function meaning(kind: ComponentKind, name: string, links: readonly string[]): string {
  const ends = linkEnds(name);
  switch (kind) {
    case 'link': {
      if (!ends) return 'A link.';
      const back = otherWay(name);
      return back && links.includes(back)
        ? `Both directions of the cable between ${ends[0]} and ${ends[1]}.`
        : `What ${ends[0]} sends to ${ends[1]}.${links.includes(name) ? ' The other direction is not blamed.' : ''}`;
    }
    case 'switch':
      return `The whole switch: ${links.length === 1 ? 'one of its links is' : `${links.length} of its links are`} hurt.`;
    case 'nic': {
      const m = /^(.+)-p(\d+)/.exec(name);
      return m ? `The port of ${m[1]} into plane ${m[2]}, or its cable.` : 'The port, or its cable.';
    }
    case 'host':
      return 'The machine, on all its planes.';
  }
}
