// Numbers and times as people read them. Knows: the page's language. Must not know: what they count.

import { language, t } from './words'

const KIB = 1024
const UNITS = ['KiB', 'MiB', 'GiB', 'TiB'] as const

export function bytes(count: number): string {
  if (count < KIB) return `${count} B`
  let value = count
  let unit = -1
  while (value >= KIB && unit < UNITS.length - 1) {
    value /= KIB
    unit += 1
  }
  // Four digits at most: 1023 MiB, 99.9 GiB.
  const digits = value < 100 ? 1 : 0
  return `${value.toLocaleString(language(), { maximumFractionDigits: digits })} ${UNITS[unit]}`
}

export function speed(bytesPerSecond: number): string {
  return `${bytes(Math.round(bytesPerSecond))}/s`
}

export function percent(done: number, total: number): number {
  // Never 100 before it is.
  return total > 0 ? Math.min(100, Math.floor((done / total) * 100)) : 0
}

export function duration(seconds: number): string {
  const whole = Math.max(1, Math.round(seconds))
  if (whole < 60) return t('seconds', { count: whole })
  if (whole < 3600) return t('minutes', { count: Math.round(whole / 60) })
  const hours = Math.floor(whole / 3600)
  return t('hours', { hours, minutes: Math.round((whole % 3600) / 60) })
}

/** How long ago, or the date when that was long ago or is yet to come. */
export function moment(rfc3339: string, now = Date.now()): string {
  const then = Date.parse(rfc3339)
  const seconds = Math.round((now - then) / 1000)
  const relative = new Intl.RelativeTimeFormat(language(), { numeric: 'auto' })
  if (seconds >= 0 && seconds < 45) return relative.format(0, 'second')
  if (seconds >= 45 && seconds < 45 * 60) return relative.format(-Math.max(1, Math.round(seconds / 60)), 'minute')
  if (seconds >= 45 * 60 && seconds < 22 * 3600) return relative.format(-Math.max(1, Math.round(seconds / 3600)), 'hour')
  return new Date(then).toLocaleString(language(), { dateStyle: 'medium', timeStyle: 'short' })
}
