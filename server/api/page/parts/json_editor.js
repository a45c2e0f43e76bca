// The request as JSON: what is changed here changes the form, and the other way round.

import { html, useEffect, useState } from "../vendor/preact.js";
import { text } from "../strings.js";

const written = (/** @type {unknown} */ input) => JSON.stringify(input, null, 2);

/** @param {{ input: Record<string, unknown>, onInput: (input: Record<string, unknown>) => void }} props */
export function JsonEditor({ input, onInput }) {
  const [draft, setDraft] = useState(() => written(input));
  const [problem, setProblem] = useState("");
  useEffect(() => {
    // What is being written stays as it is as long as it means the same.
    try {
      if (written(JSON.parse(draft)) === written(input)) return;
    } catch {
      return;
    }
    setDraft(written(input));
  }, [written(input)]);
  const change = ({ target }) => {
    setDraft(target.value);
    try {
      const parsed = JSON.parse(target.value);
      const isObject = typeof parsed === "object" && parsed !== null && !Array.isArray(parsed);
      setProblem(isObject ? "" : text.json.notObject);
      if (isObject) onInput(parsed);
    } catch (error) {
      setProblem(text.json.broken(error.message));
    }
  };
  return html`
    <div class="field">
      <label class="label" for="json-input">${text.json.label}</label>
      <textarea id="json-input" class="mono" rows="18" spellcheck=${false} value=${draft}
        onInput=${change} aria-describedby="json-hint"
        aria-invalid=${problem ? "true" : undefined}></textarea>
      <span class="hint" id="json-hint">${text.json.hint}</span>
      ${problem && html`<span class="problem" role="alert">${problem}</span>`}
    </div>
  `;
}
