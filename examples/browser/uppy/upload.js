// Uppy's Dashboard on Tusboat: several archives, each with a destination of its own.

import { Dashboard, Tus, Uppy } from './node_modules/uppy/dist/uppy.min.mjs'

const query = new URLSearchParams(location.search)
const server = query.get('server') ?? 'http://127.0.0.1:8080'
const headers = query.has('token') ? { Authorization: `Bearer ${query.get('token')}` } : {}

const uppy = new Uppy()
  .use(Dashboard, {
    inline: true,
    target: '#dashboard',
    // The pencil of a file opens this field.
    metaFields: [{ id: 'image', name: 'Image', placeholder: 'harbor.example/llm/anna/llm:v1' }],
  })
  .use(Tus, {
    endpoint: `${server}/files/`,
    headers,
    chunkSize: 64 * 2 ** 20,
    limit: 3,
    retryDelays: [0, 1000, 3000, 5000, 10000, 20000],
    allowedMetaFields: ['filename', 'filetype', 'image'],
  })

if (query.has('image')) uppy.setMeta({ image: query.get('image') })
uppy.on('file-added', (file) => uppy.setFileMeta(file.id, { filename: file.name }))
uppy.on('upload-success', (file, { uploadURL }) => follow(file.name, uploadURL.split('/').pop()))

async function follow(name, id) {
  const { status, results, error } = await (await fetch(`${server}/api/uploads/${id}`, { headers })).json()
  const told = [name, status, ...results.map((one) => `${one.image} ${one.digest}`), error?.message ?? '']
  document.getElementById('said').textContent = told.join(' ')
  if (['queued', 'running', 'receiving'].includes(status)) setTimeout(follow, 1000, name, id)
}
