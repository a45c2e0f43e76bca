// The runs of this browser: several may go on at once.

import { html } from "../vendor/preact.js";
import { forget, isOver, standingOf } from "../jobs.js";
import { labelOf } from "../schema.js";
import { text } from "../strings.js";
import { shareOf, toneOf } from "./progress.js";

/** @param {{ jobs: import("../jobs.js").Job[], chosen?: string, onChoose: (id: string) => void }} props */
export function JobList({ jobs, chosen, onChoose }) {
  if (jobs.length === 0) return null;
  return html`
    <h2>${text.run.yours}</h2>
    <ul class="jobs">
      ${jobs.map((job) => html`<${Row} key=${job.id} job=${job} chosen=${chosen} onChoose=${onChoose} />`)}
    </ul>
  `;
}

function Row({ job, chosen, onChoose }) {
  const standing = standingOf(job.id);
  const [tone, words] = toneOf(standing);
  const share = shareOf(standing);
  const isRunning = standing.status === "IN_PROGRESS" && share !== undefined;
  return html`
    <li class=${job.id === chosen ? "chosen" : ""}>
      <button type="button" class="plain" aria-current=${job.id === chosen ? "true" : undefined}
        onClick=${() => onChoose(job.id)}>
        <span class=${`state ${tone}`}><span class="dot" aria-hidden="true"></span>${words}</span>
        <span class="what">${standing.input?.prompt ?? labelOf(job.endpoint)}</span>
        ${isRunning && html`<span class="quiet">${Math.round(share * 100)} %</span>`}
      </button>
      ${isOver(standing) &&
      html`<button type="button" class="plain forget" aria-label=${text.run.forget}
        title=${text.run.forget} onClick=${() => forget(job.id)}>×</button>`}
    </li>
  `;
}
