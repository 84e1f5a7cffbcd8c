// Elements, made by hand. Knows: the DOM. Must not know: what is shown.
//
// Strings become text nodes, never markup: whatever a file, a registry or a server is called, it is
// only ever text.

type Value = string | number | boolean | null | undefined | ((event: never) => void)
export type Child = Node | string | null | undefined | false

export function h<Name extends keyof HTMLElementTagNameMap>(
  name: Name,
  attributes: Record<string, Value> = {},
  ...children: Child[]
): HTMLElementTagNameMap[Name] {
  const element = document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === 'function') {
      element.addEventListener(key, value as unknown as EventListener)
    } else if (typeof value === 'boolean') {
      element.toggleAttribute(key, value)
    } else if (value !== null && value !== undefined) {
      element.setAttribute(key, String(value))
    }
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false))
  return element
}

/** Set text only where it differs, so that nothing is announced or selected away without a reason. */
export function say(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text
}

export function show(element: HTMLElement, visible: boolean): void {
  if (element.hidden === visible) element.hidden = !visible
}

/** Make these the children, in this order, moving only what is not in its place. */
export function arrange(parent: Element, children: readonly Element[]): void {
  const wanted = new Set<Element>(children)
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove()
  children.forEach((child, place) => {
    const there = parent.children[place]
    if (there !== child) parent.insertBefore(child, there ?? null)
  })
}

const PATHS = {
  upload: 'M12 16V4m0 0L7 9m5-5 5 5M4 16v3a1 1 0 0 0 1 1h14a1 1 0 0 0 1-1v-3',
  pause: 'M8 5v14M16 5v14',
  play: 'M7 4.5v15l12-7.5z',
  stop: 'M6 6l12 12M18 6 6 18',
  retry: 'M20 11a8 8 0 1 0-.6 4M20 4v7h-7',
  copy: 'M9 9h10v11H9zM5 15V4h10',
  check: 'M5 12.5l4.5 4.5L19 7.5',
  alert: 'M12 8v5m0 3.2v.1M12 3 2.5 20h19z',
  box: 'M12 3l8 4.5v9L12 21l-8-4.5v-9zM4 7.5l8 4.5 8-4.5M12 12v9',
  key: 'M14.5 9.5a4 4 0 1 0-3.4 3.95L13 15.5h2v2h2v2h3v-3l-5.6-5.6',
  search: 'M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14zm5-2 4.5 4.5',
  chevron: 'M9 6l6 6-6 6',
  minus: 'M6 12h12',
  dot: 'M12 11.9v.2',
} as const

export type Icon = keyof typeof PATHS

export function icon(name: Icon): SVGSVGElement {
  const namespace = 'http://www.w3.org/2000/svg'
  const picture = document.createElementNS(namespace, 'svg')
  const path = document.createElementNS(namespace, 'path')
  picture.setAttribute('viewBox', '0 0 24 24')
  picture.setAttribute('class', `icon icon-${name}`)
  picture.setAttribute('aria-hidden', 'true')
  path.setAttribute('d', PATHS[name])
  picture.append(path)
  return picture
}
