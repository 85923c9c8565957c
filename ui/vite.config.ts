// How the pages are built: one small entry, a chunk for each page, hashed names under /assets, nothing inlined,
// because the hub's Content-Security-Policy allows neither inline code nor data: addresses.
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';

export default defineConfig({
  plugins: [svelte()],
  build: { target: 'es2022', assetsInlineLimit: 0, modulePreload: { polyfill: false }, reportCompressedSize: false },
  server: { proxy: { '/api': process.env.SELVEDGE_URL ?? 'http://127.0.0.1:8080' } },
  test: { include: ['src/**/*.test.ts'] },
} as Parameters<typeof defineConfig>[0]);
