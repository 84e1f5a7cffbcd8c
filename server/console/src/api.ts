// The server's public API, over fetch. Knows: URLs, the token, how an error is told. Must not know:
// what is shown, and tus.

import type { Name } from './archive'
import { t } from './words'

export type StepState = 'waiting' | 'running' | 'done' | 'failed' | 'skipped' | 'canceled'
export type Status = 'receiving' | 'queued' | 'running' | 'done' | 'failed' | 'canceled' | 'expired'

export interface Step {
  name: string
  state: StepState
  started_at: string | null
  finished_at: string | null
  bytes_done: number
  bytes_total: number
  message: string
}

export interface Failure {
  code: string
  step: string
  message: string
  hint: string
  retryable: boolean
}

export interface Result {
  image: string
  digest: string
  platforms: string[]
}

export interface Upload {
  id: string
  filename: string
  length: number | null
  offset: number
  protocol: string
  owner: string
  status: Status
  image: string | null
  digests: { md5: string | null; sha256: string | null }
  created_at: string
  updated_at: string
  expires_at: string | null
  steps: Step[]
  results: Result[]
  error: Failure | null
  /** What the parts of one file have in common until they are joined. */
  part_of: string | null
}

export interface Page {
  uploads: Upload[]
  next: string | null
  total: number
}

export interface Destinations {
  caller: string
  repositories: string[]
  registries: { host: string; repositories: string[] }[]
  default_repository: string
}

/** How the operator wants files to be sent. */
export interface Sending {
  uploads_at_once: number
  chunk_bytes: number
}

export interface Line {
  event: string
  step: string
  line: string
}

export interface Verdict {
  allowed: boolean
  code?: string
  exists: boolean | null
  reason: string
  hint: string
}

/** An answer that says no, in the server's words; `status` 0: there was no answer. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly hint: string,
  ) {
    super(message)
  }

  get unauthorized(): boolean {
    return this.status === 401
  }
}

/** An error's body as RFC 9457 has it, or whatever a proxy in between made of it. */
export function problemOf(status: number, body: string): Problem {
  try {
    const { detail, code, hint } = JSON.parse(body) as Record<string, unknown>
    if (typeof detail === 'string') return new Problem(status, String(code), detail, String(hint ?? ''))
  } catch {
    // Not ours: the status is all there is to say.
  }
  return new Problem(status, `http_${status}`, t('problem.status', { status }), '')
}

// Relative, so that a prefix that a proxy adds stays.
export const BASE = new URL('.', document.baseURI).href
export const FILES = `${BASE}files/`
const TOKEN = 'tusboat.token'

export function token(): string {
  return localStorage.getItem(TOKEN) ?? ''
}

export function setToken(value: string): void {
  if (value) localStorage.setItem(TOKEN, value)
  else localStorage.removeItem(TOKEN)
}

export function authorization(): Record<string, string> {
  const known = token()
  return known ? { Authorization: `Bearer ${known}` } : {}
}

/** Ask; an answer other than 2xx, and none at all, is a Problem. */
export async function ask(path: string, init: RequestInit = {}): Promise<Response> {
  let answer: Response
  try {
    answer = await fetch(BASE + path, {
      ...init,
      cache: 'no-store',
      headers: { ...authorization(), ...(init.headers as Record<string, string> | undefined) },
    })
  } catch (error) {
    if (init.signal?.aborted) throw error
    throw new Problem(0, 'offline', t('problem.offline'), t('problem.offline.hint'))
  }
  if (!answer.ok) throw problemOf(answer.status, await answer.text())
  return answer
}

async function json<Shape>(path: string, init?: RequestInit): Promise<Shape> {
  return (await ask(path, init)).json() as Promise<Shape>
}

export const destinations = () => json<Destinations>('api/destinations')

export function list(cursor: string | null, filter: { q?: string; status?: string } = {}): Promise<Page> {
  const query = new URLSearchParams({ limit: '50' })
  if (cursor) query.set('cursor', cursor)
  if (filter.q) query.set('q', filter.q)
  if (filter.status) query.set('status', filter.status)
  return json<Page>(`api/uploads?${query}`)
}

export const one = (id: string) => json<Upload & { archive: unknown }>(`api/uploads/${id}`)
export const sending = () => json<Sending>('api/console')
export const log = async (id: string) => (await json<{ lines: Line[] }>(`api/uploads/${id}/log`)).lines
export const cancel = (id: string) => json<Upload>(`api/uploads/${id}/cancel`, { method: 'POST' })
export const retry = (id: string) => json<Upload>(`api/uploads/${id}/retry`, { method: 'POST' })

export function check(image: string, length: number, images: Name[], signal: AbortSignal): Promise<Verdict> {
  const body = JSON.stringify({ image: image || null, length, images })
  return json<Verdict>('api/check', { method: 'POST', body, signal })
}
