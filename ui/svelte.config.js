// Svelte 5 with runes everywhere; nothing else is configured.
export default { compilerOptions: { runes: true } };
