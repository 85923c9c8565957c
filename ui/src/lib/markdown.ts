// Markdown as a tree of tokens; parts/Markdown.svelte makes elements of it. No HTML string is ever made, so nothing in a
// text can become markup: HTML in it is shown as the characters it is.
import { lexer, type Token, type TokensList } from 'marked';

export type { Token };

export function parse(markdown: string): TokensList {
  return lexer(markdown, { gfm: true });
}

/** Characters that Markdown's lexer left as entities. */
export function plain(text: string): string {
  return text.replace(/&(amp|lt|gt|quot|#39);/g, (_, e: string) => ({ amp: '&', lt: '<', gt: '>', quot: '"', '#39': "'" })[e]!);
}

/** The words of a heading, without its marks. */
export function words(tokens: readonly Token[]): string {
  return tokens.map((t) => ('tokens' in t && t.tokens ? words(t.tokens) : 'text' in t ? plain(String(t.text)) : '')).join('');
}

/** A heading's anchor, as GitHub makes them, since the pages link to those. */
export function slug(text: string): string {
  return text.toLowerCase().trim().replace(/[^\p{L}\p{N}\s_-]/gu, '').replace(/\s/g, '-');
}
