// How far a run is: its place in the queue, its stage, its step, and the time that is left.

import { html, useEffect, useState } from "../vendor/preact.js";
import { countdown, moment, text } from "../strings.js";

const STAGES = ["text", "image", "denoise", "decode", "encode"];

/** What a run is doing, as a colour and words. */
export function toneOf(/** @type {import("../jobs.js").Standing} */ standing) {
  if (standing.gone) return ["", text.run.gone];
  if (standing.output) return ["good", text.run.done];
  if (standing.error?.status === 499) return ["", text.run.cancelled];
  if (standing.error) return ["bad", text.run.failed];
  if (standing.status === "IN_PROGRESS") return ["busy", text.run.running];
  if (standing.status === "IN_QUEUE") return ["warn", text.run.queued];
  return ["", text.run.unknown];
}

/** The share of a run that is done, by its steps. */
export function shareOf(/** @type {import("../jobs.js").Standing} */ { progress }) {
  const { step, num_steps: steps } = progress ?? {};
  return step === undefined || steps === undefined ? undefined : step / steps;
}

/** @param {{ standing: import("../jobs.js").Standing, endpoint: string }} props */
export function Progress({ standing, endpoint }) {
  const { status, progress } = standing;
  if (status === "IN_QUEUE") return html`<${Queued} standing=${standing} />`;
  if (status !== "IN_PROGRESS") return html`<p class="headline">${text.run.unknown}</p>`;
  const stages = STAGES.filter((stage) => stage !== "image" || !endpoint.includes("text-to-video"));
  const now = stages.indexOf(progress?.stage ?? "");
  const stage = (name, index) => html`
    <li class=${index < now ? "past" : ""} aria-current=${index === now ? "step" : undefined}>
      ${text.run.stages[name]}
    </li>
  `;
  return html`
    <ol class="stages" aria-label=${text.run.stagesLabel}>${stages.map(stage)}</ol>
    <${Steps} standing=${standing} />
  `;
}

function Queued({ standing: { position, estimate } }) {
  const words = position ? text.run.queuedBehind(position) : text.run.queuedNext;
  return html`
    <p class="headline" role="status">
      ${words}
      ${estimate?.starts_at &&
      html` <span class="quiet">· ${text.run.startsAt(moment(estimate.starts_at))}</span>`}
    </p>
    <progress class="waiting" aria-label=${text.run.queued}></progress>
  `;
}

function Steps({ standing: { progress, timeLeft } }) {
  const [, tick] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => tick((count) => count + 1), 500);
    return () => clearInterval(timer);
  }, []);
  const { step, num_steps: steps } = progress ?? {};
  const isStepping = progress?.stage === "denoise" && step !== undefined;
  const left = isStepping ? timeLeft.seconds : undefined;
  const words = [
    isStepping && text.run.step(step, steps),
    left !== undefined && text.run.left(countdown(left)),
  ];
  return html`
    <progress aria-label=${text.run.running} max=${steps} value=${isStepping ? step : undefined} />
    <p class="quiet steps">${words.filter(Boolean).join(" · ") || " "}</p>
  `;
}
