// The way of an upload: received, verified, loaded, pushed. Knows: a document's steps. Must not
// know: what a step does.

import type { Step, StepState } from '../api'
import type { Row } from '../board'
import { arrange, h, icon, type Icon, say } from '../dom'
import { percent } from '../format'
import { named, t } from '../words'

const ICONS: Record<StepState, Icon> = {
  waiting: 'dot',
  running: 'dot',
  done: 'check',
  failed: 'stop',
  skipped: 'minus',
  canceled: 'minus',
}
// What every image goes through; shown before the server says it.
const USUAL = ['verify', 'load', 'push']

interface Stage {
  name: string
  state: StepState
  percent: number | null
}

export function stages(row: Row): Stage[] {
  const { document, send } = row
  const receiving = !document || document.status === 'receiving'
  const done = (send && send.phase !== 'sent' && send.sent) || document?.offset || 0
  const going = send ? send.working || send.phase === 'sent' : !row.left
  const total = send?.file.size ?? document?.length ?? row.left?.size ?? 0
  const ended = document?.status === 'canceled' || document?.status === 'expired'
  const whole = !receiving && (document?.offset ?? 0) >= (document?.length ?? 0)
  const receive: Stage = {
    name: 'receive',
    state: whole ? 'done' : ended ? 'canceled' : going ? 'running' : 'waiting',
    percent: receiving ? percent(done, total) : null,
  }
  const told = document?.steps ?? []
  const known = told.length ? told.map(stage) : ended ? [] : USUAL.map(waiting)
  return [receive, ...known.filter((one) => one.name !== 'cleanup' || one.state === 'failed')]
}

const waiting = (name: string): Stage => ({ name, state: 'waiting', percent: null })

function stage(step: Step): Stage {
  const measured = step.state === 'running' && step.bytes_total > 0
  return { name: step.name, state: step.state, percent: measured ? percent(step.bytes_done, step.bytes_total) : null }
}

export class Steps {
  readonly element = h('ol', { class: 'steps' })
  #items = new Map<string, { item: HTMLElement; mark: HTMLElement; state: HTMLElement; shown: string }>()

  update(row: Row): void {
    const wanted = stages(row)
    for (const one of wanted) this.#show(one)
    arrange(this.element, wanted.map((one) => this.#items.get(one.name)!.item))
  }

  #show(one: Stage): void {
    let made = this.#items.get(one.name)
    if (!made) {
      const mark = h('span', { class: 'step-mark' })
      const state = h('span', { class: 'step-state' })
      const label = h('span', { class: 'step-name' }, named('step', one.name))
      made = { item: h('li', {}, mark, label, state), mark, state, shown: '' }
      this.#items.set(one.name, made)
    }
    if (made.shown !== one.state) {
      made.shown = one.state
      made.item.className = `step step-${one.state}`
      made.mark.replaceChildren(icon(ICONS[one.state]))
    }
    const text = one.percent === null ? t(`stepstate.${one.state}`) : `${one.percent}%`
    say(made.state, text)
    made.state.classList.toggle('visually-hidden', one.percent === null && one.state !== 'skipped')
  }
}
