// The page's language. Knows: which languages there are and which one is wanted. Must not know:
// where a text is shown.

import { codes } from './words/codes.zh'
import { en, type Key } from './words/en'
import { zh } from './words/zh'

export type { Key }
export const LANGUAGES = { en: 'English', zh: '中文' } as const
export type Language = keyof typeof LANGUAGES

const TEXTS: Record<Language, Record<Key, string>> = { en, zh }
const REMEMBERED = 'tusboat.language'

let current: Language = wanted()

function wanted(): Language {
  const chosen = localStorage.getItem(REMEMBERED)
  const asked = [...(chosen ? [chosen] : []), ...navigator.languages]
  for (const one of asked) {
    const short = one.toLowerCase().split('-')[0]
    if (short && short in TEXTS) return short as Language
  }
  return 'en'
}

export function language(): Language {
  return current
}

export function choose(next: Language): void {
  current = next
  localStorage.setItem(REMEMBERED, next)
}

/** A text of this language; `{name}` in it is replaced. */
export function t(key: Key, values: Record<string, string | number> = {}): string {
  return TEXTS[current][key].replace(/\{(\w+)\}/g, (_, name: string) => String(values[name] ?? ''))
}

/** The text of a key that is put together from what a server says; the server's own word if unknown. */
export function named(prefix: string, word: string): string {
  const key = `${prefix}.${word}`
  return key in TEXTS[current] ? TEXTS[current][key as Key] : word
}

export interface Explained {
  message: string
  hint: string
}

/** What the server says of an error, in this language where its code is known; its own words say the particulars. */
export function explained(code: string, message: string, hint: string): Explained {
  const known = current === 'zh' ? codes[code] : undefined
  return known ? { message: `${known[0]}\n${message}`, hint: known[1] } : { message, hint }
}
