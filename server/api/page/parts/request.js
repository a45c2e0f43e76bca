// A request as a form, as JSON and as code, and the button that sends it.

import { html, useRef, useState } from "../vendor/preact.js";
import { Refused } from "../api.js";
import { begin } from "../jobs.js";
import { useRequest } from "../request_state.js";
import { inputOf, withoutDefaults } from "../schema.js";
import { text } from "../strings.js";
import { Code } from "./code.js";
import { EstimateLine, useEstimate } from "./estimate.js";
import { Form, problemsOf } from "./form.js";
import { JsonEditor } from "./json_editor.js";
import { Tabs } from "./tabs.js";

const KINDS = ["form", "json", "code"].map((id) => ({ id, label: text.form[id] }));

/** @param {{ server: import("../main.js").Server, endpoint: string, refused?: Record<string, string>, onBegun: (job: import("../jobs.js").Job) => void }} props `refused` is what the server said of each field */
export function Request({ server, endpoint, refused = {}, onBegun }) {
  const request = useRequest(endpoint);
  const [kind, setKind] = useState("form");
  const [problems, setProblems] = useState(/** @type {Record<string, string>} */ ({}));
  const [problem, setProblem] = useState("");
  const [sending, setSending] = useState("");
  const form = useRef(null);
  const { fields, values, picks } = request;
  const { media = {} } = server.endpoints.find(({ id }) => id === endpoint) ?? {};

  const trying = async (/** @type {() => Promise<void>} */ work) => {
    setSending(text.form.submitting);
    setProblem("");
    try {
      await work();
    } catch (error) {
      setProblem(error.message);
      if (error instanceof Refused) setProblems(error.fields);
    } finally {
      setSending("");
    }
  };
  const withUrls = () =>
    request.withUrls(server, (part) => setSending(text.form.uploading(Math.floor(part * 100))));
  const choose = (/** @type {string} */ next) => {
    setKind(next);
    if (next !== "form") trying(async () => void (await withUrls()));
  };
  const submit = (/** @type {Event} */ event) => {
    event.preventDefault();
    const found = kind === "form" ? problemsOf(form.current, fields, values, picks) : {};
    setProblems(found);
    const [first] = Object.keys(found);
    if (first) document.getElementById(`field-${first}`)?.focus();
    else trying(async () => onBegun(await begin(endpoint, inputOf(fields, await withUrls()))));
  };
  const submitByKey = (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
  };
  /** What was said of a field holds until the request is changed. */
  const forgetting = (/** @type {(...given: any[]) => void} */ change) => (...given) => {
    setProblems({});
    change(...given);
  };
  const input = inputOf(fields, values);
  const estimate = useEstimate(endpoint, fields, input);
  return html`
    <form class="card request" ref=${form} noValidate onSubmit=${submit} onKeyDown=${submitByKey}>
      <${Tabs} label=${text.form.kind} tabs=${KINDS} chosen=${kind} onChoose=${choose}
        className="small">
        ${kind === "form" &&
        html`<${Form} fields=${fields} media=${media} values=${values} picks=${picks}
          problems=${{ ...refused, ...problems }} video=${server} onReset=${request.reset}
          onPick=${forgetting(request.pick)}
          onValue=${forgetting((name, value) => request.change({ ...values, [name]: value }))} />`}
        ${kind === "json" &&
        html`<${JsonEditor} input=${input} onInput=${forgetting(request.rewrite)} />`}
        ${kind === "code" &&
        html`<${Code} endpoint=${endpoint} input=${withoutDefaults(fields, input)}
          needsKey=${server.needs_key} />`}
      <//>
      ${request.unread &&
      html`<p class="problem" role="alert">
        ${request.unread} <button type="button" onClick=${request.read}>${text.tryAgain}</button>
      </p>`}
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      <div class="send">
        <${EstimateLine} estimate=${estimate} />
        <button class="primary" disabled=${sending !== "" || fields.length === 0}>
          ${sending || text.form.submit}
        </button>
      </div>
    </form>
  `;
}
