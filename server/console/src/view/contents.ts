// What is in an archive, for a person. Knows: the look that `archive.ts` takes. Must not know: where
// the archive goes.

import type { Contents, Image, Platform } from '../archive'
import { h, icon } from '../dom'
import { bytes } from '../format'
import { type Key, t } from '../words'

const UNREADABLE = ['not-tar', 'truncated', 'too-many', 'no-image', 'context', 'broken']

export function summary(contents: Contents | null): HTMLElement {
  if (!contents) return h('p', { class: 'muted' }, t('draft.reading'))
  if (contents.kind === 'compressed') return h('p', { class: 'muted' }, t('draft.compressed', { by: contents.detail }))
  if (contents.kind === 'unreadable') {
    const key = UNREADABLE.includes(contents.detail) ? contents.detail : 'broken'
    return h('p', { class: 'warning' }, icon('alert'), h('span', {}, t(`draft.${key}` as Key)))
  }
  const images = contents.images
  const platforms = [...new Set(images.flatMap((image) => image.platforms.map((one) => one.name)))]
  const alone = images.length === 1 ? images[0] : undefined
  return h(
    'div',
    { class: 'chips' },
    h('span', { class: 'chip' }, t(contents.detail === 'oci' ? 'draft.oci' : 'draft.docker')),
    images.length > 1 && h('span', { class: 'chip' }, t('draft.images', { count: images.length })),
    ...(alone?.tags ?? []).map((tag) => h('span', { class: 'chip chip-name' }, tag)),
    ...platforms.map((name) => h('span', { class: 'chip' }, name)),
    alone?.platforms.length === 1 && h('span', { class: 'chip' }, layers(alone.platforms[0]!)),
  )
}

function layers(platform: Platform): string {
  return platform.layers.length === 1 ? t('draft.layer') : t('draft.layers', { count: platform.layers.length })
}

/** All of it, image by image; nothing where nothing is known. */
export function inside(contents: Contents | null): HTMLElement | null {
  if (contents?.kind !== 'images' || !contents.images.length) return null
  const images = contents.images.map((image) =>
    h('li', {}, h('span', { class: 'inside-name' }, nameOf(image)), h('ul', {}, ...image.platforms.map(platformLine))),
  )
  return h('details', { class: 'inside' }, h('summary', {}, icon('chevron'), t('draft.inside')), h('ul', {}, ...images))
}

export function nameOf(image: Image): string {
  return image.tags.join(', ') || t('draft.untagged')
}

function platformLine(platform: Platform): HTMLElement {
  const sizes = platform.layers.map((layer) =>
    h('li', {}, h('code', {}, layer.digest.replace(/^sha256:/, '').slice(0, 12)), ' ', layer.size === null ? '–' : bytes(layer.size)),
  )
  const missing = platform.missing ? ` · ${t('draft.missing', { count: platform.missing })}` : ''
  const text = `${platform.name} · ${layers(platform)} · ${bytes(platform.size)}${missing}`
  return h('li', {}, h('span', { class: missing ? 'warning' : '' }, text), h('ol', { class: 'layers' }, ...sizes))
}
