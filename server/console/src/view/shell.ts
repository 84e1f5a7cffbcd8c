// The page around everything: head, place to drop files, dialogs. Knows: the other views. Must not
// know: how an upload works.

import { token } from '../api'
import type { Board } from '../board'
import { h, icon, say, show } from '../dom'
import { choose, LANGUAGES, type Language, language, t } from '../words'
import { Drafts } from './draft'
import { List } from './list'
import { announcer, button, chooser } from './parts'
import { TokenQuestion } from './question'

export class Shell {
  readonly #drafts: Drafts
  readonly #list: List
  readonly #token: TokenQuestion
  readonly #connection = h('span', { class: 'connection', role: 'status' })
  readonly #caller = h('span', { class: 'caller' })
  readonly #change: HTMLButtonElement
  readonly #drop: HTMLElement

  constructor(
    private readonly board: Board,
    private readonly rebuild: () => void,
  ) {
    document.documentElement.lang = language() === 'zh' ? 'zh-CN' : 'en'
    document.title = t('title')
    this.#drafts = new Drafts(board)
    this.#list = new List(board)
    this.#token = new TokenQuestion((given) => board.signIn(given))
    this.#change = button(t('token.change'), 'key', () => this.#token.open(''), 'quiet')
    this.#drop = this.#dropZone()
    document.body.replaceChildren(
      h('a', { class: 'skip', href: '#uploads' }, t('skip')),
      this.#head(),
      h('main', { class: 'main' }, this.#drop, this.#drafts.element, this.#list.element),
      this.#token.element,
      announcer,
    )
  }

  update(): void {
    const { connection, destinations } = this.board
    say(this.#connection, t(`connection.${connection}`))
    this.#connection.dataset.state = connection
    const named = destinations && destinations.caller !== 'local' ? destinations.caller : ''
    say(this.#caller, named && t('caller', { name: named }))
    show(this.#change, Boolean(token()))
    if (connection === 'unauthorized') this.#token.open(token())
    this.#drafts.update()
    this.#list.update()
  }

  #head(): HTMLElement {
    const options = Object.entries(LANGUAGES).map(([value, name]) => h('option', { value, lang: value }, name))
    const languages = h('select', { class: 'field compact', 'aria-label': t('language') }, ...options)
    languages.value = language()
    languages.addEventListener('change', () => {
      choose(languages.value as Language)
      this.rebuild()
      document.querySelector<HTMLElement>('header select')?.focus()
    })
    return h(
      'header',
      { class: 'head' },
      h(
        'div',
        { class: 'brand' },
        h('img', { src: './boat.svg', alt: '', width: 32, height: 32 }),
        h('div', {}, h('h1', {}, t('title')), h('p', {}, t('tagline'))),
      ),
      h('div', { class: 'head-tools' }, this.#connection, this.#caller, this.#change, languages),
    )
  }

  #dropZone(): HTMLElement {
    const zone = h(
      'section',
      { class: 'drop', 'aria-labelledby': 'drop-title' },
      h('div', { class: 'drop-picture' }, icon('upload')),
      h('div', { class: 'drop-words' }, h('h2', { id: 'drop-title' }, t('drop.title')), h('p', {}, t('drop.text'))),
      chooser(t('drop.choose'), 'box', (files) => void this.board.take(files), 'primary'),
    )
    // Anywhere on the page will do, and a file that misses must not take the page's place.
    let inside = 0
    const over = (change: number) => {
      inside = Math.max(0, inside + change)
      zone.classList.toggle('drop-over', inside > 0)
      say(zone.querySelector('h2')!, t(inside > 0 ? 'drop.over' : 'drop.title'))
    }
    document.body.ondragenter = () => over(1)
    document.body.ondragleave = () => over(-1)
    document.body.ondragover = (event) => event.preventDefault()
    document.body.ondrop = (event) => {
      event.preventDefault()
      over(-inside)
      void this.board.take([...(event.dataTransfer?.files ?? [])])
    }
    return zone
  }
}
