// Sends an archive with tus-js-client, goes on where it was when it is run again, and waits for the
// image. Needs `npm install` here. Usage: node upload.mjs ARCHIVE [IMAGE]

import { createReadStream } from 'node:fs'
import { basename } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { FileUrlStorage, Upload } from 'tus-js-client'

const [archive, image] = process.argv.slice(2)
const { TUSBOAT_SERVER: server = 'http://127.0.0.1:8080', TUSBOAT_TOKEN: token } = process.env
const headers = token ? { Authorization: `Bearer ${token}` } : {}

function send() {
  return new Promise((resolve, reject) => {
    const upload = new Upload(createReadStream(archive).on('error', reject), {
      endpoint: `${server}/files/`,
      headers,
      metadata: { filename: basename(archive), ...(image && { image }) },
      // What nginx has of a request may be lost with the line, where it buffers; so, in parts.
      chunkSize: 64 * 2 ** 20,
      retryDelays: [0, 1000, 3000, 5000],
      urlStorage: new FileUrlStorage(`${archive}.uploads.json`),
      removeFingerprintOnSuccess: true,
      onProgress: (sent, all) => process.stderr.write(`\r${sent} of ${all} bytes `),
      onSuccess: () => resolve(upload.url),
      // The server's own words, where it answered.
      onError: (error) => reject(new Error(error.originalResponse?.getBody() || error.message)),
    })
    upload
      .findPreviousUploads()
      .then((previous) => {
        // The destination counts, too: the client itself goes by the file and the endpoint.
        const same = previous.find((one) => one.metadata.image === image)
        if (same) upload.resumeFromPreviousUpload(same)
        upload.start()
      })
      .catch(reject)
  })
}

async function ended(url) {
  for (;;) {
    const answer = await fetch(url.replace('/files/', '/api/uploads/'), { headers })
    if (!answer.ok) throw new Error(await answer.text())
    const document = await answer.json()
    if (['done', 'failed', 'canceled', 'expired'].includes(document.status)) return document
    await sleep(1000)
  }
}

try {
  if (!archive) throw new Error('usage: node upload.mjs ARCHIVE [IMAGE]')
  const url = await send()
  console.log(url.split('/').at(-1))
  const { status, results, error } = await ended(url)
  console.log(status)
  for (const result of results) console.log(result.image, result.digest)
  if (error) throw new Error(`${error.message}\n${error.hint}`)
  if (status !== 'done') throw new Error(`the upload is ${status}`)
} catch (error) {
  console.error(`\ncannot upload: ${error.message}`)
  process.exitCode = 1
}
