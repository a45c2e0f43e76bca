// What runs and what waits, of all keys; it can be cancelled, and the queue paused.

import { html, useEffect, useState } from "../vendor/preact.js";
import { ask } from "../api.js";
import { labelOf } from "../schema.js";
import { moment, text } from "../strings.js";
import { ConfirmButton } from "./confirm_button.js";
import { Table } from "./table.js";

const words = text.operate;

export function Queue({ health, jobs, onChange }) {
  const [problem, setProblem] = useState("");
  const paused = health?.queue?.paused_since;
  const [isPaused, setPaused] = useState(null);
  const since = isPaused === null ? paused : isPaused;
  const call = (path, options) =>
    ask(path, options).then(
      (answer) => {
        setProblem("");
        if ("paused_since" in answer) setPaused(answer.paused_since ?? 0);
        onChange();
      },
      (error) => setProblem(error.message),
    );
  useEffect(() => setPaused(null), [paused]);
  const row = (job) => ({ id: job.request_id, cells: cellsOf(job) });
  const cellsOf = (job) => [
    html`<a href=${`#/run/${job.endpoint_id}/${job.request_id}`}>${job.request_id.slice(0, 8)}</a>`,
    job.status === "IN_PROGRESS" ? text.run.running : text.run.queued,
    labelOf(job.endpoint_id),
    job.key_id ?? words.noKey,
    job.priority,
    moment((job.started_at ?? job.submitted_at) * 1000),
    job.cancel_requested
      ? text.run.cancelling
      : html`<${ConfirmButton} words=${text.run.cancel} question=${words.cancelReally}
          onConfirm=${() => call(`admin/jobs/${job.request_id}/cancel`, { method: "PUT" })} />`,
  ];
  const head = [words.request, words.state, words.endpoint, words.key, words.priority, words.since, ""];
  return html`
    <section class="card">
      <div class="row between">
        <h2>${words.queue}</h2>
        ${since
          ? html`<span class="state warn" role="status">
                <span class="dot" aria-hidden="true"></span>${words.pausedSince(moment(since * 1000))}
              </span>
              <button type="button" class="primary"
                onClick=${() => call("admin/queue/resume", { method: "POST" })}>${words.resume}</button>`
          : html`<button type="button"
              onClick=${() => call("admin/queue/pause", { method: "POST" })}>${words.pause}</button>`}
      </div>
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      ${jobs.length === 0
        ? html`<p class="quiet">${words.queueEmpty}</p>`
        : html`<${Table} label=${words.queue} head=${head} rows=${jobs.map(row)} numbers=${[4]} />`}
    </section>
  `;
}
