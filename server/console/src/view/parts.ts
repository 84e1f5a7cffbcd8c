// Small parts that several views are made of. Knows: buttons, chips, fields. Must not know: uploads.

import { h, icon, type Icon, say } from '../dom'
import { t } from '../words'

export function button(label: string, picture: Icon | null, press: () => void, look = ''): HTMLButtonElement {
  return h('button', { type: 'button', class: `button ${look}`, click: press }, picture && icon(picture), h('span', {}, label))
}

/** A button that is told apart from its like by what it acts on. */
export function actionOn(name: string, label: string, picture: Icon, press: () => void, look = ''): HTMLButtonElement {
  const made = button(label, picture, press, look)
  made.setAttribute('aria-label', t('action.of', { action: label, name }))
  return made
}

/** A button that opens the browser's own choice of files. */
export function chooser(label: string, picture: Icon, chosen: (files: File[]) => void, look = '', many = true): HTMLElement {
  const input = h('input', { type: 'file', multiple: many, class: 'visually-hidden', tabindex: -1, 'aria-hidden': 'true' })
  input.addEventListener('change', () => {
    const files = [...(input.files ?? [])]
    // The same file again is a choice, too.
    input.value = ''
    if (files.length) chosen(files)
  })
  return h('span', { class: 'chooser' }, button(label, picture, () => input.click(), look), input)
}

/** A text of which one wants a copy. */
export function copyable(text: string): HTMLElement {
  const label = h('span', {}, t('result.copy'))
  const press = async () => {
    await copy(text)
    say(label, t('result.copied'))
    setTimeout(() => say(label, t('result.copy')), 2000)
  }
  const copied = h(
    'button',
    { type: 'button', class: 'button small', click: () => void press(), 'aria-label': t('result.copy.of', { text }) },
    icon('copy'),
    label,
  )
  return h('div', { class: 'copyable' }, h('code', {}, text), copied)
}

async function copy(text: string): Promise<void> {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text)
    return
  }
  // Plain HTTP beyond this machine: the clipboard has the old door only.
  const area = h('textarea', { class: 'visually-hidden' })
  area.value = text
  document.body.append(area)
  area.select()
  document.execCommand('copy')
  area.remove()
}

const live = h('div', { class: 'visually-hidden', role: 'status', 'aria-live': 'polite' })

/** Said to those who do not see the page. */
export function announce(text: string): void {
  say(live, text)
}

export const announcer = live
