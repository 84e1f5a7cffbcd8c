// Sends the chosen archive, goes on where it was when it is chosen again, and follows it to its image.

const query = new URLSearchParams(location.search)
const server = query.get('server') ?? 'http://127.0.0.1:8080'
const headers = query.has('token') ? { Authorization: `Bearer ${query.get('token')}` } : {}
const [file, image, send, bar, said] = ['file', 'image', 'send', 'bar', 'said'].map((id) => document.getElementById(id))
const say = (text) => (said.textContent = text)

send.addEventListener('click', async () => {
  const upload = new tus.Upload(file.files[0], {
    endpoint: `${server}/files/`,
    headers,
    metadata: { filename: file.files[0].name, ...(image.value && { image: image.value }) },
    chunkSize: 64 * 2 ** 20,
    retryDelays: [0, 1000, 3000, 5000, 10000, 20000],
    removeFingerprintOnSuccess: true,
    onProgress: (sent, all) => (bar.value = sent / all),
    onSuccess: () => follow(upload.url.split('/').pop()),
    onError: (error) => say(error.originalResponse?.getBody() || error.message),
  })
  const same = (await upload.findPreviousUploads()).find((one) => one.metadata.image === (image.value || undefined))
  if (same) upload.resumeFromPreviousUpload(same)
  upload.start()
})

async function follow(id) {
  const { status, results, steps, error } = await (await fetch(`${server}/api/uploads/${id}`, { headers })).json()
  if (error) return say(`${error.message} ${error.hint}`)
  say([status, ...results.map((one) => `${one.image} ${one.digest}`)].join(' '))
  const step = steps.find((one) => one.state === 'running')
  if (step) say(`${step.name}: ${step.bytes_done} of ${step.bytes_total} bytes`)
  if (['queued', 'running', 'receiving'].includes(status)) setTimeout(follow, 1000, id)
}
