// One file on its way. Knows: tus-js-client, the md5 beside it, what to do when the line or the
// server goes. Must not know: what is shown; when its turn is (`queue.ts`).

import { type DetailedError, type HttpRequest, Upload } from 'tus-js-client'
import { authorization, cancel, FILES, type Problem, problemOf, type Sending } from './api'
import { Digest, OtherFile, Unreadable } from './digest'
import { forget, idOf, type Remembered, remember } from './memory'
import { Pace } from './pace'
import { t } from './words'

export type Phase =
  | 'queued'
  | 'checking'
  | 'sending'
  | 'digesting'
  | 'retrying'
  | 'paused'
  | 'unauthorized'
  | 'refused'
  | 'other-file'
  | 'unreadable'
  | 'sent'
  | 'canceled'

const FIRST_DELAY_MS = 500
const LONGEST_DELAY_MS = 60_000
const STALLED_MS = 60_000
const WORKING: readonly Phase[] = ['checking', 'sending', 'digesting', 'retrying']

export class Send {
  phase: Phase = 'queued'
  sent = 0
  problem: Problem | null = null
  retryAt = 0
  readonly pace = new Pace()
  #upload: Upload | null = null
  #digest: Digest | null = null
  #preparing: Promise<void> | null = null
  /** The file is the one whose first bytes were sent. */
  #proven = false
  #turn = 0
  #timer: ReturnType<typeof setTimeout> | undefined
  #delay = FIRST_DELAY_MS
  #heard = 0
  #chunkBytes = 0

  constructor(
    readonly file: File,
    readonly memory: Remembered,
    private readonly sending: () => Sending,
    private readonly changed: () => void,
  ) {}

  get id(): string | null {
    return idOf(this.memory.url)
  }

  /** Whether it takes up a place in the queue. */
  get working(): boolean {
    return WORKING.includes(this.phase)
  }

  /** Its turn has come, or the time to try again. */
  async begin(): Promise<void> {
    clearTimeout(this.#timer)
    this.#turn += 1
    const turn = this.#turn
    if (!this.#proven) {
      this.#become('checking')
      this.#preparing ??= this.#prepare()
      try {
        await this.#preparing
        this.#proven = true
      } catch (error) {
        this.#stopDigest()
        if (turn === this.#turn) this.#unprepared(error)
        return
      }
      // Somebody may have said pause meanwhile.
      if (turn !== this.#turn || this.phase !== 'checking') return
    }
    this.#attempt()
  }

  pause(): void {
    this.#halt()
    this.#become('paused')
  }

  /** Wait for a turn again. */
  requeue(): void {
    this.problem = null
    this.#delay = FIRST_DELAY_MS
    this.#become('queued')
  }

  /** What the server had is gone: the next turn begins at the first byte. */
  startOver(): void {
    this.memory.url = this.memory.partUrls = null
    this.sent = 0
    remember(this.memory)
    this.requeue()
  }

  /** Do not wait any longer to try again. */
  hurry(): void {
    if (this.phase === 'retrying') void this.begin()
  }

  async cancel(): Promise<void> {
    this.#halt()
    this.#stopDigest()
    const { key, url, partUrls } = this.memory
    if (url) await cancel(idOf(url)!)
    const headers = authorization()
    await Promise.all((partUrls ?? []).map((part) => Upload.terminate(part, { headers }).catch(() => {})))
    forget(key)
    this.#become('canceled')
  }

  #become(phase: Phase): void {
    this.phase = phase
    this.#heard = performance.now()
    if (phase !== 'sending') this.pace.reset()
    this.changed()
  }

  #halt(): void {
    clearTimeout(this.#timer)
    void this.#upload?.abort()
    this.#upload = null
  }

  #stopDigest(): void {
    this.#digest?.stop()
    this.#digest = this.#preparing = null
    this.#proven = false
  }

  /** Start the md5; for a file of last time, prove first that it is that file. */
  async #prepare(): Promise<void> {
    const { memory, file } = this
    const known = memory.md5
    this.#digest = new Digest(file, (saved) => {
      memory.md5 = saved
      remember(memory)
    })
    const sample = await this.#digest.sample()
    if (file.size !== memory.size || (memory.sample && memory.sample !== sample)) throw new OtherFile()
    // The browser's word that nothing changed is enough to go on from a saved state; a copy of the
    // file is read again up to there.
    const same = memory.modified === file.lastModified
    Object.assign(memory, { sample, modified: file.lastModified })
    await this.#digest.begin(known, !same)
    remember(memory)
  }

  #unprepared(error: unknown): void {
    if (error instanceof OtherFile) this.#become('other-file')
    else if (error instanceof Unreadable) this.#become('unreadable')
    // The worker's own program did not come.
    else if (this.phase === 'checking') this.#retry()
  }

  #attempt(): void {
    const { memory } = this
    const parallel = memory.parts > 1
    this.#chunkBytes = this.sending().chunk_bytes
    const upload = new Upload(this.file, {
      // With an address to go on at, nothing is begun anew: the client would do so on any 4xx.
      endpoint: memory.url ? null : FILES,
      uploadUrl: memory.url,
      headers: authorization(),
      metadata: this.#metadata(),
      metadataForPartialUploads: { filename: `${this.file.name} (${t('part')})`, part_of: memory.key },
      chunkSize: this.#chunkBytes,
      parallelUploads: memory.parts,
      retryDelays: null,
      fingerprint: async () => memory.key,
      urlStorage: this.#storage(),
      onBeforeRequest: (request) => this.#promise(request, () => this.#upload === upload),
      onProgress: (sent) => this.#progress(sent),
      onSuccess: () => this.#succeeded(upload.url),
      onError: (error) => void this.#failed(error),
    })
    if (parallel && memory.partUrls) {
      upload.resumeFromPreviousUpload({ ...this.#previous(), parallelUploadUrls: memory.partUrls })
    }
    this.#upload = upload
    this.problem = null
    this.#become('sending')
    upload.start()
  }

  #metadata(): Record<string, string> {
    const { image, ref, allowPartial } = this.memory
    return {
      filename: this.file.name,
      filetype: this.file.type || 'application/x-tar',
      ...(image && { image }),
      ...(ref && { ref }),
      ...(allowPartial && { allow_partial: 'true' }),
    }
  }

  #previous() {
    return { size: this.file.size, metadata: {}, creationTime: '', urlStorageKey: this.memory.key, uploadUrl: null }
  }

  /** The client tells addresses here as soon as it has them. */
  #storage() {
    const { memory } = this
    return {
      findAllUploads: async () => [],
      findUploadsByFingerprint: async () => [],
      removeUpload: async () => {},
      addUpload: async (_: string, found: { uploadUrl: string | null; parallelUploadUrls: string[] | null }) => {
        memory.url = found.uploadUrl ?? memory.url
        memory.partUrls = found.parallelUploadUrls ? [...found.parallelUploadUrls] : memory.partUrls
        remember(memory)
        this.changed()
        return memory.key
      },
    }
  }

  /** The request with which the upload ends carries the digest of all of it. */
  async #promise(request: HttpRequest, wanted: () => boolean): Promise<void> {
    const concat = request.getHeader('Upload-Concat') ?? ''
    const offset = Number(request.getHeader('Upload-Offset'))
    const last = request.getMethod() === 'PATCH' && !concat && offset + this.#chunkBytes >= this.file.size
    if (!last && !concat.startsWith('final')) return
    this.#become('digesting')
    const md5 = await this.#digest!.md5
    // The client does not look again whether it was told to stop.
    if (!wanted()) throw new Error('stopped')
    request.setHeader('Repr-Digest', `md5=:${md5}:`)
    if (this.phase === 'digesting') this.#become('sending')
  }

  #progress(sent: number): void {
    if (this.phase !== 'sending') return
    this.sent = sent
    this.pace.add(sent)
    this.#heard = performance.now()
    this.#delay = FIRST_DELAY_MS
    this.changed()
  }

  #succeeded(url: string | null): void {
    this.memory.url = url
    this.sent = this.file.size
    forget(this.memory.key)
    this.#stopDigest()
    this.#become('sent')
  }

  async #failed(error: Error | DetailedError): Promise<void> {
    const answer = 'originalResponse' in error ? error.originalResponse : null
    const cause = 'causingError' in error ? error.causingError : error
    const status = answer?.getStatus() ?? 0
    this.#upload = null
    this.problem = status ? problemOf(status, answer?.getBody() ?? '') : null
    if (cause instanceof Unreadable || !(await this.#readable())) {
      this.#stopDigest()
      this.#become('unreadable')
    } else if (status === 401) this.#become('unauthorized')
    else if (status === 0 || [408, 409, 423, 429].includes(status) || (status >= 500 && status !== 507)) this.#retry()
    else this.#become('refused')
  }

  /** A browser tells a file that was changed, and a line that broke, in the same words. */
  async #readable(): Promise<boolean> {
    try {
      await this.file.slice(0, 1).arrayBuffer()
      return true
    } catch {
      return false
    }
  }

  #retry(): void {
    this.retryAt = Date.now() + this.#delay
    this.#timer = setTimeout(() => void this.begin(), this.#delay)
    this.#delay = Math.min(this.#delay * 2, LONGEST_DELAY_MS)
    this.#become('retrying')
  }

  /** A line that died without a word, as after a laptop's sleep (`slept`: nothing is waited for). */
  lookForStall(slept: boolean): void {
    if (this.phase !== 'sending' || (!slept && performance.now() - this.#heard < STALLED_MS)) return
    this.#halt()
    this.#retry()
  }
}
