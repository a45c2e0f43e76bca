// A field of a form that is no file, by its description in the schema.

import { html } from "../vendor/preact.js";
import { text } from "../strings.js";

const LONG = 60;
const STEPS = { integer: 1, number: 0.5 };

/** What a number may be at most: JavaScript rounds integers beyond. */
const boundOf = (/** @type {number | undefined} */ bound) =>
  bound === undefined ? undefined : Math.min(bound, Number.MAX_SAFE_INTEGER);

/** @param {{ field: import("../schema.js").Field, value: any, problem?: string, onChange: (value: any) => void }} props */
export function Field({ field, value, problem, onChange }) {
  const id = `field-${field.name}`;
  const common = {
    id,
    name: field.name,
    required: field.required,
    "aria-describedby": `${id}-hint`,
    "aria-invalid": problem ? "true" : undefined,
  };
  const below = html`
    <span class="hint" id=${`${id}-hint`}>${field.description.replaceAll("`", "")}</span>
    ${problem && html`<span class="problem" role="alert">${problem}</span>`}
  `;
  if (field.type === "boolean") {
    const checked = value === true;
    return html`
      <div class="field">
        <label class="check">
          <input type="checkbox" ...${common} required=${false} checked=${checked}
            onChange=${({ target }) => onChange(target.checked)} />
          <span class="label">${field.title}</span>
        </label>
        ${below}
      </div>
    `;
  }
  return html`
    <div class="field">
      <label class="label" for=${id}>
        ${field.title} ${field.required && html`<span class="tag">${text.form.required}</span>`}
      </label>
      <${Control} field=${field} value=${value} common=${common} onChange=${onChange} />
      ${below}
    </div>
  `;
}

function Control({ field, value, common, onChange }) {
  if (field.choices) {
    const option = (choice) => html`<option selected=${choice === value}>${choice}</option>`;
    return html`
      <select ...${common} onChange=${({ target }) => onChange(field.choices[target.selectedIndex])}>
        ${field.choices.map(option)}
      </select>
    `;
  }
  if (field.type === "string") {
    const isLong = String(field.example ?? field.default ?? "").length > LONG;
    const input = ({ target }) => onChange(target.value);
    const Tag = isLong ? "textarea" : "input";
    return html`
      <${Tag} ...${common} rows=${isLong ? (field.required ? 5 : 3) : undefined}
        value=${value ?? ""} onInput=${input} />
    `;
  }
  return html`<${NumberControl} field=${field} value=${value} common=${common} onChange=${onChange} />`;
}

/** A number, with a slider where the schema bounds it to what a slider can show. */
function NumberControl({ field, value, common, onChange }) {
  const [min, max] = [boundOf(field.minimum), boundOf(field.maximum)];
  const isSlider = min !== undefined && max !== undefined && max - min <= 1000;
  const given = ({ target }) => {
    const isNumber = target.value !== "" && Number.isFinite(target.valueAsNumber);
    onChange(isNumber ? target.valueAsNumber : undefined);
  };
  const number = html`
    <input type="number" inputmode="decimal" ...${common} min=${min} max=${max}
      step=${field.type === "integer" ? 1 : "any"} value=${value ?? ""} onInput=${given}
      placeholder=${field.default === undefined ? text.form.random : String(field.default)} />
  `;
  if (!isSlider) return number;
  return html`
    <div class="slider">
      <input type="range" aria-label=${field.title} min=${min} max=${max}
        step=${STEPS[field.type]} value=${value ?? field.default ?? min} onInput=${given} />
      ${number}
    </div>
  `;
}
