// The fields of an endpoint, as its own OpenAPI document describes them.

import { ask } from "./api.js";

/**
 * @typedef {object} Field
 * @property {string} name
 * @property {string} title
 * @property {string} description
 * @property {"string" | "integer" | "number" | "boolean"} type
 * @property {boolean} required
 * @property {unknown} [default]
 * @property {number} [minimum]
 * @property {number} [maximum]
 * @property {unknown[]} [choices]
 * @property {unknown} [example]
 * @property {boolean} isFile
 */

/** @type {Map<string, Promise<Field[]>>} */
const known = new Map();

/** The fields of an endpoint in their order. */
export function fieldsOf(/** @type {string} */ endpoint) {
  const asked = known.get(endpoint) ?? read(endpoint);
  known.set(endpoint, asked);
  asked.catch(() => known.delete(endpoint));
  return asked;
}

async function read(/** @type {string} */ endpoint) {
  const query = new URLSearchParams({ endpoint_id: endpoint });
  const { components, paths } = await ask(`api/openapi/queue/openapi.json?${query}`);
  const body = paths[`/${endpoint}`].post.requestBody.content["application/json"].schema;
  const schema = components.schemas[body.$ref.split("/").pop()];
  const order = schema["x-fal-order-properties"] ?? Object.keys(schema.properties);
  return order.map((/** @type {string} */ name) => {
    const each = schema.properties[name];
    return {
      name,
      title: each.title ?? name,
      description: each.description ?? "",
      type: each.type,
      required: (schema.required ?? []).includes(name),
      default: each.default,
      minimum: each.minimum,
      maximum: each.maximum,
      choices: each.enum,
      example: each.example,
      isFile: each["x-fal-file-input"] === true,
    };
  });
}

/** What an endpoint is called: the end of its id, in words. */
export function labelOf(/** @type {string} */ endpoint) {
  const [, name, ...rest] = endpoint.split("/");
  const words = (rest.length > 0 ? rest : [name]).join(" ").replaceAll("-", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** The values that a form begins with. */
export function defaultsOf(/** @type {Field[]} */ fields) {
  return Object.fromEntries(
    fields.filter((each) => each.default !== undefined).map((each) => [each.name, each.default]),
  );
}

/** Whether a value is one that the schema allows for a field. */
export function fits(/** @type {Field} */ field, /** @type {any} */ value) {
  if (isEmpty(value)) return !field.required;
  if (field.choices) return field.choices.includes(value);
  if (field.type === "string" || field.type === "boolean") return typeof value === field.type;
  const { minimum = -Infinity, maximum = Infinity } = field;
  const isNumber = field.type === "integer" ? Number.isInteger(value) : typeof value === "number";
  return isNumber && value >= minimum && value <= maximum;
}

const isEmpty = (/** @type {unknown} */ value) => value === undefined || value === null || value === "";

/**
 * What is sent of the values of a form, in the order of the fields: nothing of what is empty.
 *
 * @param {Field[]} fields
 * @param {Record<string, unknown>} values
 */
export function inputOf(fields, values) {
  const names = new Set([...fields.map(({ name }) => name), ...Object.keys(values)]);
  const given = [...names].filter((name) => !isEmpty(values[name]));
  return Object.fromEntries(given.map((name) => [name, values[name]]));
}

/**
 * The same without what says no more than the defaults.
 *
 * @param {Field[]} fields
 * @param {Record<string, unknown>} input
 */
export function withoutDefaults(fields, input) {
  const defaults = defaultsOf(fields);
  return Object.fromEntries(Object.entries(input).filter(([name, value]) => value !== defaults[name]));
}
