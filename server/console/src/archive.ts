// What an image archive says of itself, read in the browser before anything is sent. Knows: docker's
// manifest.json and OCI's index.json. Must not know: how a tar is read, what is refused (the server
// judges that: this look is a courtesy, and verifies nothing).

import { type Entry, entries, TarError } from './tar'

export interface Platform {
  name: string
  /** The digest of its config. */
  id: string | null
  layers: { digest: string; size: number | null }[]
  size: number
  missing: number
}

export interface Image {
  tags: string[]
  /** Of its OCI manifest or index; docker's list knows none. */
  digest: string | null
  platforms: Platform[]
}

export interface Name {
  tags: string[]
  id: string | null
}

export interface Contents {
  kind: 'images' | 'compressed' | 'unreadable'
  /** For `images`: docker or OCI form. For `compressed`: by what. For `unreadable`: why. */
  detail: string
  images: Image[]
}

const JSON_MOST = 4 * 1024 * 1024
const IMAGES_MOST = 100
const DEPTH_MOST = 4
const MAGIC: [string, number[]][] = [
  ['gzip', [0x1f, 0x8b]],
  ['zstd', [0x28, 0xb5, 0x2f, 0xfd]],
  ['xz', [0xfd, 0x37, 0x7a, 0x58, 0x5a]],
  ['bzip2', [0x42, 0x5a, 0x68]],
]
const NAMES = ['io.containerd.image.name', 'org.opencontainers.image.ref.name']

// JSON of strangers has any shape: every use below asks first, and a mistake ends in `broken`.
type Loose = any

/** Look into a file. Never fails: what cannot be told is said. */
export async function look(file: Blob): Promise<Contents> {
  try {
    const start = new Uint8Array(await file.slice(0, 8).arrayBuffer())
    const packed = MAGIC.find(([, magic]) => magic.every((byte, place) => start[place] === byte))
    if (packed) return { kind: 'compressed', detail: packed[0], images: [] }
    const archive = new Archive(file, await entries(file))
    return await archive.contents()
  } catch (error) {
    return { kind: 'unreadable', detail: error instanceof TarError ? error.kind : 'broken', images: [] }
  }
}

/** What the images are called that are meant (`ref`: all, or `@place`), for the server's judgement; nothing
 * where that is not known of each. */
export function names(contents: Contents | null, ref: string): Name[] {
  const images = contents?.images ?? []
  const meant = ref ? images.slice(Number(ref.slice(1)), Number(ref.slice(1)) + 1) : images
  const all = meant.map(({ tags, digest, platforms }) => ({ tags, id: platforms[0]?.id ?? digestIn(digest) }))
  return images.length < IMAGES_MOST && all.every(({ tags, id }) => tags.length || id) ? all : []
}

/** The same, as the server tells it in an upload's `archive`. */
export function told(archive: unknown): Contents | null {
  const document = archive as Loose
  if (!document?.images) return null
  const images = document.images.map((image: Loose) => ({
    tags: image.tags,
    digest: image.digest,
    platforms: image.platforms.map((one: Loose) => ({
      name: one.platform ?? '?',
      id: one.image_id,
      layers: one.layers.map((layer: Loose) => ({ digest: layer.digest ?? layer.name, size: layer.size_bytes })),
      size: one.size_bytes,
      missing: one.missing.length,
    })),
  }))
  return { kind: 'images', detail: document.format === 'oci-archive' ? 'oci' : 'docker', images }
}

class Archive {
  constructor(
    private readonly file: Blob,
    private readonly table: Map<string, Entry>,
  ) {}

  async contents(): Promise<Contents> {
    const docker = this.table.has('manifest.json')
    const oci = this.table.has('index.json')
    if (!docker && !oci) {
      const context = ['Containerfile', 'Dockerfile'].some((name) => this.table.has(name))
      return { kind: 'unreadable', detail: context ? 'context' : 'no-image', images: [] }
    }
    // As the server does it: manifest.json tells one platform only.
    const several = oci ? await this.#oci() : []
    const useOci = !docker || several.some((image) => image.platforms.length > 1)
    const images = useOci ? several : await this.#docker()
    return { kind: 'images', detail: useOci ? 'oci' : 'docker', images }
  }

  #find(name: string): Entry | undefined {
    let entry = this.table.get(name.replace(/^\.\//, ''))
    for (let hops = 0; entry?.target && hops < 8; hops += 1) entry = this.table.get(entry.target)
    return entry?.target ? undefined : entry
  }

  async #json(name: string): Promise<Loose> {
    const entry = this.#find(name)
    if (!entry || entry.size > JSON_MOST) return null
    const text = await this.file.slice(entry.offset, entry.offset + entry.size).text()
    return JSON.parse(text)
  }

  async #docker(): Promise<Image[]> {
    const rows: Loose[] = await this.#json('manifest.json')
    const images: Image[] = []
    for (const row of rows.slice(0, IMAGES_MOST)) {
      const config = await this.#json(String(row.Config))
      const digests: Loose[] = config?.rootfs?.diff_ids ?? []
      const layers = (row.Layers ?? []).map((name: unknown, place: number) => ({
        digest: String(digests[place] ?? name),
        size: this.#find(String(name))?.size ?? null,
      }))
      const platforms = [platform(row.Config, config, layers)]
      images.push({ tags: (row.RepoTags ?? []).map(String), digest: null, platforms })
    }
    return images
  }

  async #oci(): Promise<Image[]> {
    const index = await this.#json('index.json')
    const images = new Map<string, Image>()
    for (const row of (index?.manifests ?? []).slice(0, IMAGES_MOST)) {
      if (isAttestation(row)) continue
      const digest = String(row.digest)
      const image = images.get(digest) ?? { tags: [], digest, platforms: await this.#platforms(row, 1) }
      const name = NAMES.map((key) => row.annotations?.[key]).find(Boolean)
      if (name && !image.tags.includes(String(name))) image.tags.push(String(name))
      images.set(digest, image)
    }
    return [...images.values()]
  }

  async #platforms(row: Loose, depth: number): Promise<Platform[]> {
    if (depth > DEPTH_MOST) return []
    const document = await this.#json(blob(row.digest))
    if (!document) return [{ ...platform(null, row.platform, []), missing: 1 }]
    if (document.manifests) {
      const inner: Platform[] = []
      for (const one of document.manifests.slice(0, IMAGES_MOST)) {
        if (!isAttestation(one)) inner.push(...(await this.#platforms(one, depth + 1)))
      }
      return inner
    }
    const config = (await this.#json(blob(document.config?.digest))) ?? row.platform
    const layers = (document.layers ?? []).map((layer: Loose) => ({
      digest: String(layer.digest),
      size: this.#find(blob(layer.digest))?.size ?? null,
    }))
    return [platform(document.config?.digest, config, layers)]
  }
}

function blob(digest: unknown): string {
  return `blobs/${String(digest).replace(':', '/')}`
}

/** Writers call a config by its digest, with an ending or a directory of their own. */
function digestIn(name: unknown): string | null {
  const found = /[0-9a-f]{64}/.exec(String(name))
  return found && `sha256:${found[0]}`
}

function isAttestation(row: Loose): boolean {
  const unknown = row.platform?.os === 'unknown' && row.platform?.architecture === 'unknown'
  return unknown || Boolean(row.annotations?.['vnd.docker.reference.type'])
}

function platform(named: unknown, config: Loose, layers: Platform['layers']): Platform {
  const parts = [config?.os, config?.architecture, config?.variant].filter(Boolean)
  return {
    name: parts.length > 1 ? parts.join('/') : '?',
    id: digestIn(named),
    layers,
    size: layers.reduce((sum, layer) => sum + (layer.size ?? 0), 0),
    missing: layers.filter((layer) => layer.size === null).length,
  }
}
