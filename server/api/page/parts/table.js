// A table that a narrow screen can scroll sideways.

import { html } from "../vendor/preact.js";

/** @param {{ label: string, head: string[], rows: { id: string, cells: any[] }[], numbers?: number[] }} props `numbers` are the columns of numbers */
export function Table({ label, head, rows, numbers = [] }) {
  const kind = (/** @type {number} */ column) => (numbers.includes(column) ? "number" : undefined);
  return html`
    <div class="scroll" role="region" aria-label=${label} tabindex="0">
      <table>
        <thead>
          <tr>${head.map((each, column) => html`<th scope="col" class=${kind(column)}>${each}</th>`)}</tr>
        </thead>
        <tbody>
          ${rows.map(
            ({ id, cells }) => html`
              <tr key=${id}>
                ${cells.map((each, column) => html`<td class=${kind(column)}>${each}</td>`)}
              </tr>
            `,
          )}
        </tbody>
      </table>
    </div>
  `;
}
