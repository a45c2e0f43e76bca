// What a request will take, before it is sent: its own work, and the wait before it.

import { html, useEffect, useState } from "../vendor/preact.js";
import { Refused, ask } from "../api.js";
import { fits } from "../schema.js";
import { duration, text } from "../strings.js";

const SETTLE_MS = 400;
const LOOK_MS = 10_000;
/** Stands for a file that is not uploaded yet: an estimate opens none. */
const ANY_FILE = "data:,";

/**
 * The server's estimate of a request, asked for again now and then; null while there is none.
 *
 * @param {string} endpoint
 * @param {import("../schema.js").Field[]} fields
 * @param {Record<string, unknown>} input
 */
export function useEstimate(endpoint, fields, input) {
  const [estimate, setEstimate] = useState(null);
  const files = fields.filter(({ isFile }) => isFile);
  const hasFile = files.some(({ name }) => name in input);
  // Where one of several files will do, the first stands for all.
  const missing = fields.filter(
    (field) => !(field.name in input) && (field.required || (!hasFile && field === files[0])),
  );
  const asked = { ...input, ...Object.fromEntries(missing.map(({ name }) => [name, ANY_FILE])) };
  // What would be refused is not asked for.
  const isValid = fields.length > 0 && fields.every((field) => fits(field, asked[field.name]));
  const body = JSON.stringify(asked);
  useEffect(() => {
    if (!isValid) return void setEstimate(null);
    const ending = new AbortController();
    const look = async () => {
      try {
        setEstimate(
          await ask(`v1/estimate/${endpoint}`, { method: "POST", body, signal: ending.signal }),
        );
      } catch (error) {
        if (ending.signal.aborted) return;
        setEstimate(null);
        if (error instanceof Refused) return;
      }
      if (!ending.signal.aborted) timer = setTimeout(look, LOOK_MS);
    };
    let timer = setTimeout(look, SETTLE_MS);
    return () => {
      ending.abort();
      clearTimeout(timer);
    };
  }, [endpoint, isValid, body]);
  return estimate;
}

/** @param {{ estimate: any }} props */
export function EstimateLine({ estimate }) {
  if (estimate === null) return null;
  const { seconds, wait_seconds: wait, queue_position: position } = estimate;
  const words = [
    seconds === null ? text.estimate.unknown : text.estimate.work(duration(seconds)),
    position > 0 && text.estimate.ahead(position),
    wait !== null && wait >= 1 && text.estimate.wait(duration(wait)),
    wait !== null && wait < 1 && position === 0 && text.estimate.now,
  ];
  return html`<span class="estimate quiet">${words.filter(Boolean).join(" · ")}</span>`;
}
