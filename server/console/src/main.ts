// The page's beginning. Knows: which parts there are. Must not know: how they do their work.

import './style.css'
import { Board } from './board'
import { Shell } from './view/shell'

let shell: Shell | null = null
let drawing = false

/** However much happens, the page is drawn once in a while: also where nobody looks at it. */
function changed(): void {
  if (drawing) return
  drawing = true
  setTimeout(() => {
    drawing = false
    shell?.update()
  }, 60)
}

const board = new Board(changed)

function build(): void {
  shell = new Shell(board, build)
  shell.update()
}

build()
// Seconds until the next try, and times that pass.
setInterval(changed, 1000)
// What is being sent is kept by the server, but it stops with the page.
addEventListener('beforeunload', (event) => {
  if (board.sends.some((send) => send.working)) event.preventDefault()
})
