// What was written and not sent, kept as long as the tab is open.

const KEY = "cosmos-serve.draft";
const ENDPOINT = "cosmos-serve.endpoint";

/** @type {Map<string, Record<string, unknown>>} */
const drafts = new Map();

/** What was written for an endpoint. A prompt goes along to the others. */
export function draftOf(/** @type {string} */ endpoint) {
  return drafts.get(endpoint) ?? read(`${KEY}.${endpoint}`) ?? carried();
}

/** @param {string} endpoint @param {Record<string, unknown>} values */
export function keepDraft(endpoint, values) {
  drafts.set(endpoint, values);
  write(`${KEY}.${endpoint}`, values);
}

/** The endpoint that this tab used last, or the first. */
export function lastEndpoint(/** @type {string[]} */ ids) {
  const last = read(ENDPOINT);
  return ids.includes(last) ? last : ids[0];
}

/** Let this be the endpoint that the playground shows. */
export function setLastEndpoint(/** @type {string} */ endpoint) {
  write(ENDPOINT, endpoint);
}

function carried() {
  const prompt = [...drafts.values()].map(({ prompt }) => prompt).findLast(Boolean);
  return prompt === undefined ? {} : { prompt };
}

function read(/** @type {string} */ key) {
  try {
    return JSON.parse(sessionStorage.getItem(key) ?? "null");
  } catch {
    return null;
  }
}

function write(/** @type {string} */ key, /** @type {unknown} */ value) {
  try {
    sessionStorage.setItem(key, JSON.stringify(value));
  } catch {
    // It is full, or may not be used: the draft is kept by this page alone.
  }
}
