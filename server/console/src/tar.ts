// The table of an uncompressed tar in a file that is never read whole: headers only, by seeks.
// Knows: the ustar, GNU and pax forms of a header. Must not know: what the entries mean.

const BLOCK = 512
const AHEAD = 32 * 1024
const EXTENDED_MOST = 64 * 1024
const ENTRIES_MOST = 20_000

export interface Entry {
  name: string
  offset: number
  size: number
  /** What a link means; null for a file. */
  target: string | null
}

/** It is no plain tar, ends too early, or has more in it than is worth a look. */
export class TarError extends Error {
  constructor(readonly kind: 'not-tar' | 'truncated' | 'too-many') {
    super(kind)
  }
}

/** Reads small pieces of a file, a bit ahead. */
class Reader {
  #start = 0
  #held = new Uint8Array()

  constructor(private readonly file: Blob) {}

  async at(offset: number, size: number): Promise<Uint8Array> {
    if (offset < this.#start || offset + size > this.#start + this.#held.length) {
      const piece = this.file.slice(offset, offset + Math.max(size, AHEAD))
      this.#held = new Uint8Array(await piece.arrayBuffer())
      this.#start = offset
    }
    const from = offset - this.#start
    return this.#held.subarray(from, from + size)
  }
}

const utf8 = new TextDecoder()

function text(bytes: Uint8Array): string {
  const end = bytes.indexOf(0)
  return utf8.decode(end < 0 ? bytes : bytes.subarray(0, end))
}

function number(field: Uint8Array): number {
  if (field[0]! & 0x80) {
    return field.reduce((value, byte, place) => value * 256 + (place ? byte : byte & 0x7f), 0)
  }
  const digits = text(field).trim()
  if (!/^[0-7]*$/.test(digits)) throw new TarError('not-tar')
  return digits ? Number.parseInt(digits, 8) : 0
}

function isHeader(header: Uint8Array): boolean {
  let sum = 0
  header.forEach((byte, place) => {
    sum += place >= 148 && place < 156 ? 32 : byte
  })
  return number(header.subarray(148, 156)) === sum
}

function clean(path: string): string {
  const parts: string[] = []
  for (const part of path.split('/')) {
    if (part === '..') parts.pop()
    else if (part && part !== '.') parts.push(part)
  }
  return parts.join('/')
}

function paxRecords(data: Uint8Array): Map<string, string> {
  const records = new Map<string, string>()
  let rest = data
  while (rest.length) {
    const space = rest.indexOf(32)
    const length = Number(utf8.decode(rest.subarray(0, space)))
    if (space < 1 || !(length > space)) throw new TarError('not-tar')
    const [key = '', ...value] = utf8.decode(rest.subarray(space + 1, length - 1)).split('=')
    records.set(key, value.join('='))
    rest = rest.subarray(length)
  }
  return records
}

/** The entries by name; of two with one name, the first. */
export async function entries(file: Blob): Promise<Map<string, Entry>> {
  const reader = new Reader(file)
  const found = new Map<string, Entry>()
  let position = 0
  let longName: string | null = null
  let longTarget: string | null = null
  let longSize: number | null = null
  for (let count = 0; position < file.size; count += 1) {
    if (count > ENTRIES_MOST) throw new TarError('too-many')
    const header = await reader.at(position, BLOCK)
    if (header.length < BLOCK) throw new TarError(position ? 'truncated' : 'not-tar')
    if (header.every((byte) => byte === 0)) break
    if (!isHeader(header)) throw new TarError('not-tar')
    const kind = String.fromCharCode(header[156]!)
    const bodiless = '123456'.includes(kind)
    const described = !bodiless && !'xgLK'.includes(kind) && longSize !== null
    const size: number = bodiless ? 0 : described ? longSize! : number(header.subarray(124, 136))
    const start = position + BLOCK
    if (start + size > file.size) throw new TarError('truncated')
    position = start + Math.ceil(size / BLOCK) * BLOCK
    if ('xgLK'.includes(kind)) {
      if (size > EXTENDED_MOST) throw new TarError('not-tar')
      const data = (await reader.at(start, size)).slice()
      if (kind === 'L') longName = text(data)
      if (kind === 'K') longTarget = text(data)
      if (kind === 'x') {
        const records = paxRecords(data)
        longName = records.get('path') ?? longName
        longTarget = records.get('linkpath') ?? longTarget
        longSize = records.has('size') ? Number(records.get('size')) : longSize
      }
      continue
    }
    const prefix = text(header.subarray(257, 262)) === 'ustar' && header[262] === 0 ? text(header.subarray(345, 500)) : ''
    const own = text(header.subarray(0, 100))
    const name = clean(longName ?? (prefix ? `${prefix}/${own}` : own))
    const linked = longTarget ?? text(header.subarray(157, 257))
    const directory = kind === '2' ? name.split('/').slice(0, -1).join('/') : ''
    const target = kind === '1' || kind === '2' ? clean(`${directory}/${linked}`) : null
    const useful = target !== null || kind === '0' || kind === '\0' || kind === '7'
    if (useful && !found.has(name)) found.set(name, { name, offset: start, size, target })
    longName = longTarget = longSize = null
  }
  return found
}
