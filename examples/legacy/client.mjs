// The old page's upload: a bounded queue, retries, pause and resume. Nothing but fetch and File, so it runs in a page as
// it is; `upload.mjs` beside it runs it in Node.

const [LIMIT, TRIES] = [4, 3]

async function ask(url, options) {
  const answer = await fetch(url, options)
  const { code, message, hint, data } = await answer.json()
  if (code !== 0) throw Object.assign(new Error(`${message}; ${hint}`), { code, data })
  return data
}

export class ChunkUpload {
  #paused = false
  #cancel = new AbortController()

  // `md5` (hex) of a Blob or a string is the page's affair: spark-md5 in a browser, node:crypto in Node.
  constructor(file, { base, md5, fileMd5, image, headers = {}, chunkSize = 8 * 2 ** 20, onProgress = () => {} }) {
    Object.assign(this, { file, base, md5, headers, chunkSize, onProgress })
    this.totalChunks = Math.max(1, Math.ceil(file.size / chunkSize))
    this.named = { fileName: file.name, fileMd5, ...(image && { image }) }
    this.cut = { totalSize: file.size, chunkSize, totalChunks: this.totalChunks }
  }

  // Resolves with the task when every chunk is there and merged; undefined when it was paused.
  async run() {
    ;[this.#paused, this.#cancel] = [false, new AbortController()]
    const query = new URLSearchParams({ ...this.named, ...this.cut })
    const there = await ask(`${this.base}/chunks?${query}`, { headers: this.headers })
    const known = new Set(there.uploaded.map((chunk) => chunk.index))
    const queue = [...Array(this.totalChunks).keys()].filter((index) => !known.has(index))
    this.onProgress(this.totalChunks - queue.length, this.totalChunks)
    let missing = queue.length
    const lane = async () => {
      for (let index; !this.#paused && (index = queue.shift()) !== undefined; missing--) {
        await this.#send(index)
        this.onProgress(this.totalChunks - missing + 1, this.totalChunks)
      }
    }
    await Promise.all(Array.from({ length: LIMIT }, lane)).catch((error) => {
      this.pause()
      if (error.name !== 'AbortError') throw error
    })
    const merge = this.#post(JSON.stringify(this.named), { 'Content-Type': 'application/json' })
    return this.#paused ? undefined : ask(`${this.base}/merge`, merge)
  }

  pause() {
    this.#paused = true
    this.#cancel.abort()
  }

  #post(body, type) {
    return { method: 'POST', body, headers: { ...this.headers, ...type }, signal: this.#cancel.signal }
  }

  async #send(index) {
    const blob = this.file.slice(index * this.chunkSize, (index + 1) * this.chunkSize)
    const fields = { ...this.named, ...this.cut, chunkIndex: index, chunkMd5: await this.md5(blob) }
    for (let attempt = 1; ; attempt++) {
      const form = new FormData()
      for (const name in fields) form.append(name, fields[name])
      form.append('file', blob)
      try {
        return await ask(`${this.base}/chunks`, this.#post(form))
      } catch (error) {
        if (attempt === TRIES || this.#paused || [400, 401, 403, 404, 410, 413].includes(error.code)) throw error
        await new Promise((resolve) => setTimeout(resolve, 500 * attempt))
      }
    }
  }
}
