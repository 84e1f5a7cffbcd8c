// Questions that stand before everything else. Knows: the browser's own dialogs (focus, Escape and
// the background are its affair). Must not know: what follows from an answer.

import { h, say } from '../dom'
import { t } from '../words'
import { button } from './parts'

/** Whether an upload is really to be canceled. */
export function askToCancel(name: string): Promise<boolean> {
  return new Promise((resolve) => {
    const dialog = h(
      'dialog',
      { class: 'dialog', 'aria-labelledby': 'cancel-title', close: () => {
        resolve(dialog.returnValue === 'yes')
        dialog.remove()
      } },
      h('h2', { id: 'cancel-title' }, t('cancel.title')),
      h('p', {}, t('cancel.text', { name })),
      h(
        'div',
        { class: 'dialog-actions' },
        button(t('cancel.no'), null, () => dialog.close('no')),
        button(t('cancel.yes'), 'stop', () => dialog.close('yes'), 'danger'),
      ),
    )
    document.body.append(dialog)
    dialog.showModal()
  })
}

/** The field for a token; it stays until one was given that may be right. */
export class TokenQuestion {
  readonly element: HTMLDialogElement
  readonly #field: HTMLInputElement
  readonly #error = h('p', { id: 'token-error', class: 'verdict bad', role: 'alert' })
  #given = ''

  constructor(private readonly give: (token: string) => void) {
    this.#field = h('input', {
      id: 'token',
      type: 'password',
      class: 'field mono',
      autocomplete: 'current-password',
      'aria-describedby': 'token-error',
      keydown: (event: KeyboardEvent) => event.key === 'Enter' && this.#send(),
    })
    const shown = h('input', {
      type: 'checkbox',
      id: 'token-shown',
      change: () => {
        this.#field.type = shown.checked ? 'text' : 'password'
      },
    })
    this.element = h(
      'dialog',
      { class: 'dialog', 'aria-labelledby': 'token-title' },
      h('h2', { id: 'token-title' }, t('token.title')),
      h('p', {}, t('token.text')),
      h('label', { for: 'token', class: 'label' }, t('token.label')),
      this.#field,
      this.#error,
      h('div', { class: 'check' }, shown, h('label', { for: 'token-shown' }, t('token.show'))),
      h('div', { class: 'dialog-actions' }, button(t('token.send'), 'key', () => this.#send(), 'primary')),
    )
  }

  open(refused: string): void {
    if (this.element.open) return
    say(this.#error, refused && refused === this.#given ? t('token.wrong') : '')
    this.element.showModal()
    this.#field.focus()
  }

  #send(): void {
    const token = this.#field.value.trim()
    if (!token) {
      say(this.#error, t('token.empty'))
      return
    }
    this.#given = token
    this.element.close()
    this.give(token)
  }
}
