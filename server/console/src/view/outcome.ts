// How an upload ended: the image and how to get it, or what went wrong and what helps. Knows: results
// and errors of a document, a problem of a sending. Must not know: how to act on them.

import type { Row } from '../board'
import { h, icon } from '../dom'
import { bytes } from '../format'
import { explained, named, t } from '../words'
import { copyable } from './parts'

/** What is to be told now; a new element only when it is something else. */
export class Outcome {
  readonly element = h('div', { class: 'outcome' })
  #shown = ''

  update(row: Row): void {
    const told = tell(row)
    const key = JSON.stringify(told)
    if (key === this.#shown) return
    this.#shown = key
    this.element.replaceChildren(...told.map(part))
  }
}

type Told =
  | { kind: 'result'; image: string; digest: string; platforms: string[] }
  | { kind: 'trouble'; title: string; message: string; hint: string }
  | { kind: 'note'; message: string }

function tell(row: Row): Told[] {
  const { document, send } = row
  const results = document?.results ?? []
  const told: Told[] = results.map((result) => ({ kind: 'result', ...result }))
  const failure = document?.error
  if (failure && document?.status === 'failed') {
    const title = t('error.at', { step: named('step', failure.step) })
    told.push({ kind: 'trouble', title, ...explained(failure.code, failure.message, failure.hint) })
  }
  if (send?.problem && (send.phase === 'refused' || send.phase === 'unauthorized')) {
    const title = t(`phase.${send.phase}`)
    const { code, message, hint } = send.problem
    told.push({ kind: 'trouble', title, ...explained(code, message, hint) })
  }
  if (send?.phase === 'other-file' || send?.phase === 'unreadable') {
    const message = t(send.phase === 'other-file' ? 'row.other.text' : 'row.unreadable.text')
    told.push({ kind: 'trouble', title: t(`phase.${send.phase}`), message, hint: '' })
  }
  if (row.left) told.push({ kind: 'note', message: leftNote(row) })
  return told
}

function leftNote(row: Row): string {
  const { name, size } = row.left!
  if (!row.document) return t('row.again.none', { name })
  return t('row.again.text', { name, done: bytes(row.document.offset), total: bytes(size) })
}

function part(told: Told): HTMLElement {
  if (told.kind === 'note') return h('p', { class: 'note' }, told.message)
  if (told.kind === 'trouble') {
    return h(
      'div',
      { class: 'trouble' },
      icon('alert'),
      h('div', {}, h('p', { class: 'trouble-title' }, told.title), h('p', {}, told.message), told.hint && h('p', { class: 'hint' }, told.hint)),
    )
  }
  const at = told.image.lastIndexOf(':')
  const exact = `${at > told.image.lastIndexOf('/') ? told.image.slice(0, at) : told.image}@${told.digest}`
  return h(
    'dl',
    { class: 'result' },
    h('dt', {}, t('result.image')),
    h('dd', {}, h('span', { class: 'result-name' }, told.image), ...told.platforms.map((one) => h('span', { class: 'chip' }, one)), copyable(exact)),
    h('dt', {}, t('result.pull')),
    h('dd', {}, copyable(`docker pull ${told.image}`)),
  )
}
