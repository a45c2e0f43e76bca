// The lines that the server wrote about a run; the last ones are in view.

import { html, useEffect, useRef } from "../vendor/preact.js";
import { text } from "../strings.js";

const CLOCK = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

export function Log({ lines, isLive }) {
  const list = useRef(null);
  useEffect(() => {
    if (isLive && list.current) list.current.scrollTop = list.current.scrollHeight;
  }, [lines.length]);
  const line = ({ timestamp, level, message }) => html`
    <li class=${level.toLowerCase()}><time>${CLOCK.format(new Date(timestamp))}</time> ${message}</li>
  `;
  return html`
    <details class="log">
      <summary>${text.run.log} <span class="quiet">${lines.length}</span></summary>
      ${lines.length === 0
        ? html`<p class="quiet">${text.run.noLog}</p>`
        : html`<ol ref=${list} tabindex="0">${lines.map(line)}</ol>`}
    </details>
  `;
}
