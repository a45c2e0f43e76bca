// The video that was made, and how.

import { html, useState } from "../vendor/preact.js";
import { onThisOrigin } from "../api.js";
import { draftOf, keepDraft, setLastEndpoint } from "../drafts.js";
import { requestOf } from "../jobs.js";
import { duration, size, text } from "../strings.js";

/** @param {{ job: import("../jobs.js").Job, standing: import("../jobs.js").Standing, server: import("../main.js").Server, onReuse: (endpoint: string) => void }} props */
export function Result({ job, standing, server, onReuse }) {
  const { video, seed } = standing.output;
  const url = onThisOrigin(video.url);
  const shape = { aspectRatio: `${video.width ?? server.width} / ${video.height ?? server.height}` };
  const [problem, setProblem] = useState("");
  const reuse = (/** @type {string} */ endpoint, /** @type {Record<string, unknown>} */ values) => {
    keepDraft(endpoint, { ...draftOf(endpoint), ...values });
    setLastEndpoint(endpoint);
    onReuse(endpoint);
  };
  const again = () =>
    requestOf(job, server.endpoints.map(({ id }) => id)).then(
      (found) => (found ? reuse(found.endpoint, found.input) : setProblem(text.past.notKept)),
      (error) => setProblem(error.message),
    );
  return html`
    <div class="stage" style=${shape}>
      ${video.content_type === "image/gif"
        ? html`<img src=${url} alt=${text.run.video} />`
        : html`<video src=${url} aria-label=${text.run.video} controls loop autoplay muted playsinline></video>`}
    </div>
    <div class="row">
      <a class="button primary" href=${url} download=${video.file_name ?? "video"}>
        ${text.run.download}
      </a>
      <button type="button" onClick=${again}>${text.run.again}</button>
    </div>
    ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    <${Facts} standing=${standing} onSeed=${() => reuse(job.endpoint, { seed })} />
    <details class="raw">
      <summary>${text.run.json}</summary>
      <pre tabindex="0">${JSON.stringify(shortened(standing.output), null, 2)}</pre>
    </details>
  `;
}

/** What is known of how it was made. */
function Facts({ standing: { output, metrics }, onSeed }) {
  const { video, seed } = output;
  const { stage_seconds: seconds, tier, made_with: made } = metrics ?? {};
  const stages = Object.entries(seconds ?? {}).map(
    ([name, each]) => `${text.run.stages[name] ?? name} ${duration(each)}`,
  );
  const facts = [
    [text.run.seed, html`${seed} <${SeedButton} onSeed=${onSeed} />`],
    [text.run.size, video.width && `${video.width}×${video.height}, ${framesOf(video)}`],
    [text.run.file, video.file_size && `${video.content_type}, ${size(video.file_size)}`],
    [text.run.seconds, metrics?.inference_time != null && duration(metrics.inference_time)],
    [text.run.stageSeconds, stages.join(" · ")],
    [text.run.tier, tier],
    [text.run.backend, Object.entries(made ?? {}).map(([name, each]) => `${name} ${each}`).join(", ")],
  ].filter(([, value]) => value);
  return html`
    <dl class="facts">
      ${facts.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}
    </dl>
  `;
}

function SeedButton({ onSeed }) {
  return html`
    <button type="button" class="plain" onClick=${onSeed}>${text.run.useSeed}</button>
  `;
}

const framesOf = ({ num_frames, fps }) => text.run.frames(num_frames, fps);

/** An output without the video that `sync_mode` puts into it. */
function shortened(/** @type {any} */ output) {
  const { url } = output.video;
  if (!url.startsWith("data:") || url.length < 200) return output;
  return { ...output, video: { ...output.video, url: `${url.slice(0, 60)}…` } };
}
