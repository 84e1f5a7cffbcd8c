// One upload in the list. Knows: a row of the board, and what can be done with it. Must not know: how
// that is done.

import { type Board, OVER, type Row } from '../board'
import { h, type Icon, say, show } from '../dom'
import { bytes, duration, percent, speed } from '../format'
import { Pace } from '../pace'
import { type Key, t } from '../words'
import { Details } from './details'
import { Outcome } from './outcome'
import { actionOn, announce, chooser } from './parts'
import { askToCancel } from './question'
import { Steps } from './steps'

type Action = [string, () => HTMLElement]
type Choose = (press: (file: File) => void) => Action
type Act = (label: Key, picture: Icon, press: () => void, look?: string) => Action
type Tone = 'busy' | 'good' | 'bad' | 'idle'

const TROUBLES = ['refused', 'other-file', 'unreadable', 'unauthorized']

/** Where it is, in one word, and how to feel about it. */
export function stateOf(row: Row): [Key, Tone] {
  const { document, send } = row
  if (send && send.phase !== 'sent' && !(document && OVER.includes(document.status))) {
    const tone = TROUBLES.includes(send.phase) ? 'bad' : ['paused', 'queued', 'canceled'].includes(send.phase) ? 'idle' : 'busy'
    const now = send.phase === 'retrying' && send.retryAt <= Date.now()
    return [now ? 'phase.retrying.now' : `phase.${send.phase}`, tone]
  }
  if (row.left) return ['phase.left', 'idle']
  if (!document) return ['phase.sent', 'busy']
  if (document.status === 'done') {
    if (document.results.length) return ['state.done', 'good']
    const unproven = document.steps.some((step) => step.name === 'verify' && step.state === 'skipped')
    return unproven ? ['state.unproven', 'idle'] : ['state.kept', 'good']
  }
  if (document.status === 'failed') return ['state.failed', 'bad']
  return [`state.${document.status}`, OVER.includes(document.status) ? 'idle' : 'busy']
}

export function isOver(row: Row): boolean {
  if (row.document) return OVER.includes(row.document.status)
  return row.send?.phase === 'canceled'
}

export class RowView {
  readonly element: HTMLElement
  readonly #name: HTMLElement
  readonly #size = h('span', { class: 'size' })
  readonly #to = h('p', { class: 'to' })
  readonly #badge = h('span', { class: 'badge' })
  readonly #numbers = h('p', { class: 'numbers' })
  readonly #bar: HTMLProgressElement
  readonly #steps = new Steps()
  readonly #outcome = new Outcome()
  readonly #actions = h('div', { class: 'actions' })
  readonly #details: Details
  #row: Row
  /** Of what is not sent from here: of a step, or of somebody else's sending. */
  readonly #pace = new Pace()
  #paced = ''
  #told = ''
  #acting = ''

  constructor(
    private readonly board: Board,
    row: Row,
  ) {
    this.#row = row
    const name = fileName(row)
    this.#name = h('h3', { class: 'name', title: name }, name)
    this.#bar = h('progress', { class: 'bar', max: 100, 'aria-label': t('row.progress', { name }) })
    this.#details = new Details(board)
    this.element = h(
      'li',
      { class: 'card upload', tabindex: -1, 'data-upload': name },
      h('div', { class: 'card-head' }, this.#name, this.#size, this.#badge),
      this.#to,
      this.#bar,
      this.#numbers,
      h('div', { class: 'card-way' }, this.#steps.element, this.#details.element),
      this.#outcome.element,
      this.#actions,
    )
    this.update(row)
  }

  update(row: Row): void {
    this.#row = row
    const { document, send } = row
    const image = document?.image ?? send?.memory.image ?? row.left?.image
    say(this.#to, image ? t('row.to', { image }) : t('row.kept'))
    this.#to.classList.toggle('mono', Boolean(image))
    const total = document?.length ?? send?.file.size ?? row.left?.size
    say(this.#size, total === null || total === undefined ? '' : bytes(total))
    const [state, tone] = stateOf(row)
    const wait = Math.ceil(((send?.retryAt ?? 0) - Date.now()) / 1000)
    say(this.#badge, t(state, { count: Math.max(1, wait) }))
    this.#badge.className = `badge badge-${tone}`
    this.element.dataset.state = state
    this.#showProgress(tone)
    this.#steps.update(row)
    this.#outcome.update(row)
    this.#showActions()
    this.#details.update(document)
    this.#announce(state)
  }

  #showProgress(tone: Tone): void {
    const { document, send } = this.#row
    const receiving = !isOver(this.#row) && (!document || document.status === 'receiving')
    const running = document?.steps.find((step) => step.state === 'running')
    let done = 0
    let total = 0
    if (receiving) {
      done = send?.sent || document?.offset || 0
      total = send?.file.size ?? document?.length ?? this.#row.left?.size ?? 0
    } else if (running) {
      done = running.bytes_done
      total = running.bytes_total
    }
    const known = total > 0
    show(this.#bar, receiving || Boolean(running) || document?.status === 'queued')
    this.#bar.classList.toggle('bar-bad', tone === 'bad')
    this.#bar.classList.toggle('bar-idle', tone === 'idle')
    if (known) this.#bar.value = percent(done, total)
    else this.#bar.removeAttribute('value')
    show(this.#numbers, known)
    if (known) say(this.#numbers, numbers(done, total, this.#perSecond(running?.name ?? document?.status ?? '', done)))
  }

  #perSecond(what: string, done: number): number {
    const { send, document } = this.#row
    if (send && send.phase !== 'sent') return send.phase === 'sending' ? send.pace.perSecond : 0
    if (this.#paced !== what) this.#pace.reset()
    this.#paced = what
    const moving = document?.status === 'running' || document?.status === 'receiving'
    if (!moving) return 0
    this.#pace.add(done)
    return this.#pace.perSecond
  }

  #showActions(): void {
    const wanted = this.#wanted()
    const key = wanted.map(([label]) => label).join()
    if (key === this.#acting) return
    this.#acting = key
    const held = this.#actions.contains(document.activeElement)
    this.#actions.replaceChildren(...wanted.map(([, make]) => make()))
    // The button that was pressed is gone; whoever uses the keyboard stays here.
    if (held) (this.#actions.querySelector('button') ?? this.element).focus()
  }

  #wanted(): Action[] {
    const { board } = this
    const name = fileName(this.#row)
    const { send, left } = this.#row
    const act: Act = (label, picture, press, look = '') => [label, () => actionOn(name, t(label), picture, press, look)]
    const choose: Choose = (press) => [
      'choose',
      () => chooser(t('action.choose'), 'upload', ([file]) => file && press(file), 'primary', false),
    ]
    const stop = act('action.cancel', 'stop', () => void this.#cancel(), 'quiet')
    if (isOver(this.#row)) return this.#wantedAtTheEnd(act, choose)
    if (left) return [choose((file) => board.goOn(left, file)), stop]
    if (!send || send.phase === 'sent') return [stop]
    if (send.phase === 'paused') return [act('action.resume', 'play', () => board.resume(send), 'primary'), stop]
    if (send.phase === 'retrying') return [act('action.now', 'retry', () => send.hurry()), act('action.pause', 'pause', () => board.pause(send)), stop]
    if (send.phase === 'other-file' || send.phase === 'unreadable') return [choose((file) => board.replace(send, file)), stop]
    if (send.phase === 'refused') {
      const gone = send.problem?.status === 404 || send.problem?.status === 410
      return gone
        ? [act('action.restart', 'retry', () => send.startOver(), 'primary'), act('action.dismiss', 'stop', () => board.dismiss(this.#row), 'quiet')]
        : [act('action.retry', 'retry', () => board.resume(send), 'primary'), stop]
    }
    return [act('action.pause', 'pause', () => board.pause(send)), stop]
  }

  #wantedAtTheEnd(act: Act, choose: Choose): Action[] {
    const { document, send } = this.#row
    const away = act('action.dismiss', 'stop', () => this.board.dismiss(this.#row), 'quiet')
    if (!document) return [away]
    if (document.status !== 'failed' || document.offset !== document.length) return []
    // What arrived is not what was sent: the same again is no help, the same file is.
    if (document.error?.code === 'digest_mismatch') {
      return send
        ? [act('action.restart', 'upload', () => this.board.sendAgain(this.#row), 'primary')]
        : [choose((file) => this.board.sendInstead(document, file))]
    }
    return [act('action.retry', 'retry', () => void this.#do(this.board.retry(this.#row)), 'primary')]
  }

  async #cancel(): Promise<void> {
    if (await askToCancel(fileName(this.#row))) await this.#do(this.board.cancel(this.#row))
  }

  /** What the server refuses is said where it was asked. */
  async #do(asked: Promise<void>): Promise<void> {
    try {
      await asked
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error)
      this.#outcome.element.append(h('p', { class: 'note', role: 'alert' }, text))
    }
  }

  #announce(state: Key): void {
    const before = this.#told
    this.#told = state
    if (!before || before === state) return
    const news: Partial<Record<Key, Key>> = {
      'phase.sending': 'news.started',
      'phase.paused': 'news.paused',
      'state.done': 'news.done',
      'state.kept': 'news.done',
      'state.unproven': 'news.done',
      'state.failed': 'news.failed',
      'phase.refused': 'news.failed',
      'state.canceled': 'news.canceled',
    }
    const key = news[state]
    if (key) announce(t(key, { name: fileName(this.#row) }))
  }
}

export function fileName(row: Row): string {
  return row.send?.file.name ?? row.left?.name ?? (row.document?.filename || row.document?.id || '')
}

function numbers(done: number, total: number, pace: number): string {
  const parts = [t('row.of', { done: bytes(done), total: bytes(total) })]
  if (pace > 0) parts.push(speed(pace), t('row.left', { time: duration((total - done) / pace) }))
  return parts.join(' · ')
}
