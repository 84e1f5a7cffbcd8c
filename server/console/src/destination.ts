// Where an image could go, put together from its own name and from where this caller may write.
// Knows: the grammar of names as far as a proposal needs it. Must not know: whether it is allowed
// (the server is asked that).

import type { Destinations } from './api'
import type { Contents } from './archive'

const LAST = 'tusboat.destination'

interface OwnName {
  host: string
  path: string
  tag: string
}

function ownName(text: string): OwnName {
  const bare = text.split('@')[0]!
  const slash = bare.indexOf('/')
  const first = bare.slice(0, Math.max(slash, 0))
  const host = /[.:]|^localhost$/.test(first) ? first : ''
  const rest = host ? bare.slice(slash + 1) : bare
  const colon = rest.lastIndexOf(':')
  if (colon > rest.lastIndexOf('/')) return { host, path: rest.slice(0, colon), tag: rest.slice(colon + 1) }
  // Some writers say a tag only.
  if (!host && slash < 0) return { host: '', path: '', tag: rest }
  return { host, path: rest, tag: 'latest' }
}

/** The fixed beginning of a pattern, up to a slash: `harbor.example/llm/*` begins with `harbor.example/llm/`. */
function beginning(pattern: string): string {
  const fixed = pattern.split(/[*?[]/)[0]!
  return fixed === pattern ? fixed : fixed.slice(0, fixed.lastIndexOf('/') + 1)
}

function prefixes({ registries, repositories, default_repository }: Destinations): string[] {
  const places = registries.flatMap(({ host, repositories: rows }) => rows.map((row) => `${host}/${beginning(row)}`))
  const mine = repositories.map(beginning).filter(Boolean)
  const within = mine.filter((one) => places.some((place) => one.startsWith(place) || place.startsWith(one)))
  return [...(default_repository ? [`${default_repository}/`] : []), ...within, ...places]
}

function fileName(name: string): string {
  const stem = name.replace(/\.(tar|tgz|tar\.\w+|oci)$/i, '').toLowerCase()
  return stem.replace(/[^a-z0-9._-]+/g, '-').replace(/^[._-]+|[._-]+$/g, '') || 'image'
}

export function remembered(): string {
  return localStorage.getItem(LAST) ?? ''
}

/** Keep where the last one went: the next one probably goes there too. */
export function rememberFor(image: string): void {
  if (image.includes('/')) localStorage.setItem(LAST, image.slice(0, image.lastIndexOf('/') + 1))
}

/** A destination to begin with; empty where nobody can say a registry. */
export function propose(file: string, contents: Contents, known: Destinations): string {
  const names = contents.images.flatMap((image) => image.tags).map(ownName)
  const best = names.find((name) => name.path) ?? names[0]
  const path = best?.path || fileName(file)
  const tag = best?.tag || 'latest'
  const last = path.split('/').pop()
  const hosts = known.registries.map((registry) => registry.host)
  // It was saved from where it is to go.
  if (best && hosts.includes(best.host.toLowerCase())) return `${best.host.toLowerCase()}/${path}:${tag}`
  const before = remembered()
  if (before && hosts.includes(before.split('/')[0]!)) return `${before}${last}:${tag}`
  const prefix = prefixes(known)[0]
  if (!prefix) return ''
  if (!prefix.endsWith('/')) return `${prefix}:${tag}`
  return `${prefix}${prefix.split('/').length > 2 ? last : path}:${tag}`
}
