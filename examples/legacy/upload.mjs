// Runs client.mjs in Node, and waits for the image. Run again, it sends what is missing. SIGTERM pauses.
// Usage: node upload.mjs ARCHIVE [IMAGE]

import { createHash } from 'node:crypto'
import { createReadStream, openAsBlob } from 'node:fs'
import { File } from 'node:buffer'
import { basename } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { ChunkUpload } from './client.mjs'

const [archive, image] = process.argv.slice(2)
const { TUSBOAT_SERVER: server = 'http://127.0.0.1:8080', TUSBOAT_TOKEN: token, CHUNK_SIZE: chunk } = process.env
const headers = token ? { Authorization: `Bearer ${token}` } : {}
const base = `${server}/api/image-upload`

async function md5(source) {
  const hash = createHash('md5')
  for await (const block of source) hash.update(block)
  return hash.digest('hex')
}

async function ended(taskId) {
  for (;;) {
    const answer = await fetch(`${base}/status?taskId=${taskId}`, { headers })
    const { data, message, hint } = await answer.json()
    if (!answer.ok) throw new Error(`${message}\n${hint}`)
    if (['done', 'failed', 'canceled', 'expired'].includes(data.status)) return data
    await sleep(1000)
  }
}

try {
  if (!archive) throw new Error('usage: node upload.mjs ARCHIVE [IMAGE]')
  const fileMd5 = await md5(createReadStream(archive))
  const upload = new ChunkUpload(new File([await openAsBlob(archive)], basename(archive)), {
    ...{ base, headers, fileMd5, image, md5: (blob) => md5(blob.stream()) },
    ...(chunk && { chunkSize: Number(chunk) }),
    onProgress: (sent, all) => process.stderr.write(`\r${sent} of ${all} chunks `),
  })
  process.once('SIGTERM', () => upload.pause())
  const task = await upload.run()
  if (!task) throw new Error('paused; run it again to go on')
  console.log(task.taskId)
  const { status, images, error } = await ended(task.taskId)
  console.log(status)
  for (const result of images) console.log(result.image, result.digest)
  if (error) throw new Error(`${error.message}\n${error.hint}`)
  if (status !== 'done') throw new Error(`the upload is ${status}`)
} catch (error) {
  console.error(`\ncannot upload: ${error.message}`)
  process.exitCode = 1
}
