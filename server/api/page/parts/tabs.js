// Tabs, as the ARIA practices have them: one stop for the Tab key, and arrow keys within.

import { html, useRef } from "../vendor/preact.js";

const MOVES = { ArrowLeft: -1, ArrowRight: 1 };
let count = 0;

/** @param {{ label: string, tabs: { id: string, label: string }[], chosen: string, onChoose: (id: string) => void, className?: string, children?: any }} props */
export function Tabs({ label, tabs, chosen, onChoose, className = "", children }) {
  const own = useRef(0);
  own.current ||= count += 1;
  const idOf = (/** @type {string} */ id) => `tab-${own.current}-${id.replaceAll("/", "-")}`;
  const press = (/** @type {KeyboardEvent} */ event) => {
    const move = MOVES[event.key];
    if (move === undefined) return;
    event.preventDefault();
    const index = tabs.findIndex(({ id }) => id === chosen) + move;
    const next = tabs[(index + tabs.length) % tabs.length];
    onChoose(next.id);
    document.getElementById(idOf(next.id))?.focus();
  };
  const tab = ({ id, label: words }) => html`
    <button type="button" role="tab" id=${idOf(id)} aria-selected=${String(id === chosen)}
      aria-controls=${`panel-${own.current}`} tabindex=${id === chosen ? 0 : -1}
      onClick=${() => onChoose(id)}>
      ${words}
    </button>
  `;
  return html`
    <div class=${`tabs ${className}`} role="tablist" aria-label=${label} onKeyDown=${press}>
      ${tabs.map(tab)}
    </div>
    <div class="panel" role="tabpanel" id=${`panel-${own.current}`} aria-labelledby=${idOf(chosen)}>
      ${children}
    </div>
  `;
}
