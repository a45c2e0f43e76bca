// What the server needs and whether it has it, and what `cosmos-serve doctor` says of the machine.

import { html, useState } from "../vendor/preact.js";
import { ask } from "../api.js";
import { text } from "../strings.js";
import { Table } from "./table.js";

const words = text.operate;

export function Health({ health }) {
  const check = ({ name, passed, problem }) => html`
    <li>
      <span class=${`state ${passed ? "good" : "bad"}`}>
        <span class="dot" aria-hidden="true"></span>${words.checks[name] ?? name}
      </span>
      <span class=${passed ? "quiet" : ""}>${passed ? words.passed : problem}</span>
    </li>
  `;
  const warning = health?.guardrail?.warning;
  return html`
    <section class="card">
      <h2>${words.health}</h2>
      <ul class="checks">${health?.checks?.map(check)}</ul>
      ${warning && html`<p class="notice warn">${warning}</p>`}
      <${Doctor} />
    </section>
  `;
}

const TONES = { problem: "bad", warning: "warn", ok: "good" };
const WORST_FIRST = Object.keys(TONES);

/** What `cosmos-serve doctor` says, when it is asked for; not of what does not matter here. */
function Doctor() {
  const [found, setFound] = useState(null);
  const [isAsking, setAsking] = useState(false);
  const [problem, setProblem] = useState("");
  const examine = () => {
    setAsking(true);
    setProblem("");
    ask("admin/doctor")
      .then((answer) => setFound(answer.findings), (error) => setProblem(error.message))
      .finally(() => setAsking(false));
  };
  const row = ({ check, level, text: said, mend }) => ({
    id: check,
    cells: [
      html`<span class=${`state ${TONES[level]}`}>
        <span class="dot" aria-hidden="true"></span>${words.levels[level]}
      </span>`,
      check,
      html`<span class="wraps">${said}${mend && html`<br /><b>${mend}</b>`}</span>`,
    ],
  });
  const byLevel = (one, other) => WORST_FIRST.indexOf(one.level) - WORST_FIRST.indexOf(other.level);
  return html`
    <div>
      <button type="button" disabled=${isAsking} onClick=${examine}>
        ${isAsking ? words.examining : words.examine}
      </button>
    </div>
    ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    ${found &&
    html`<${Table} label=${words.said} head=${[words.state, words.check, words.said]}
      rows=${found.filter(({ level }) => level in TONES).sort(byLevel).map(row)} />`}
  `;
}
