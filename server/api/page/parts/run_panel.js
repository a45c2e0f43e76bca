// One run: what it shows while it waits and is made, and what came of it.

import { html, useState } from "../vendor/preact.js";
import { cancel, isOver, standingOf } from "../jobs.js";
import { text } from "../strings.js";
import { Log } from "./log.js";
import { Progress, toneOf } from "./progress.js";
import { Result } from "./result.js";

/** @param {{ job: import("../jobs.js").Job, server: import("../main.js").Server, onReuse: (endpoint: string) => void }} props */
export function RunPanel({ job, server, onReuse }) {
  const standing = standingOf(job.id);
  const [tone, words] = toneOf(standing);
  const [isCancelling, setCancelling] = useState(false);
  const [problem, setProblem] = useState("");
  const stop = () => {
    setCancelling(true);
    cancel(job).catch((error) => {
      setCancelling(false);
      setProblem(error.message);
    });
  };
  const shown = standing.preview ?? (isOver(standing) ? undefined : standing.prepared);
  const shape = { aspectRatio: `${server.width} / ${server.height}` };
  return html`
    <div class="card run" data-request=${job.id}>
      ${standing.output
        ? html`<${Result} job=${job} standing=${standing} server=${server} onReuse=${onReuse} />`
        : html`
            <div class=${`stage ${shown ? "" : "empty"}`} style=${shape}>
              ${shown
                ? html`<img src=${shown} alt=${standing.preview ? text.run.preview : text.run.prepared} />`
                : html`<p class=${`state big ${tone}`} role="status">
                    <span class="dot" aria-hidden="true"></span>${words}
                  </p>`}
            </div>
          `}
      ${standing.error && html`<p class="notice bad" role="alert">${standing.error.message}</p>`}
      ${standing.offline && html`<p class="notice warn" role="status">${text.run.offline}</p>`}
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      ${!isOver(standing) &&
      html`
        <${Progress} standing=${standing} endpoint=${job.endpoint} />
        <button type="button" disabled=${isCancelling} onClick=${stop}>
          ${isCancelling ? text.run.cancelling : text.run.cancel}
        </button>
      `}
      <${Log} lines=${standing.lines} isLive=${!isOver(standing)} />
    </div>
  `;
}
