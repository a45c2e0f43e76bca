// A request as code that can be run as it stands: against this server, with the values of the form.

const INDENT = "    ";

/** A value as Python writes it. */
function python(/** @type {any} */ value, indent = "") {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = indent + INDENT;
  const isList = Array.isArray(value);
  const items = isList
    ? value.map((each) => python(each, inner))
    : Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${python(each, inner)}`);
  const [open, close] = isList ? "[]" : "{}";
  if (items.length === 0) return open + close;
  return `${open}\n${items.map((item) => `${inner}${item},\n`).join("")}${indent}${close}`;
}

/** JSON, indented to stand within code. */
const json = (/** @type {any} */ value, indent = "") =>
  JSON.stringify(value, null, 2).replaceAll("\n", `\n${indent}`);

/** A text as one word of a shell. */
const quoted = (/** @type {string} */ value) => `'${value.replaceAll("'", "'\\''")}'`;

/**
 * @param {string} endpoint
 * @param {Record<string, unknown>} input
 * @param {{ base: string, needsKey: boolean }} server `base` is its URL without a slash at its end
 */
export function codeSamples(endpoint, input, { base, needsKey }) {
  return {
    python: pythonSample(endpoint, input, base, needsKey),
    javascript: javascriptSample(endpoint, input, base),
    curl: curlSample(endpoint, input, base, needsKey),
  };
}

function pythonSample(endpoint, input, base, needsKey) {
  const { protocol, host, pathname } = new URL(base);
  // fal's client insists on HTTPS.
  if (protocol !== "https:") return plainPythonSample(endpoint, input, base, needsKey);
  const prefix = host + pathname.replace(/\/$/, "");
  return `# pip install fal-client
import os

os.environ["FAL_RUN_HOST"] = ${JSON.stringify(`${prefix}/run`)}
os.environ["FAL_QUEUE_RUN_HOST"] = ${JSON.stringify(`${prefix}/queue`)}
${needsKey ? "" : 'os.environ.setdefault("FAL_KEY", "any:key")\n'}
import fal_client

result = fal_client.subscribe(
    ${JSON.stringify(endpoint)},
    arguments=${python(input, INDENT)},
)
print(result["video"]["url"])
`;
}

function plainPythonSample(endpoint, input, base, needsKey) {
  const key = needsKey ? `\n    "Authorization": f"Key {os.environ['FAL_KEY']}",` : "";
  return `import json
${needsKey ? "import os\n" : ""}import urllib.request

headers = {
    "Content-Type": "application/json",${key}
}
arguments = ${python(input)}
request = urllib.request.Request(
    ${JSON.stringify(`${base}/run/${endpoint}`)}, json.dumps(arguments).encode(), headers
)
with urllib.request.urlopen(request) as answer:
    result = json.load(answer)
print(result["video"]["url"])
`;
}

function javascriptSample(endpoint, input, base) {
  const proxy = JSON.stringify(`${base}/api/fal/proxy`);
  return `// npm install @fal-ai/client
import { fal } from "@fal-ai/client";

fal.config({ proxyUrl: { url: ${proxy}, when: "always" } });

const result = await fal.subscribe(${JSON.stringify(endpoint)}, {
  input: ${json(input, "  ")},
});
console.log(result.data.video.url);
`;
}

function curlSample(endpoint, input, base, needsKey) {
  const key = needsKey ? ' \\\n  --header "Authorization: Key $FAL_KEY"' : "";
  return `curl ${quoted(`${base}/run/${endpoint}`)}${key} \\
  --json ${quoted(JSON.stringify(input, null, 2))}
`;
}
