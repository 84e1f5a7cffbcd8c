// What is known of an unfinished upload when the page comes back. Knows: this browser's storage.
// Must not know: files (the browser forgets those), how an upload goes on.

import type { Saved } from './digest'

export interface Wish {
  image: string
  ref: string
  allowPartial: boolean
  /** Connections for this file. */
  parts: number
}

export interface Remembered extends Wish {
  key: string
  name: string
  size: number
  modified: number
  /** A digest of a few places of the file. */
  sample: string
  url: string | null
  partUrls: string[] | null
  md5: Saved | null
}

const PREFIX = 'tusboat.upload.'

export function newKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, '0')).join('')
}

export function remember(one: Remembered): void {
  try {
    localStorage.setItem(PREFIX + one.key, JSON.stringify(one))
  } catch {
    // A browser that keeps nothing can still send; it cannot go on after a reload.
  }
}

export function forget(key: string): void {
  localStorage.removeItem(PREFIX + key)
}

export function remembered(): Remembered[] {
  const found: Remembered[] = []
  for (const key of Object.keys(localStorage)) {
    if (!key.startsWith(PREFIX)) continue
    try {
      found.push(JSON.parse(localStorage.getItem(key) ?? '') as Remembered)
    } catch {
      localStorage.removeItem(key)
    }
  }
  return found
}

export function idOf(url: string | null): string | null {
  return url?.split('/').pop() ?? null
}
