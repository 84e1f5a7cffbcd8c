// A chosen file before it is sent: what it is, where it is to go. Knows: a draft. Must not know: how
// it is sent.

import type { Board, Draft } from '../board'
import { h, say, show } from '../dom'
import { bytes } from '../format'
import { explained, type Key, t } from '../words'
import { inside, nameOf, summary } from './contents'
import { actionOn, button } from './parts'

const ASK_MS = 350

export class DraftView {
  readonly element: HTMLElement
  readonly #image: HTMLInputElement
  readonly #verdict: HTMLElement
  readonly #start: HTMLButtonElement
  readonly #contents = h('div', { class: 'draft-contents' })
  readonly #options = h('div', { class: 'options' })
  #shown: unknown = undefined
  #asking: ReturnType<typeof setTimeout> | undefined
  #wanted = false

  constructor(
    private readonly board: Board,
    private readonly draft: Draft,
  ) {
    const { key, file } = draft
    this.#image = h('input', {
      id: `image-${key}`,
      class: 'field mono',
      placeholder: t('draft.placeholder'),
      autocomplete: 'off',
      autocapitalize: 'off',
      spellcheck: 'false',
      'aria-describedby': `verdict-${key}`,
      input: () => this.#edited(),
      keydown: (event: KeyboardEvent) => event.key === 'Enter' && this.begin(),
    })
    this.#image.value = draft.wish.image
    this.#verdict = h('p', { id: `verdict-${key}`, class: 'verdict', role: 'status' })
    this.#start = button(t('draft.start'), 'upload', () => this.begin(), 'primary')
    this.element = h(
      'li',
      { class: 'card draft', 'data-draft': file.name },
      h(
        'div',
        { class: 'card-head' },
        h('h3', { class: 'name', title: file.name }, file.name),
        h('span', { class: 'size' }, bytes(file.size)),
        actionOn(file.name, t('draft.remove'), 'stop', () => board.drop(draft), 'quiet icon-only'),
      ),
      this.#contents,
      h('label', { for: `image-${key}`, class: 'label' }, t('draft.destination')),
      h('div', { class: 'destination' }, this.#image, this.#start),
      this.#verdict,
      this.#options,
    )
    this.update()
  }

  focus(): void {
    this.#image.focus({ preventScroll: false })
  }

  /** Send it; while the server is still being asked, as soon as it has answered. */
  begin(): void {
    this.#wanted = this.draft.verdict === null
    if (this.#allowed) this.board.begin(this.draft)
  }

  get #allowed(): boolean {
    return this.draft.verdict?.allowed === true
  }

  update(): void {
    const { contents, wish, verdict } = this.draft
    if (!this.draft.touched && this.#image.value !== wish.image) this.#image.value = wish.image
    if (this.#shown !== contents) {
      this.#shown = contents
      this.#contents.replaceChildren(summary(contents))
      const list = inside(contents)
      if (list) this.#contents.append(list)
      this.#options.replaceChildren(...this.#choices())
    }
    this.#judge()
    if (this.#wanted && verdict) this.begin()
  }

  #judge(): void {
    const { verdict, wish } = this.draft
    this.#start.setAttribute('aria-disabled', String(!this.#allowed))
    this.#verdict.className = `verdict ${verdict?.allowed === false ? 'bad' : verdict && wish.image ? 'good' : ''}`
    if (!verdict) say(this.#verdict, t('draft.checking'))
    else if (!verdict.allowed) {
      const { message, hint } = explained(verdict.code ?? '', verdict.reason, verdict.hint)
      say(this.#verdict, [message, hint].filter(Boolean).join('\n'))
    }
    else if (!wish.image) say(this.#verdict, this.#withoutImage())
    else say(this.#verdict, [t(verdict.exists ? 'draft.exists' : 'draft.allowed'), this.#several()].join(' '))
    this.#image.setAttribute('aria-invalid', String(verdict?.allowed === false))
  }

  #withoutImage(): string {
    const repository = this.board.destinations?.default_repository
    return repository ? t('draft.empty.default', { repository }) : t('draft.empty.kept')
  }

  #several(): string {
    const { contents, wish } = this.draft
    return (contents?.images.length ?? 0) > 1 && !wish.ref ? t('draft.several') : ''
  }

  #edited(): void {
    this.#wanted = false
    this.draft.touched = true
    this.draft.wish.image = this.#image.value.trim()
    this.#ask()
  }

  #ask(): void {
    this.draft.verdict = null
    this.#judge()
    clearTimeout(this.#asking)
    this.#asking = setTimeout(() => void this.board.check(this.draft), ASK_MS)
  }

  /** What most people never need. */
  #choices(): HTMLElement[] {
    const { contents, wish, key } = this.draft
    const images = contents?.kind === 'images' ? contents.images : []
    const missing = images.some((image) => image.platforms.some((one) => one.missing))
    const choices: HTMLElement[] = []
    if (images.length > 1) {
      const every = h('option', { value: '' }, t('draft.every', { count: images.length }))
      const each = images.map((image, place) => h('option', { value: `@${place}` }, nameOf(image)))
      choices.push(this.#select(`ref-${key}`, 'draft.which', [every, ...each], wish.ref, (value) => {
        wish.ref = value
        this.#ask()
      }))
    }
    if (missing) {
      const box = h('input', { type: 'checkbox', id: `partial-${key}`, change: () => (wish.allowPartial = box.checked) })
      choices.push(h('div', { class: 'check' }, box, h('label', { for: `partial-${key}` }, t('draft.partial'))))
    }
    const one = h('option', { value: '1' }, t('draft.parts.one'))
    const most = this.board.sending.uploads_at_once
    if (most === 1) return choices
    const several = h('option', { value: String(most) }, t('draft.parts.several', { count: most }))
    const parts = this.#select(`parts-${key}`, 'draft.parts', [one, several], String(wish.parts), (value) => {
      wish.parts = Number(value)
    })
    const folded = h('details', { class: 'more' }, h('summary', {}, t('draft.options')), parts)
    // Somebody may have opened it before the archive was looked into.
    folded.toggleAttribute('open', this.#options.querySelector('details[open]') !== null)
    return [...choices, folded]
  }

  #select(id: string, label: Key, options: HTMLElement[], value: string, chosen: (value: string) => void): HTMLElement {
    const select = h('select', { id, class: 'field', change: () => chosen(select.value) }, ...options)
    select.value = value
    return h('div', { class: 'choice' }, h('label', { for: id, class: 'label' }, t(label)), select)
  }
}

export class Drafts {
  readonly element: HTMLElement
  readonly #list = h('ul', { class: 'cards' })
  readonly #all: HTMLButtonElement
  #views = new Map<string, DraftView>()

  constructor(private readonly board: Board) {
    this.#all = button('', 'upload', () => {
      for (const view of [...this.#views.values()]) view.begin()
    })
    const title = h('h2', { id: 'drafts-title' }, t('drafts.title'))
    this.element = h(
      'section',
      { class: 'section', 'aria-labelledby': 'drafts-title' },
      h('div', { class: 'section-head' }, title, this.#all),
      this.#list,
    )
  }

  update(): void {
    const { drafts } = this.board
    const fresh: DraftView[] = []
    for (const draft of drafts) {
      let view = this.#views.get(draft.key)
      if (!view) {
        view = new DraftView(this.board, draft)
        this.#views.set(draft.key, view)
        this.#list.append(view.element)
        fresh.push(view)
      }
      view.update()
    }
    for (const [key, view] of this.#views) {
      if (drafts.some((draft) => draft.key === key)) continue
      view.element.remove()
      this.#views.delete(key)
    }
    show(this.element, drafts.length > 0)
    show(this.#all, drafts.length > 1)
    say(this.#all.lastElementChild!, t('drafts.all', { count: drafts.length }))
    fresh[0]?.focus()
  }
}
