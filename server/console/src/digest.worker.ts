// The md5 of a file, computed beside the page. Knows: reading a file by slices, hash-wasm, a state
// that can be saved. Must not know: uploads.

import { createMD5, type IHasher } from 'hash-wasm'

export interface Saved {
  offset: number
  /** hash-wasm's own form, in base64. */
  state: string
}

export type Order =
  /** A digest of a few places: whether this may be the file of last time. */
  | { kind: 'sample'; file: Blob }
  /** Go on from `saved`; with `prove`, read what is before it too, and tell whether it is the same. */
  | { kind: 'digest'; file: Blob; saved: Saved | null; prove: boolean }

export type News =
  | { kind: 'sampled'; sample: string }
  | { kind: 'proven' }
  | { kind: 'different' }
  | { kind: 'reached'; saved: Saved }
  | { kind: 'digested'; md5: string }
  | { kind: 'failed'; message: string }

const MIB = 1024 * 1024
const SLICE = 4 * MIB
const SAMPLE = 256 * 1024
const SAMPLES = 16
const SAVE_MS = 1000

const tell = (news: News) => postMessage(news)

function toBase64(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes))
}

function fromBase64(text: string): Uint8Array {
  return Uint8Array.from(atob(text), (one) => one.charCodeAt(0))
}

async function feed(hasher: IHasher, file: Blob, from: number, to: number): Promise<void> {
  hasher.update(new Uint8Array(await file.slice(from, to).arrayBuffer()))
}

async function sample(file: Blob): Promise<string> {
  const hasher = (await createMD5()).init()
  hasher.update(`${file.size} `)
  for (let place = 0; place < SAMPLES; place += 1) {
    const from = Math.floor((Math.max(0, file.size - SAMPLE) * place) / (SAMPLES - 1))
    await feed(hasher, file, from, from + SAMPLE)
  }
  return hasher.digest()
}

async function digest(file: Blob, saved: Saved | null, prove: boolean): Promise<void> {
  const hasher = (await createMD5()).init()
  let offset = 0
  let unproven = prove ? saved : null
  if (saved && !prove) {
    hasher.load(fromBase64(saved.state))
    offset = saved.offset
  }
  let told = performance.now()
  while (offset < file.size) {
    const to = Math.min(offset + SLICE, file.size, unproven?.offset ?? file.size)
    await feed(hasher, file, offset, to)
    offset = to
    if (unproven && offset === unproven.offset) {
      if (toBase64(hasher.save()) !== unproven.state) {
        tell({ kind: 'different' })
        return
      }
      unproven = null
      tell({ kind: 'proven' })
    }
    if (!unproven && (performance.now() - told > SAVE_MS || offset === file.size)) {
      told = performance.now()
      tell({ kind: 'reached', saved: { offset, state: toBase64(hasher.save()) } })
    }
  }
  tell({ kind: 'digested', md5: toBase64(hasher.digest('binary')) })
}

addEventListener('message', async ({ data }: MessageEvent<Order>) => {
  try {
    if (data.kind === 'sample') tell({ kind: 'sampled', sample: await sample(data.file) })
    else await digest(data.file, data.saved, data.prove)
  } catch (error) {
    tell({ kind: 'failed', message: String(error) })
  }
})
