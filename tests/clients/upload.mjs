// Sends one file with tus-js-client, as a JSON document on standard input asks, and prints a JSON
// line for whatever happens. Knows: the client's own API. Must not know: what a test wants to prove.
//
// { path,             the file
//   stream,           give the client a bare stream, of which it knows no length and no name
//   options,          options of tus-js-client, by their names
//   urlStorage,       file in which the client remembers uploads
//   resume,           go on with the upload that it remembers there
//   abortAfterBytes,  stop once this many bytes were acknowledged
//   terminate }       when stopping, also remove the upload on the server
//
// SIGTERM stops it too, in the middle of a request (by `onProgress` it could not be: the client
// leaves events out, also the last one before a line goes dead).

import { createReadStream } from 'node:fs'
import { PassThrough } from 'node:stream'
import { text } from 'node:stream/consumers'
import { FileUrlStorage, Upload } from 'tus-js-client'

const HEADERS = [
  'Tus-Resumable',
  'Upload-Concat',
  'Upload-Defer-Length',
  'Upload-Draft-Interop-Version',
  'Upload-Length',
  'Upload-Offset',
  'X-HTTP-Method-Override',
  'X-Request-ID',
]

const order = JSON.parse(await text(process.stdin))
const say = (event, more) => process.stdout.write(`${JSON.stringify({ event, ...more })}\n`)

function namedHeaders(request) {
  const sent = HEADERS.map((name) => [name, request.getHeader(name)])
  return Object.fromEntries(sent.filter(([, value]) => value !== undefined))
}

async function stop() {
  await upload.abort(Boolean(order.terminate))
  say('aborted')
}

const file = createReadStream(order.path)
const upload = new Upload(order.stream ? file.pipe(new PassThrough()) : file, {
  retryDelays: null,
  ...order.options,
  ...(order.urlStorage && { urlStorage: new FileUrlStorage(order.urlStorage) }),
  onAfterResponse(request, response) {
    say('request', {
      method: request.getMethod(),
      url: request.getURL(),
      headers: namedHeaders(request),
      status: response.getStatus(),
    })
  },
  onUploadUrlAvailable: () => say('url', { url: upload.url }),
  onChunkComplete: (_size, bytes) => bytes === order.abortAfterBytes && stop(),
  onSuccess: () => say('success', { url: upload.url }),
  onError(error) {
    const status = error.originalResponse?.getStatus() ?? null
    say('error', { message: String(error.message), status })
    process.exitCode = 1
  },
})

process.once('SIGTERM', stop)

if (order.resume) {
  const remembered = await upload.findPreviousUploads()
  if (remembered.length !== 1) throw new Error(`${remembered.length} uploads are remembered`)
  upload.resumeFromPreviousUpload(remembered[0])
}
upload.start()
