// Each worker: what it works with, and on what.

import { html } from "../vendor/preact.js";
import { text } from "../strings.js";
import { Table } from "./table.js";

const words = text.operate;

export function Workers({ health, places, jobs }) {
  const row = (slot) => {
    const place = places.find(({ name }) => name === slot.name);
    const job = jobs.find((each) => each.slot === slot.name && each.status === "IN_PROGRESS");
    const cells = [
      slot.name,
      slot.device_name ?? slot.device,
      slot.loading
        ? text.server.loading(Math.round(slot.loading.fraction * 100))
        : (words.states[slot.state] ?? slot.state),
      slot.memory ?? text.none,
      [slot.attention, slot.kernels].filter(Boolean).join(", ") || text.none,
      place?.checkpoint_digest?.slice(0, 12) ?? text.none,
      job ? html`<a href=${`#/run/${job.endpoint_id}/${job.request_id}`}>${job.request_id.slice(0, 8)}</a> ${paceOf(job)}` : text.none,
    ];
    return { id: slot.name, cells };
  };
  const head = ["worker", "device", "state", "memory", "backend", "checkpoint", "job"];
  const problems = (health?.slots ?? []).map((slot) => slot.down_reason ?? slot.kernels_problem);
  return html`
    <section class="card">
      <h2>${words.workers}</h2>
      <${Table} label=${words.workers} head=${head.map((each) => words[each])}
        rows=${(health?.slots ?? []).map(row)} />
      ${problems.filter(Boolean).map((each) => html`<p class="notice warn">${each}</p>`)}
    </section>
  `;
}

/** How fast a job goes, by the steps that it has done since its start. */
function paceOf({ progress, started_at: started }) {
  if (progress?.step === undefined) return progress ? text.run.stages[progress.stage] : "";
  const seconds = (Date.now() / 1000 - started) / progress.step;
  return words.pace(progress.step, progress.num_steps, seconds.toFixed(1));
}
