// What was made before, by the platform API: a page at a time, the latest first.

import { html, useEffect, useState } from "../vendor/preact.js";
import { ask, onThisOrigin } from "../api.js";
import { keepDraft, setLastEndpoint } from "../drafts.js";
import { reusable } from "../jobs.js";
import { labelOf } from "../schema.js";
import { duration, moment, text } from "../strings.js";
import { ConfirmButton } from "../parts/confirm_button.js";

const PAGE = 24;
const DAY_MS = 86_400_000;
const PERIODS = [1, 7, 30, 90];
const OUTCOMES = ["success", "user_error", "error"];

/** @param {{ server: import("../main.js").Server }} props */
export function History({ server }) {
  const [endpoint, setEndpoint] = useState("");
  const [outcome, setOutcome] = useState("");
  const [days, setDays] = useState(7);
  const { items, hasMore, isLoading, problem, more, remove } = useRequests(
    endpoint ? [endpoint] : server.endpoints.map(({ id }) => id),
    outcome,
    days,
  );
  const again = (item) => {
    keepDraft(item.endpoint_id, reusable(item.json_input));
    setLastEndpoint(item.endpoint_id);
    location.hash = "#/playground";
  };
  return html`
    <h1>${text.history}</h1>
    <div class="filters">
      <${Choice} label=${text.past.endpoint} value=${endpoint} onChange=${setEndpoint}
        options=${[["", text.past.all], ...server.endpoints.map(({ id }) => [id, labelOf(id)])]} />
      <${Choice} label=${text.past.outcome} value=${outcome} onChange=${setOutcome}
        options=${[["", text.past.all], ...OUTCOMES.map((each) => [each, text.past.outcomes[each]])]} />
      <${Choice} label=${text.past.period} value=${days} onChange=${(value) => setDays(Number(value))}
        options=${PERIODS.map((each) => [each, text.past.days(each)])} />
    </div>
    ${problem && html`<p class="notice bad" role="alert">${problem}</p>`}
    ${items.length === 0 && !problem &&
    html`<p class="nothing quiet" role="status">${isLoading ? text.loading : text.past.empty}</p>`}
    <ul class="cards">
      ${items.map(
        (item) => html`<${Card} key=${item.request_id} item=${item} server=${server}
          onAgain=${() => again(item)} onRemoved=${() => remove(item.request_id)} />`,
      )}
    </ul>
    ${hasMore &&
    html`<p class="more-row">
      <button type="button" disabled=${isLoading} onClick=${more}>${text.past.more}</button>
    </p>`}
  `;
}

/** The requests of some endpoints that have ended, as far as they were asked for. */
function useRequests(endpoints, outcome, days) {
  const [items, setItems] = useState([]);
  const [cursor, setCursor] = useState(null);
  const [hasMore, setMore] = useState(false);
  const [isLoading, setLoading] = useState(true);
  const [problem, setProblem] = useState("");
  const filters = [endpoints.join(), outcome, days];

  const load = async (/** @type {string | null} */ after, /** @type {AbortSignal | undefined} */ signal) => {
    setLoading(true);
    setProblem("");
    const query = new URLSearchParams({
      endpoint_id: endpoints.join(),
      limit: String(PAGE),
      expand: "payloads",
      start: new Date(Date.now() - days * DAY_MS).toISOString(),
    });
    if (outcome) query.set("status", outcome);
    if (after) query.set("cursor", after);
    try {
      const page = await ask(`v1/models/requests/by-endpoint?${query}`, { signal });
      setItems((before) => (after ? [...before, ...page.items] : page.items));
      setCursor(page.next_cursor);
      setMore(page.has_more);
    } catch (error) {
      if (!signal?.aborted) setProblem(error.message);
    } finally {
      if (!signal?.aborted) setLoading(false);
    }
  };
  useEffect(() => {
    const ending = new AbortController();
    setItems([]);
    setMore(false);
    load(null, ending.signal);
    return () => ending.abort();
  }, filters);
  const remove = (/** @type {string} */ id) =>
    setItems((before) => before.map((each) => (each.request_id === id ? emptied(each) : each)));
  return { items, hasMore, isLoading, problem, more: () => load(cursor, undefined), remove };
}

/** A request whose payloads were deleted. */
const emptied = ({ json_input, json_output, thumbnail_url, ...rest }) => rest;

function Choice({ label, value, options, onChange }) {
  return html`
    <label class="choice">
      <span class="quiet">${label}</span>
      <select onChange=${({ target }) => onChange(target.value)}>
        ${options.map(
          ([each, words]) =>
            html`<option value=${each} selected=${String(each) === String(value)}>${words}</option>`,
        )}
      </select>
    </label>
  `;
}

function Card({ item, server, onAgain, onRemoved }) {
  const { request_id: id, endpoint_id: endpoint, status_code: status, json_input: input } = item;
  const [tone, words] = outcomeOf(status);
  const [problem, setProblem] = useState("");
  const remove = () =>
    ask(`v1/models/requests/${encodeURIComponent(id)}/payloads`, { method: "DELETE" }).then(
      onRemoved,
      (error) => setProblem(error.message),
    );
  const shape = { aspectRatio: `${server.width} / ${server.height}` };
  return html`
    <li class="card made">
      <a href=${`#/run/${endpoint}/${id}`} class=${`stage ${item.thumbnail_url ? "" : "empty"}`} style=${shape}
        tabindex="-1" aria-hidden="true">
        ${item.thumbnail_url
          ? html`<img src=${onThisOrigin(item.thumbnail_url)} alt="" loading="lazy" />`
          : html`<span class="quiet">${words}</span>`}
      </a>
      <p class="prompt">${input?.prompt ?? html`<span class="quiet">${text.past.notKept}</span>`}</p>
      <p class="quiet small facts-line">
        <span class=${`state ${tone}`}><span class="dot" aria-hidden="true"></span>${words}</span>
        <span>${labelOf(endpoint)}</span>
        <time datetime=${item.ended_at}>${moment(item.ended_at)}</time>
        <span>${duration(item.duration)}</span>
      </p>
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      <div class="row">
        <a class="button" href=${`#/run/${endpoint}/${id}`}>${text.run.open}</a>
        ${input && html`<button type="button" onClick=${onAgain}>${text.past.again}</button>`}
        ${input &&
        html`<${ConfirmButton} words=${text.past.remove} question=${text.past.removeReally}
          onConfirm=${remove} />`}
      </div>
    </li>
  `;
}

function outcomeOf(/** @type {number} */ status) {
  if (status < 300) return ["good", text.run.done];
  if (status === 499) return ["", text.run.cancelled];
  return ["bad", status < 500 ? text.past.outcomes.user_error : text.past.outcomes.error];
}
