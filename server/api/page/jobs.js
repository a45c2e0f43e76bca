// The runs that this browser began, and where each stands. Their ids are kept; all else is asked for.

import { useEffect, useState } from "./vendor/preact.js";
import { NoAnswer, Refused, ask, events, pathOf } from "./api.js";
import { TimeLeft } from "./time_left.js";

/**
 * @typedef {{ id: string, endpoint: string }} Job
 *
 * @typedef {object} Standing
 * @property {"IN_QUEUE" | "IN_PROGRESS" | "COMPLETED"} [status] undefined until the server said it
 * @property {number} [position]
 * @property {any} [estimate]
 * @property {{ stage: string, step?: number, num_steps?: number }} [progress]
 * @property {any[]} lines
 * @property {any} [metrics]
 * @property {any} [output]
 * @property {Refused} [error]
 * @property {string} [prepared] its picture or clip as the server has prepared it
 * @property {string} [preview]
 * @property {boolean} [offline]
 * @property {boolean} [gone]
 * @property {Record<string, any>} [input] known in the tab that sent it
 * @property {TimeLeft} timeLeft
 */

const STORED = "cosmos-serve.jobs";
const MAX_STORED = 50;
const POLL_MS = 2000;
const AGAIN_MS = [500, 1000, 2000, 4000];

/** @type {Map<string, Standing>} */
const standings = new Map();
/** @type {Map<string, string>} Pictures of files that were named by a URL, by that URL. */
const prepared = new Map();
/** @type {Set<() => void>} */
const listeners = new Set();

/** @returns {Job[]} The runs, the latest first. */
export function storedJobs() {
  try {
    const stored = JSON.parse(localStorage.getItem(STORED) ?? "[]");
    return stored.filter((each) => typeof each?.id === "string" && typeof each?.endpoint === "string");
  } catch {
    return [];
  }
}

function store(/** @type {Job[]} */ jobs) {
  try {
    localStorage.setItem(STORED, JSON.stringify(jobs.slice(0, MAX_STORED)));
  } catch {
    // Private windows may keep nothing: the runs are then known to this tab alone.
  }
  changed();
}

/**
 * Send a request; the run that it became.
 *
 * @param {string} endpoint
 * @param {Record<string, unknown>} input
 * @returns {Promise<Job>}
 */
export async function begin(endpoint, input) {
  const { request_id } = await ask(`queue/${endpoint}`, { json: input });
  const job = { id: request_id, endpoint };
  standings.set(job.id, { lines: [], input, timeLeft: new TimeLeft() });
  store([job, ...storedJobs()]);
  return job;
}

/**
 * What a run was asked for, and of which endpoint: this tab knows it, or the platform API does.
 *
 * @param {Job} job
 * @param {string[]} endpoints
 * @returns {Promise<{ endpoint: string, input: Record<string, unknown> } | null>}
 */
export async function requestOf(job, endpoints) {
  const { input } = standingOf(job.id);
  if (input) return { endpoint: job.endpoint, input };
  const query = new URLSearchParams({
    endpoint_id: endpoints.join(),
    request_id: job.id,
    expand: "payloads",
  });
  const { items } = await ask(`v1/models/requests/by-endpoint?${query}`);
  const [{ endpoint_id: endpoint, json_input: kept } = {}] = items;
  return kept ? { endpoint, input: reusable(kept) } : null;
}

/** An input that can be sent again: of files that came within a request only `data:…` is kept. */
export function reusable(/** @type {Record<string, unknown>} */ input) {
  return Object.fromEntries(Object.entries(input).filter(([, value]) => value !== "data:…"));
}

export const cancel = (/** @type {Job} */ job) => ask(`${pathOf(job)}/cancel`, { method: "PUT" });

/** Take a run off the list; the server keeps it. */
export function forget(/** @type {string} */ id) {
  store(storedJobs().filter((each) => each.id !== id));
}

/**
 * Where a run stands, as far as this tab knows.
 *
 * @param {string} id
 * @returns {Standing}
 */
export function standingOf(id) {
  const known = standings.get(id);
  if (known) return known;
  const unknown = { lines: [], timeLeft: new TimeLeft() };
  standings.set(id, unknown);
  return unknown;
}

/** A file as the server has prepared it for a run of this tab, by its URL, which is not opened. */
export const preparedOf = (/** @type {string} */ url) => prepared.get(url);

function update(/** @type {string} */ id, /** @type {Partial<Standing>} */ news) {
  standings.set(id, { ...standingOf(id), ...news });
  changed();
}

function changed() {
  for (const listener of listeners) listener();
}

/** Draw again at each change of a run, or of the list of them. */
export function useJobs() {
  const [, draw] = useState(0);
  useEffect(() => {
    const listener = () => draw((count) => count + 1);
    const fromOtherTab = (/** @type {StorageEvent} */ event) => event.key === STORED && listener();
    listeners.add(listener);
    addEventListener("storage", fromOtherTab);
    return () => {
      listeners.delete(listener);
      removeEventListener("storage", fromOtherTab);
    };
  }, []);
  return storedJobs();
}

/**
 * Follow a run as long as this is shown, by its stream. A browser opens few connections to one
 * server, so a tab has one stream at most, and a hidden tab none.
 */
export function useFollowed(/** @type {Job | undefined} */ job) {
  useEffect(() => {
    if (!job) return undefined;
    let ending = new AbortController();
    const begin = () => {
      ending.abort();
      ending = new AbortController();
      if (!document.hidden) follow(job, ending.signal);
    };
    begin();
    document.addEventListener("visibilitychange", begin);
    return () => {
      document.removeEventListener("visibilitychange", begin);
      ending.abort();
    };
  }, [job?.id]);
}

/** Ask now and then about the runs of the list that are not done, but for one that is followed. */
export function usePolled(/** @type {string | undefined} */ followed) {
  useEffect(() => {
    const ending = new AbortController();
    const poll = async () => {
      const open = storedJobs().filter(({ id }) => id !== followed && !isOver(standingOf(id)));
      for (const job of open) await look(job, ending.signal);
      if (!ending.signal.aborted) timer = setTimeout(poll, POLL_MS);
    };
    let timer = setTimeout(poll, 0);
    return () => {
      ending.abort();
      clearTimeout(timer);
    };
  }, [followed]);
}

/** Whether nothing more becomes of a run. */
export function isOver(/** @type {Standing} */ standing) {
  return standing.output !== undefined || standing.error !== undefined || standing.gone === true;
}

async function follow(/** @type {Job} */ job, /** @type {AbortSignal} */ signal) {
  for (let tries = 0; !isOver(standingOf(job.id)) && !signal.aborted; ) {
    let lines = [];
    try {
      const stream = `${pathOf(job)}/status/stream?logs=1&previews=1`;
      for await (const { name, data } of events(stream, signal)) {
        tries = 0;
        if (name === "preview") update(job.id, { preview: data.url });
        else if (name === "prepared") showPrepared(job.id, data);
        else take(job.id, data, (lines = [...lines, ...(data.logs ?? [])]));
      }
      await finish(job, signal);
    } catch (error) {
      if (signal.aborted) return;
      note(job.id, error);
    }
    if (!isOver(standingOf(job.id))) {
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS[Math.min(tries, 3)]));
      tries += 1;
    }
  }
}

async function look(/** @type {Job} */ job, /** @type {AbortSignal} */ signal) {
  try {
    const status = await ask(`${pathOf(job)}/status?logs=1`, { signal });
    take(job.id, status, status.logs ?? []);
    await finish(job, signal);
  } catch (error) {
    if (!signal.aborted) note(job.id, error);
  }
}

function showPrepared(/** @type {string} */ id, /** @type {{ field: string, url: string }} */ { field, url }) {
  const source = standingOf(id).input?.[field];
  if (source) prepared.set(source, url);
  update(id, { prepared: url });
}

function take(/** @type {string} */ id, /** @type {any} */ event, /** @type {any[]} */ lines) {
  const { timeLeft } = standingOf(id);
  const { decode = 0, encode = 0 } = event.estimate?.stage_seconds ?? {};
  if (event.estimate) timeLeft.afterwards = decode + encode;
  if (event.progress) timeLeft.see(event.progress);
  update(id, {
    status: event.status,
    position: event.queue_position,
    estimate: event.estimate,
    progress: event.progress,
    metrics: event.metrics,
    lines,
    offline: false,
  });
}

/** Fetch the result, once there is one. */
async function finish(/** @type {Job} */ job, /** @type {AbortSignal} */ signal) {
  if (standingOf(job.id).status !== "COMPLETED") return;
  update(job.id, { output: await ask(pathOf(job), { signal }) });
}

function note(/** @type {string} */ id, /** @type {unknown} */ error) {
  if (error instanceof NoAnswer || (error instanceof Refused && error.status === 503 && !isDone(id))) {
    update(id, { offline: true });
  } else if (error instanceof Refused && error.status === 404 && !isDone(id)) {
    update(id, { gone: true });
  } else if (error instanceof Refused && isDone(id)) {
    update(id, { error });
  } else if (!(error instanceof Refused)) {
    throw error;
  }
}

const isDone = (/** @type {string} */ id) => standingOf(id).status === "COMPLETED";
