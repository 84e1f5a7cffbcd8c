// Sends one file with an upload library for pages, unmodified, as a JSON document on standard input
// asks, then merges as such a page does, and prints a JSON line for whatever happens.
// Knows: the libraries' own APIs. Must not know: what a test wants to prove.
//
// { library,    simple-uploader.js or resumablejs
//   path,       the file
//   target,     where the dialect is spoken
//   options,    options of the library, by their names
//   byResponse, simple-uploader.js: read the list of chunks from the first answer
//   merge }     what merge says besides naming the file

import { requests } from './browser.mjs'
import { readFileSync } from 'node:fs'
import { basename } from 'node:path'
import { text } from 'node:stream/consumers'

const order = JSON.parse(await text(process.stdin))
const say = (event, more) => process.stdout.write(`${JSON.stringify({ event, ...more })}\n`)
requests.on = (request) => say('request', request)

const { default: Uploader } = await import(order.library)
const file = new File([readFileSync(order.path)], basename(order.path))

function uploadedByResponse(chunk, message) {
  const { uploadedChunks = [] } = message ? JSON.parse(message) : {}
  return uploadedChunks.includes(chunk.offset + 1)
}

async function merge(named) {
  const answer = await fetch(`${order.target}/merge`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', ...order.options?.headers },
    body: JSON.stringify({ ...named, ...order.merge }),
  })
  const document = await answer.json()
  say('merge', { status: answer.status, document })
}

function fail(message) {
  say('error', { message: String(message) })
  process.exitCode = 1
}

const names = {
  'simple-uploader.js': (file) => ({
    filename: file.name,
    identifier: file.uniqueIdentifier,
    totalSize: file.size,
  }),
  resumablejs: (file) => ({
    resumableFilename: file.fileName,
    resumableIdentifier: file.uniqueIdentifier,
    resumableTotalSize: file.size,
  }),
}

const uploader = new Uploader({
  target: order.target,
  ...(order.byResponse && { checkChunkUploadedByResponse: uploadedByResponse }),
  ...order.options,
})
const simple = order.library === 'simple-uploader.js'
uploader.on('fileSuccess', (...args) => merge(names[order.library](args[simple ? 1 : 0])))
uploader.on('fileError', (...args) => fail(args[simple ? 2 : 1]))
if (!simple) uploader.on('fileAdded', () => uploader.upload())
uploader.addFile(file)
if (simple) uploader.upload()
