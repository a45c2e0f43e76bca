// The keys of callers: made, shown once, and revoked.

import { html, useEffect, useState } from "../vendor/preact.js";
import { ask } from "../api.js";
import { moment, text } from "../strings.js";
import { CopyButton } from "./code.js";
import { ConfirmButton } from "./confirm_button.js";
import { Table } from "./table.js";

const words = text.operate;

/** The limits of one key in words; those of all keys are in the settings. */
function limitsOf(/** @type {Record<string, number | null>} */ limits) {
  const own = Object.entries(limits).filter(([, value]) => value !== null);
  const said = own.map(([name, value]) => words.limit[name](value));
  return said.length === 0 ? words.noLimits : said.join(", ");
}

export function Keys() {
  const [keys, setKeys] = useState([]);
  const [made, setMade] = useState(null);
  const [problem, setProblem] = useState("");
  const look = () =>
    ask("v1/keys?limit=1000").then(
      (answer) => setKeys(answer.keys),
      (error) => setProblem(error.message),
    );
  useEffect(() => void look(), []);
  const trying = (work) =>
    work.then(
      (answer) => {
        setProblem("");
        look();
        return answer;
      },
      (error) => setProblem(error.message),
    );
  const make = async (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    const form = /** @type {HTMLFormElement} */ (event.target);
    const answer = await trying(ask("v1/keys", { json: { alias: new FormData(form).get("alias") } }));
    if (!answer) return;
    form.reset();
    setMade(answer.key);
  };
  const revoke = (id) => trying(ask(`v1/keys/${encodeURIComponent(id)}`, { method: "DELETE" }));
  const cellsOf = (key) => [
    key.alias,
    key.key_id,
    moment(key.created_at),
    limitsOf(key.limits),
    html`<${ConfirmButton} words=${words.revoke} question=${words.revokeReally}
      onConfirm=${() => revoke(key.key_id)} />`,
  ];
  return html`
    <section class="card">
      <h2>${words.keys}</h2>
      <${Table} label=${words.keys} head=${[words.keys, words.key, words.created, words.limits, ""]} 
        rows=${keys.map((key) => ({ id: key.key_id, cells: cellsOf(key) }))} />
      <form class="row" onSubmit=${make}>
        <label class="choice">
          <span class="quiet">${words.alias}</span>
          <input name="alias" required maxlength="255" />
        </label>
        <button>${words.make}</button>
      </form>
      ${made &&
      html`<div class="notice warn" role="status">
        ${words.made} <code class="mono">${made}</code> <${CopyButton} value=${made} />
      </div>`}
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    </section>
  `;
}
