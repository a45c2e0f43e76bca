// The form of an endpoint: what is required first, and the rest under "Additional settings".

import { html, useRef } from "../vendor/preact.js";
import { text } from "../strings.js";
import { Field } from "./field.js";
import { FileField } from "./file_field.js";

/**
 * What is wrong with what was put in, by field, as the browser says it.
 *
 * @param {HTMLFormElement} form
 * @param {import("../schema.js").Field[]} fields
 * @param {Record<string, any>} values
 * @param {Record<string, any>} picks
 */
export function problemsOf(form, fields, values, picks) {
  /** @type {Record<string, string>} */
  const problems = {};
  for (const field of fields) {
    const control = /** @type {any} */ (form.elements.namedItem(field.name));
    const isMissing = field.required && !String(values[field.name] ?? "").trim();
    if (isMissing && !picks[field.name]) problems[field.name] = text.form.missing(field.title);
    else if (control?.validity && !control.validity.valid) {
      problems[field.name] = control.validationMessage;
    }
  }
  return problems;
}

export function Form({ fields, media, values, picks, problems, video, onValue, onPick, onReset }) {
  const drawn = (/** @type {import("../schema.js").Field} */ field) =>
    field.isFile
      ? html`
          <${FileField} key=${field.name} field=${field} medium=${media[field.name]} video=${video}
            url=${values[field.name]} pick=${picks[field.name]} problem=${problems[field.name]}
            onPick=${(pick) => onPick(field.name, pick)} onUrl=${(url) => onValue(field.name, url)} />
        `
      : html`
          <${Field} key=${field.name} field=${field} value=${values[field.name]}
            problem=${problems[field.name]} onChange=${(value) => onValue(field.name, value)} />
        `;
  const more = useRef(null);
  // A file comes before what is said about it, also where one of two will do.
  const first = fields.filter((field) => field.required || field.isFile);
  first.sort((one, other) => Number(other.isFile) - Number(one.isFile));
  const rest = fields.filter((field) => !first.includes(field));
  const hasProblem = rest.some((field) => problems[field.name]);
  return html`
    ${first.map(drawn)}
    <${Example} fields=${first} values=${values} onValue=${onValue} />
    <details class="more" ref=${more} open=${hasProblem || more.current?.open}>
      <summary>${text.form.additional}</summary>
      <div class="fields">${rest.map(drawn)}</div>
      <button type="button" class="plain" onClick=${onReset}>${text.form.reset}</button>
    </details>
  `;
}

/** A prompt to begin with, where none was written. */
function Example({ fields, values, onValue }) {
  const field = fields.find((each) => !each.isFile && typeof each.example === "string");
  if (!field || values[field.name]) return null;
  return html`
    <button type="button" class="plain example" onClick=${() => onValue(field.name, field.example)}>
      ${text.form.example}
    </button>
  `;
}
