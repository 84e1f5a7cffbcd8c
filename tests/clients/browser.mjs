// As much of a browser as upload libraries for pages need, over Node's own fetch. Import it first.
// Knows: which globals the libraries ask for. Must not know: any server.
//
// `requests.on = (request) => ...` hears of every answered request: { method, url, status }.

import { File } from 'node:buffer'

export const requests = { on: () => {} }

class XMLHttpRequest extends EventTarget {
  readyState = 0
  status = 0
  responseText = ''
  response = ''
  upload = new EventTarget()
  #headers = {}
  #abort = new AbortController()

  open(method, url) {
    this.#method = method
    this.#url = url
    this.readyState = 1
  }

  #method
  #url

  setRequestHeader(name, value) {
    this.#headers[name] = value
  }

  async send(body) {
    const { signal } = this.#abort
    try {
      const order = { method: this.#method, headers: this.#headers, body: body ?? undefined, signal }
      const answer = await fetch(this.#url, order)
      this.responseText = this.response = await answer.text()
      this.status = answer.status
      requests.on({ method: this.#method, url: this.#url, status: this.status })
    } catch {
      if (signal.aborted) return
    }
    this.readyState = 4
    this.dispatchEvent(new Event(this.status ? 'load' : 'error'))
    this.dispatchEvent(new Event('loadend'))
  }

  abort() {
    this.readyState = 0
    this.#abort.abort()
  }
}

Object.assign(globalThis, { window: globalThis, File, XMLHttpRequest, FileList: class {} })
globalThis.document = { createElement: () => ({}) }
globalThis.navigator ??= {}
