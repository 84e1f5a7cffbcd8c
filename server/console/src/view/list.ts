// The list of uploads, with what chooses among them. Knows: the board's rows. Must not know: what is
// in a row.

import type { Board, Row } from '../board'
import { arrange, h, icon, say, show } from '../dom'
import { type Key, t } from '../words'
import { button } from './parts'
import { fileName, isOver, RowView, stateOf } from './row'

const FILTERS = ['all', 'active', 'done', 'failed'] as const
type Filter = (typeof FILTERS)[number]
const STATUSES: Record<Filter, string> = { all: '', active: 'receiving,queued,running', done: 'done', failed: 'failed' }
const SEARCH_MS = 300

export class List {
  readonly element: HTMLElement
  readonly #list = h('ul', { class: 'cards' })
  readonly #empty = h('div', { class: 'empty' })
  readonly #more: HTMLButtonElement
  readonly #count = h('span', { class: 'count' })
  #views = new Map<string, RowView>()
  #filter: Filter = 'all'
  #said = ''
  #asking: ReturnType<typeof setTimeout> | undefined

  constructor(private readonly board: Board) {
    this.#more = button(t('list.more'), null, () => void board.load(true), 'wide')
    const search = h('input', {
      type: 'search',
      class: 'field',
      placeholder: t('list.search'),
      'aria-label': t('list.search'),
      input: () => this.#search(search.value),
    })
    search.value = board.search
    this.element = h(
      'section',
      { class: 'section', id: 'uploads', tabindex: -1, 'aria-labelledby': 'list-title' },
      h('div', { class: 'section-head' }, h('h2', { id: 'list-title' }, t('list.title'), ' ', this.#count)),
      h('div', { class: 'tools' }, this.#filters(), h('div', { class: 'search' }, icon('search'), search)),
      this.#list,
      this.#empty,
      this.#more,
    )
  }

  update(): void {
    const rows = this.board.rows.filter((row) => this.#fits(row))
    const elements = rows.map((row) => {
      const view = this.#views.get(row.key)
      if (view) {
        view.update(row)
        return view.element
      }
      const made = new RowView(this.board, row)
      this.#views.set(row.key, made)
      return made.element
    })
    const keys = new Set(rows.map((row) => row.key))
    for (const key of this.#views.keys()) if (!keys.has(key)) this.#views.delete(key)
    arrange(this.#list, elements)
    say(this.#count, rows.length ? String(rows.length) : '')
    this.#showEmpty(rows.length === 0)
    show(this.#more, this.board.more !== null)
  }

  #filters(): HTMLElement {
    const name = 'filter'
    const choices = FILTERS.map((one) => {
      const radio = h('input', {
        type: 'radio',
        name,
        id: `filter-${one}`,
        checked: one === this.#filter,
        class: 'visually-hidden',
        change: () => {
          this.#filter = one
          this.board.statuses = STATUSES[one]
          this.update()
          void this.board.load().catch(() => {})
        },
      })
      return h('span', { class: 'segment' }, radio, h('label', { for: `filter-${one}` }, t(`list.${one}`)))
    })
    return h('fieldset', { class: 'segments' }, h('legend', { class: 'visually-hidden' }, t('list.filter')), ...choices)
  }

  #fits(row: Row): boolean {
    const [, tone] = stateOf(row)
    const chosen =
      this.#filter === 'all' ||
      (this.#filter === 'active' && !isOver(row)) ||
      (this.#filter === 'done' && (tone === 'good' || row.document?.status === 'done')) ||
      (this.#filter === 'failed' && tone === 'bad')
    const image = row.document?.image ?? row.send?.memory.image ?? row.left?.image ?? ''
    const words = `${fileName(row)} ${image} ${row.document?.id ?? ''}`.toLowerCase()
    return chosen && words.includes(this.board.search.toLowerCase())
  }

  #search(text: string): void {
    this.board.search = text.trim()
    this.update()
    clearTimeout(this.#asking)
    this.#asking = setTimeout(() => void this.board.load().catch(() => {}), SEARCH_MS)
  }

  #showEmpty(empty: boolean): void {
    const chosen = this.#filter !== 'all' || this.board.search !== ''
    const title: Key = chosen ? 'list.nothing' : this.board.loaded ? 'list.empty' : 'list.loading'
    const text: Key | null = chosen ? 'list.nothing.text' : this.board.loaded ? 'list.empty.text' : null
    show(this.#empty, empty)
    if (this.#said === title) return
    this.#said = title
    this.#empty.replaceChildren(icon('box'), h('p', { class: 'empty-title' }, t(title)), text ? h('p', {}, t(text)) : '')
  }
}
