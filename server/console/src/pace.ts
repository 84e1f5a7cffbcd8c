// How fast it goes, over the last seconds. Knows: numbers. Must not know: of what.

const WINDOW_MS = 8000

export class Pace {
  #points: [number, number][] = []

  add(count: number, now = performance.now()): void {
    this.#points.push([now, count])
    while (this.#points.length > 2 && now - this.#points[0]![0] > WINDOW_MS) this.#points.shift()
  }

  reset(): void {
    this.#points = []
  }

  /** Units per second; 0 until it can be told. */
  get perSecond(): number {
    const first = this.#points[0]
    const last = this.#points.at(-1)
    if (!first || !last || last[0] - first[0] < 300) return 0
    return Math.max(0, ((last[1] - first[1]) / (last[0] - first[0])) * 1000)
  }
}
