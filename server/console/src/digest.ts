// The page's end of `digest.worker.ts`: one worker for one file. Knows: its messages. Must not know:
// uploads, how a digest is computed.

import type { News, Order, Saved } from './digest.worker'

export type { Saved }

/** The file is not what it was when its first bytes were sent. */
export class OtherFile extends Error {}

/** It cannot be read: it was changed, moved or removed since it was chosen. */
export class Unreadable extends Error {}

export class Digest {
  #worker = new Worker(new URL('./digest.worker.ts', import.meta.url), { type: 'module' })
  #heard: (news: News) => void = () => {}
  #fail: (error: Error) => void = () => {}
  /** base64, once all is read. */
  readonly md5: Promise<string>
  #settle!: { resolve(md5: string): void; reject(error: Error): void }

  constructor(
    private readonly file: Blob,
    /** How far it is, to be kept for the next time. */
    private readonly reached: (saved: Saved) => void,
  ) {
    this.md5 = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject }
    })
    // Whoever waits for it hears of it; nobody else has to.
    this.md5.catch(() => {})
    this.#worker.addEventListener('message', ({ data }: MessageEvent<News>) => {
      if (data.kind === 'reached') this.reached(data.saved)
      if (data.kind === 'digested') this.#settle.resolve(data.md5)
      if (data.kind === 'failed') this.#settle.reject(new Unreadable(data.message))
      this.#heard(data)
    })
    // Its program could not be fetched: that is the line's fault, not the file's.
    this.#worker.addEventListener('error', (event) => {
      const error = new Error(event.message || 'the worker did not start')
      this.#settle.reject(error)
      this.#fail(error)
    })
  }

  /** A digest of a few places of the file. */
  sample(): Promise<string> {
    return this.#answer({ kind: 'sample', file: this.file }, (news) =>
      news.kind === 'sampled' ? news.sample : undefined,
    )
  }

  /** Begin; with `prove`, wait until what is before `saved` was read, and is the same. */
  async begin(saved: Saved | null, prove: boolean): Promise<void> {
    const order: Order = { kind: 'digest', file: this.file, saved, prove }
    if (!saved || !prove) {
      this.#worker.postMessage(order)
      return
    }
    await this.#answer(order, (news) => {
      if (news.kind === 'different') throw new OtherFile()
      return news.kind === 'proven' ? true : undefined
    })
  }

  stop(): void {
    this.#worker.terminate()
  }

  #answer<Answer>(order: Order, read: (news: News) => Answer | undefined): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.#fail = reject
      this.#heard = (news) => {
        try {
          if (news.kind === 'failed') throw new Unreadable(news.message)
          const answer = read(news)
          if (answer !== undefined) resolve(answer)
        } catch (error) {
          reject(error)
        }
      }
      this.#worker.postMessage(order)
    })
  }
}
