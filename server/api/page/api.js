// Requests to this server, and nowhere else. A cookie says who asks, where the server wants to know.

import { text } from "./strings.js";

/** What the server refused, in its own words. */
export class Refused extends Error {
  /**
   * @param {number} status
   * @param {unknown} body
   */
  constructor(status, body) {
    super(messageOf(body) ?? text.errors.status(status));
    this.status = status;
    this.body = body;
    /** @type {Record<string, string>} What is wrong with each field of the request. */
    this.fields = fieldsOf(body);
  }
}

/** The server gave no answer. */
export class NoAnswer extends Error {
  constructor() {
    super(text.errors.network);
  }
}

/** @type {(() => void)[]} */
const onUnauthorized = [];

/** Have `listener` called when the server asks who this is. */
export function whenUnauthorized(/** @type {() => void} */ listener) {
  onUnauthorized.push(listener);
  return () => void onUnauthorized.splice(onUnauthorized.indexOf(listener), 1);
}

/** The URL of a path of this server, also behind a prefix. */
export function at(/** @type {string} */ path) {
  return new URL(path, document.baseURI).href;
}

/**
 * Path and query of a URL that the server gave out, on this page's own origin: the server may name
 * itself otherwise than this browser does.
 */
export function onThisOrigin(/** @type {string} */ url) {
  if (url.startsWith("data:")) return url;
  const { pathname, search } = new URL(url, document.baseURI);
  return location.origin + pathname + search;
}

/** Whether a URL is that of a file of this server. */
export function isOwnFile(/** @type {string} */ url) {
  try {
    const { origin, pathname } = new URL(url);
    return origin === location.origin && pathname.startsWith(new URL(at("files/")).pathname);
  } catch {
    return false;
  }
}

/**
 * Send a request; its answer if that is one of success.
 *
 * @param {string} url
 * @param {RequestInit} [options]
 * @returns {Promise<Response>}
 */
export async function send(url, options = {}) {
  /** @type {Response} */
  let response;
  try {
    response = await fetch(url, { ...options, redirect: "error" });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new NoAnswer();
  }
  if (response.ok) return response;
  // A proxy without a server behind it.
  if ([502, 504].includes(response.status)) throw new NoAnswer();
  if (response.status === 401) for (const listener of onUnauthorized) listener();
  throw new Refused(response.status, await bodyOf(response));
}

/**
 * Ask for JSON.
 *
 * @param {string} path
 * @param {RequestInit & { json?: unknown }} [options]
 * @returns {Promise<any>}
 */
export async function ask(path, { json, ...options } = {}) {
  const given = json === undefined ? {} : { method: "POST", body: JSON.stringify(json) };
  /** @type {Record<string, string>} */
  const headers = json === undefined ? {} : { "content-type": "application/json" };
  const response = await send(at(path), { ...given, headers, ...options });
  return response.status === 204 ? null : response.json();
}

/** The first two segments of an endpoint's id, under which its requests are found. */
const appOf = (/** @type {string} */ endpoint) => endpoint.split("/").slice(0, 2).join("/");

/** The path of a request in the queue. */
export function pathOf(/** @type {{ id: string, endpoint: string }} */ { id, endpoint }) {
  return `queue/${appOf(endpoint)}/requests/${encodeURIComponent(id)}`;
}

/**
 * Keep a file on the server; its URL, as the server names it.
 *
 * @param {Blob} file
 * @param {string} name
 * @param {(fraction: number) => void} onProgress
 * @returns {Promise<string>}
 */
export async function upload(file, name, onProgress) {
  const type = file.type || "application/octet-stream";
  const { upload_url, file_url } = await ask("rest/storage/upload/initiate", {
    json: { file_name: name, content_type: type },
  });
  // `fetch` does not tell how much of a body was sent.
  const request = new XMLHttpRequest();
  await new Promise((resolve, reject) => {
    request.upload.onprogress = (event) => onProgress(event.loaded / event.total);
    request.onerror = () => reject(new NoAnswer());
    request.onload = () => {
      if (request.status < 300) resolve(undefined);
      else reject(new Refused(request.status, parsed(request.responseText)));
    };
    request.open("PUT", onThisOrigin(upload_url));
    request.setRequestHeader("content-type", type);
    request.send(file);
  });
  return file_url;
}

/**
 * The events of a stream, until it ends; those of statuses have no name.
 *
 * @param {string} path
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<{ name: string, data: any }>}
 */
export async function* events(path, signal) {
  const response = await send(at(path), { signal });
  if (response.body === null) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    while (true) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop() ?? "";
      yield* parts.map(eventOf).filter((event) => event !== null);
    }
  } catch (error) {
    if (signal.aborted) throw error;
    throw new NoAnswer();
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** One event; null for a comment that keeps the way open. */
function eventOf(/** @type {string} */ part) {
  const lines = part.split("\n");
  const after = (/** @type {string} */ mark) =>
    lines.find((line) => line.startsWith(mark))?.slice(mark.length);
  const data = after("data: ");
  return data === undefined ? null : { name: after("event: ") ?? "", data: JSON.parse(data) };
}

async function bodyOf(/** @type {Response} */ response) {
  return parsed(await response.text().catch(() => ""));
}

function parsed(/** @type {string} */ body) {
  try {
    return JSON.parse(body);
  } catch {
    return null;
  }
}

/** The sentences of an error, in any of the forms that the services have. */
function messageOf(/** @type {any} */ body) {
  const detail = body?.detail ?? body?.error?.message ?? body?.message;
  if (typeof detail === "string") return detail;
  if (!Array.isArray(detail)) return null;
  return detail.map((each) => `${nameOf(each.loc)}${each.msg}`).join(" ");
}

const nameOf = (/** @type {unknown[]} */ loc) => (loc?.length > 1 ? `${loc.slice(1).join(".")}: ` : "");

function fieldsOf(/** @type {any} */ body) {
  const items = Array.isArray(body?.detail) ? body.detail : [];
  return Object.fromEntries(
    items.filter((each) => each.loc?.length > 1).map((each) => [String(each.loc[1]), each.msg]),
  );
}
