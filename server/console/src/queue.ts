// Whose turn it is. Knows: how many connections may be used at once. Must not know: how a file is
// sent.

import type { Send } from './send'

const LOOK_MS = 5000
// A page in the background gets its timers once a minute.
const SLEPT_MS = 90_000

export class Queue {
  #sends: Send[] = []

  /** `most` connections at once: a browser has six to a server, and needs some for other things. */
  constructor(private most: number) {
    addEventListener('online', () => {
      for (const send of this.#sends) send.hurry()
    })
    let looked = Date.now()
    setInterval(() => {
      // A timer that comes much too late: the machine slept, and its connections did not outlive that.
      const slept = Date.now() - looked > SLEPT_MS
      looked = Date.now()
      for (const send of this.#sends) send.lookForStall(slept)
    }, LOOK_MS)
  }

  allow(most: number): void {
    this.most = most
    this.turn()
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
      if (used > 0 && used + send.memory.parts > this.most) return
      used += send.memory.parts
      void send.begin()
    }
  }
}
