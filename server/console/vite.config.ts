// How the page is built. Everything is a file of its own under one origin: nothing inline, no
// data: scripts, so that the policy of `server/page.py` holds.

import { defineConfig } from 'vite'

export default defineConfig({
  // The page also works below a prefix that a proxy adds.
  base: './',
  build: {
    target: 'es2022',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
  worker: { format: 'es' },
})
