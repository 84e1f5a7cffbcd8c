// Everything the page knows, in one place. Knows: uploads of the server, files being sent from here,
// files about to be, and what an earlier visit left unfinished. Must not know: how any of it looks.

import * as api from './api'
import { type Contents, look, names, told } from './archive'
import { propose, rememberFor } from './destination'
import { Events } from './events'
import { forget, idOf, newKey, type Remembered, remember, remembered, type Wish } from './memory'
import { Queue } from './queue'
import { Send } from './send'

/** A chosen file that nobody has sent yet. */
export interface Draft {
  key: string
  file: File
  contents: Contents | null
  wish: Wish
  verdict: api.Verdict | null
  /** Somebody wrote a destination: proposals are over. */
  touched: boolean
}

/** One line of the list: a document of the server, a file from here, or both of one upload. */
export interface Row {
  key: string
  document: api.Upload | null
  send: Send | null
  left: Remembered | null
  /** The uploads that this is, where it is the parts of one file. */
  parts: string[]
}

export type Connection = 'connecting' | 'live' | 'lost' | 'unauthorized'

const LOG_LINES = 500
export const OVER: readonly api.Status[] = ['done', 'failed', 'canceled', 'expired']
// Until the server has said how it wants it.
const USUAL: api.Sending = { uploads_at_once: 3, chunk_bytes: 64 * 1024 * 1024 }

export class Board {
  documents = new Map<string, api.Upload>()
  logs = new Map<string, api.Line[]>()
  drafts: Draft[] = []
  sends: Send[] = []
  left: Remembered[] = remembered()
  connection: Connection = 'connecting'
  destinations: api.Destinations | null = null
  sending = USUAL
  more: string | null = null
  loaded = false
  /** What was asked for is among these: words, and statuses (empty: any). */
  search = ''
  statuses = ''
  #loads = 0
  #queue = new Queue(USUAL.uploads_at_once)
  #events: Events
  #asked = new Map<string, AbortController>()

  constructor(private readonly changed: () => void) {
    this.#events = new Events({
      connected: () => void this.#connected(),
      event: (kind, data, id) => this.#event(kind, data, id),
      lost: () => this.#is('lost'),
      unauthorized: () => this.#is('unauthorized'),
    })
    this.#events.start()
  }

  /** A token was given, or taken away. */
  signIn(token: string): void {
    api.setToken(token)
    this.documents.clear()
    this.destinations = null
    this.loaded = false
    this.#is('connecting')
    this.#events.start()
    for (const send of this.sends) if (send.phase === 'unauthorized') this.resume(send)
  }

  get rows(): Row[] {
    const rows: Row[] = []
    const taken = new Set<string>()
    const add = (key: string, id: string | null, send: Send | null, left: Remembered | null) => {
      if (id) taken.add(id)
      // The parts of a file are that file, to whoever sends it.
      const parts = ((send?.memory ?? left)?.partUrls ?? []).map((url) => idOf(url) ?? '')
      for (const part of parts) taken.add(part)
      const known = parts.flatMap((part) => this.documents.get(part) ?? [])
      rows.push({ key, document: (id && this.documents.get(id)) || joined(known), send, left, parts })
    }
    for (const send of this.sends) add(send.memory.key, send.id, send, null)
    for (const left of this.left) add(left.key, idOf(left.url), null, left)
    const files = new Map<string, api.Upload[]>()
    for (const [id, document] of this.documents) {
      if (taken.has(id)) continue
      const key = document.part_of ? `${document.owner} ${document.part_of}` : id
      files.set(key, [...(files.get(key) ?? []), document])
    }
    for (const [key, file] of files) {
      const parts = file.length > 1 ? file.map(({ id }) => id) : []
      rows.push({ key, document: joined(file), send: null, left: null, parts })
    }
    const born = (row: Row) => row.document?.created_at ?? '9'
    return rows.sort((one, other) => born(other).localeCompare(born(one)))
  }

  /** Files were chosen or dropped: what was begun goes on, the others are drafts. */
  async take(files: Iterable<File>): Promise<void> {
    for (const file of files) {
      const known = this.left.find((one) => one.name === file.name && one.size === file.size)
      if (known) this.goOn(known, file)
      else void this.#draft(file)
    }
    this.changed()
  }

  /** The file of an earlier visit is here again (whether it is, is proven before it is sent). */
  goOn(left: Remembered, file: File): void {
    this.left = this.left.filter((one) => one !== left)
    this.#send(file, left)
  }

  async #draft(file: File): Promise<void> {
    const wish = { image: '', ref: '', allowPartial: false, parts: 1 }
    const draft: Draft = { key: newKey(), file, contents: null, wish, verdict: null, touched: false }
    this.drafts.push(draft)
    this.changed()
    draft.contents = await look(file)
    if (this.destinations && !draft.touched) draft.wish.image = propose(file.name, draft.contents, this.destinations)
    this.changed()
    await this.check(draft)
  }

  /** Ask the server whether it would take it; the newest question counts. */
  async check(draft: Draft): Promise<void> {
    this.#asked.get(draft.key)?.abort()
    const asking = new AbortController()
    this.#asked.set(draft.key, asking)
    draft.verdict = null
    this.changed()
    try {
      const { file, wish, contents } = draft
      const verdict = await api.check(wish.image, file.size, names(contents, wish.ref), asking.signal)
      if (!asking.signal.aborted) draft.verdict = verdict
    } catch (error) {
      if (asking.signal.aborted) return
      if (!(error instanceof api.Problem)) throw error
      draft.verdict = { allowed: false, exists: null, code: error.code, reason: error.message, hint: error.hint }
      if (error.unauthorized) this.#is('unauthorized')
    }
    this.changed()
  }

  drop(draft: Draft): void {
    this.#asked.get(draft.key)?.abort()
    this.drafts = this.drafts.filter((one) => one !== draft)
    this.changed()
  }

  begin(draft: Draft): void {
    this.drop(draft)
    rememberFor(draft.wish.image)
    this.#begin(draft.file, draft.wish)
  }

  #begin(file: File, { image, ref, allowPartial, parts }: Wish): void {
    const memory: Remembered = {
      image,
      ref,
      allowPartial,
      parts,
      key: newKey(),
      name: file.name,
      size: file.size,
      modified: file.lastModified,
      sample: '',
      url: null,
      partUrls: null,
      md5: null,
    }
    remember(memory)
    this.#send(file, memory)
  }

  #send(file: File, memory: Remembered): void {
    const send = new Send(file, memory, () => this.sending, () => this.#moved())
    this.sends.unshift(send)
    this.#queue.add(send)
    this.changed()
  }

  #moved(): void {
    this.#queue.turn()
    this.changed()
  }

  pause(send: Send): void {
    send.pause()
  }

  resume(send: Send): void {
    send.requeue()
  }

  /** Another file was chosen for one that cannot go on with the first. */
  replace(send: Send, file: File): void {
    this.#remove(send)
    this.#send(file, send.memory)
  }

  async cancel(row: Row): Promise<void> {
    if (row.send && row.send.phase !== 'sent') {
      await row.send.cancel()
    } else if (row.document) {
      await Promise.all((row.parts.length ? row.parts : [row.document.id]).map((id) => api.cancel(id)))
    }
    if (row.left) {
      forget(row.left.key)
      this.left = this.left.filter((one) => one !== row.left)
    }
    this.changed()
  }

  async retry(row: Row): Promise<void> {
    if (row.document) this.#know(await api.retry(row.document.id))
    this.changed()
  }

  /** What arrived was not what was sent: the file goes once more, as an upload of its own. */
  sendAgain(row: Row): void {
    if (!row.send) return
    const { file, memory } = row.send
    this.#remove(row.send)
    this.#begin(file, memory)
  }

  /** The same for an upload of an earlier visit, or of another browser: the file was chosen again. */
  sendInstead(document: api.Upload, file: File): void {
    this.#begin(file, { image: document.image ?? '', ref: '', allowPartial: false, parts: 1 })
  }

  /** What the server saw in an archive; null where it has not looked, or does not answer. */
  async contents(id: string): Promise<Contents | null> {
    try {
      return told((await api.one(id)).archive)
    } catch (error) {
      if (error instanceof api.Problem) return null
      throw error
    }
  }

  /** What the steps said before this page was open, put before what it heard itself. */
  async readLog(id: string): Promise<boolean> {
    let before: api.Line[]
    try {
      before = await api.log(id)
    } catch (error) {
      if (error instanceof api.Problem) return false
      throw error
    }
    const known = new Set(before.map(({ event }) => event))
    const heard = (this.logs.get(id) ?? []).filter(({ event }) => !known.has(event))
    this.logs.set(id, [...before, ...heard].slice(-LOG_LINES))
    this.changed()
    return true
  }

  /** Take a line of this page's own away; what the server knows stays there. */
  dismiss(row: Row): void {
    if (row.send) this.#remove(row.send)
    if (row.left) {
      forget(row.left.key)
      this.left = this.left.filter((one) => one !== row.left)
    }
    this.changed()
  }

  async load(more = false): Promise<void> {
    this.#loads += 1
    const load = this.#loads
    const page = await api.list(more ? this.more : null, { q: this.search, status: this.statuses })
    for (const document of page.uploads) this.#know(document)
    // An answer to an earlier question does not say what there is more of now.
    if (load !== this.#loads) return
    this.more = page.next
    this.loaded = true
    this.changed()
  }

  #remove(send: Send): void {
    this.sends = this.sends.filter((one) => one !== send)
    this.#queue.remove(send)
  }

  #is(connection: Connection): void {
    this.connection = connection
    this.changed()
  }

  async #connected(): Promise<void> {
    try {
      this.destinations = await api.destinations()
      this.sending = await api.sending()
      this.#queue.allow(this.sending.uploads_at_once)
      for (const draft of this.drafts) {
        if (!draft.wish.image && !draft.touched && draft.contents) {
          draft.wish.image = propose(draft.file.name, draft.contents, this.destinations)
        }
        void this.check(draft)
      }
      await this.load()
      await this.#askForLeft()
      this.#is('live')
    } catch (error) {
      this.#is(error instanceof api.Problem && error.unauthorized ? 'unauthorized' : 'lost')
    }
  }

  /** What an earlier visit left may have ended meanwhile, or be far down the list. */
  async #askForLeft(): Promise<void> {
    for (const left of this.left) {
      const id = idOf(left.url)
      if (!id) continue
      try {
        this.#know(await api.one(id))
      } catch (error) {
        if (!(error instanceof api.Problem) || error.status !== 404) throw error
        forget(left.key)
        this.left = this.left.filter((one) => one !== left)
      }
    }
  }

  #know(document: api.Upload): void {
    // An answer may have been on its way while an event told what came after it.
    const known = this.documents.get(document.id)
    if (known && known.status !== 'receiving') {
      if (document.status === 'receiving' || document.updated_at < known.updated_at) return
      // A small job begins and ends within a millisecond; an end stays one.
      if (document.updated_at === known.updated_at && OVER.includes(known.status)) return
    }
    this.documents.set(document.id, document)
    if (document.status === 'receiving') return
    for (const left of this.left) if (idOf(left.url) === document.id) forget(left.key)
    this.left = this.left.filter((one) => idOf(one.url) !== document.id)
  }

  #event(kind: string, data: unknown, event: string): void {
    if (kind === 'status') this.#know(data as api.Upload)
    if (kind === 'removed') this.documents.delete((data as { id: string }).id)
    if (kind === 'step') {
      const { id, step } = data as { id: string; step: api.Step }
      const document = this.documents.get(id)
      const place = document?.steps.findIndex((one) => one.name === step.name) ?? -1
      if (document && place >= 0) document.steps[place] = step
    }
    if (kind === 'log') {
      const { id, step, line } = data as { id: string; step: string; line: string }
      const lines = this.logs.get(id) ?? []
      lines.push({ event, step, line })
      this.logs.set(id, lines.slice(-LOG_LINES))
    }
    this.changed()
  }
}

/** The parts of one file as the one upload that they are to whoever looks; one alone is itself. */
function joined(parts: api.Upload[]): api.Upload | null {
  const [first, ...others] = parts
  if (!first || !first.part_of) return first ?? null
  const sum = (count: (one: api.Upload) => number) => parts.reduce((total, one) => total + count(one), 0)
  const length = parts.some((one) => one.length === null) ? null : sum((one) => one.length ?? 0)
  const filename = first.filename.replace(/ \([^()]*\)$/, '')
  const updated_at = others.reduce((newest, one) => (one.updated_at > newest ? one.updated_at : newest), first.updated_at)
  return { ...first, filename, length, offset: sum((one) => one.offset), updated_at }
}
