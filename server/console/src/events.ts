// One connection for everything that happens. Knows: server-sent events over fetch (so that the
// token is a header, not a part of a URL), and how to come back. Must not know: what an event means.

import { ask, Problem } from './api'

export interface Listener {
  /** A connection stands; what happened before it has to be asked for. */
  connected(): void
  event(kind: string, data: unknown, id: string): void
  /** It is gone, and will be tried again. */
  lost(): void
  /** The server wants a token, or another one; nothing is tried until `start` is called again. */
  unauthorized(): void
}

const FIRST_DELAY_MS = 500
const LONGEST_DELAY_MS = 30_000
// The server says something every 15 seconds.
const SILENCE_MS = 45_000

export class Events {
  #stop: AbortController | null = null
  #lastId = ''

  constructor(private readonly listener: Listener) {
    addEventListener('online', () => this.#hurry?.())
  }

  #hurry: (() => void) | null = null

  start(): void {
    this.#stop?.abort()
    this.#stop = new AbortController()
    void this.#run(this.#stop.signal)
  }

  async #run(signal: AbortSignal): Promise<void> {
    let delay = FIRST_DELAY_MS
    while (!signal.aborted) {
      try {
        await this.#read(signal, () => {
          delay = FIRST_DELAY_MS
        })
      } catch (error) {
        if (signal.aborted) return
        if (error instanceof Problem && error.unauthorized) {
          this.listener.unauthorized()
          return
        }
      }
      if (signal.aborted) return
      this.listener.lost()
      await this.#wait(delay)
      delay = Math.min(delay * 2, LONGEST_DELAY_MS)
    }
  }

  #wait(milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds)
      this.#hurry = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }

  async #read(signal: AbortSignal, stands: () => void): Promise<void> {
    // A laptop that slept holds a connection that nobody serves any more.
    const silence = new AbortController()
    let timer = setTimeout(() => silence.abort(), SILENCE_MS)
    try {
      const headers = { Accept: 'text/event-stream', ...(this.#lastId && { 'Last-Event-ID': this.#lastId }) }
      const answer = await ask('api/events', { headers, signal: AbortSignal.any([signal, silence.signal]) })
      stands()
      this.listener.connected()
      const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader()
      let text = ''
      for (;;) {
        const { done, value } = await reader.read()
        if (done) return
        clearTimeout(timer)
        timer = setTimeout(() => silence.abort(), SILENCE_MS)
        const blocks = (text + value).split('\n\n')
        text = blocks.pop() ?? ''
        for (const block of blocks) this.#tell(block)
      }
    } finally {
      clearTimeout(timer)
    }
  }

  #tell(block: string): void {
    const fields = new Map<string, string>()
    for (const line of block.split('\n')) {
      const colon = line.indexOf(': ')
      if (colon > 0) fields.set(line.slice(0, colon), line.slice(colon + 2))
    }
    const data = fields.get('data')
    if (data === undefined) return
    const id = fields.get('id') ?? ''
    this.#lastId = id || this.#lastId
    this.listener.event(fields.get('event') ?? 'message', JSON.parse(data), id)
  }
}
