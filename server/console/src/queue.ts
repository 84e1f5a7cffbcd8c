// Whose turn it is. Knows: how many connections may be used at once. Must not know: how a file is
// sent.

import type { Send } from './send'

// A browser has six connections to a server; the others are for events and questions.
export const CONNECTIONS = 3
const LOOK_MS = 5000

export class Queue {
  #sends: Send[] = []

  constructor() {
    addEventListener('online', () => {
      for (const send of this.#sends) send.hurry()
    })
    setInterval(() => {
      for (const send of this.#sends) send.lookForStall()
    }, LOOK_MS)
  }

  add(send: Send): void {
    this.#sends.push(send)
    this.turn()
  }

  remove(send: Send): void {
    this.#sends = this.#sends.filter((one) => one !== send)
    this.turn()
  }

  /** Let those begin for whom there is room, in their order. */
  turn(): void {
    let used = this.#sends.reduce((sum, send) => sum + (send.working ? send.memory.parts : 0), 0)
    for (const send of this.#sends) {
      if (send.phase !== 'queued') continue
      if (used > 0 && used + send.memory.parts > CONNECTIONS) return
      used += send.memory.parts
      void send.begin()
    }
  }
}
