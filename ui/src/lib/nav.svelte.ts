// Where we are: the address as reactive state, and how to go elsewhere without loading the page anew.
//
// Invariant: `nav.url` is always the browser's address; only this module touches the history.

class Nav {
  url = $state.raw(new URL(location.href));
  get query(): URLSearchParams {
    return this.url.searchParams;
  }
  /** Another page: a new entry of the history, and the reader's focus goes to its top. */
  go(to: string): void {
    const next = new URL(to, location.href);
    const other = next.pathname !== this.url.pathname;
    history.pushState(null, '', next);
    this.url = next;
    if (other) {
      scrollTo(0, 0);
      document.getElementById('main')?.focus({ preventScroll: true });
    }
  }
  /** The same page in another state, or another page instead of this one. */
  replace(to: string): void {
    const next = new URL(to, location.href);
    if (next.href === this.url.href) return;
    history.replaceState(null, '', next);
    this.url = next;
  }
  /** Follows the browser's buttons and takes over clicks on links of ours. */
  listen(): void {
    addEventListener('popstate', () => {
      this.url = new URL(location.href);
    });
    document.addEventListener('click', (e) => {
      if (e.defaultPrevented || e.button !== 0 || e.metaKey || e.ctrlKey || e.shiftKey || e.altKey) return;
      const a = e.composedPath().find((n): n is HTMLAnchorElement => n instanceof HTMLAnchorElement);
      if (!a || a.target || a.hasAttribute('download') || a.origin !== location.origin || a.pathname.startsWith('/api/')) return;
      if (a.hash && a.pathname === location.pathname && a.search === location.search) return;
      e.preventDefault();
      this.go(a.href);
    });
  }
}
export const nav = new Nav();
