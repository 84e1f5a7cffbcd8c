// What only some want to know of an upload: its numbers, what is in the archive, the log. Knows: a
// document, and the server's own look into the archive. Must not know: what can be done with it.

import type { Upload } from '../api'
import type { Contents } from '../archive'
import type { Board } from '../board'
import { arrange, h, say, show } from '../dom'
import { moment } from '../format'
import { t } from '../words'
import { inside } from './contents'

export class Details {
  readonly element: HTMLDetailsElement
  readonly #facts = h('dl', { class: 'facts' })
  readonly #inside = h('div', {})
  readonly #log = h('pre', { class: 'log', tabindex: 0, role: 'log', 'aria-label': t('log') })
  #document: Upload | null = null
  #shown = ''
  #asked = ''
  #read = ''

  constructor(private readonly board: Board) {
    this.element = h(
      'details',
      { class: 'more', toggle: () => this.update(this.#document) },
      h('summary', {}, t('details')),
      this.#facts,
      this.#inside,
      h('h4', { class: 'label' }, t('log')),
      this.#log,
    )
  }

  update(document: Upload | null): void {
    this.#document = document
    show(this.element, document !== null)
    if (!this.element.open || !document) return
    this.#showFacts(document)
    void this.#showInside(document)
    void this.#readLog(document.id)
    const lines = this.board.logs.get(document.id)?.map(({ step, line }) => `${step}: ${line}`)
    const log = lines?.join('\n') || t('log.empty')
    const below = this.#log.scrollTop + this.#log.clientHeight >= this.#log.scrollHeight - 4
    say(this.#log, log)
    if (below) this.#log.scrollTop = this.#log.scrollHeight
  }

  /** Once is enough, when there was an answer: later lines come by themselves. */
  async #readLog(id: string): Promise<void> {
    if (this.#read === id) return
    this.#read = id
    if (!(await this.board.readLog(id))) this.#read = ''
  }

  #showFacts(document: Upload): void {
    const facts: [string, string | null][] = [
      [t('details.id'), document.id],
      [t('details.owner'), document.owner],
      [t('details.protocol'), document.protocol],
      [t('details.created'), moment(document.created_at)],
      [t('details.expires'), document.expires_at && moment(document.expires_at)],
      ['MD5', document.digests.md5],
      ['SHA-256', document.digests.sha256],
    ]
    const lines = facts.filter(([, value]) => value)
    const key = lines.join('\n')
    if (key === this.#shown) return
    this.#shown = key
    arrange(this.#facts, lines.flatMap(([label, value]) => [h('dt', {}, label), h('dd', { class: 'mono' }, value)]))
  }

  /** The server looks when an upload is whole, so it is asked anew when the status is another one. */
  async #showInside(document: Upload): Promise<void> {
    if (this.#asked === document.status) return
    this.#asked = document.status
    const contents: Contents | null = await this.board.contents(document.id)
    this.#inside.replaceChildren(inside(contents) ?? '')
  }
}
