// The request as code, in a tab for each language.

import { html, useState } from "../vendor/preact.js";
import { at } from "../api.js";
import { codeSamples } from "../code_samples.js";
import { text } from "../strings.js";
import { Tabs } from "./tabs.js";

export function Code({ endpoint, input, needsKey }) {
  const [language, setLanguage] = useState("python");
  const base = at("").replace(/\/$/, "");
  const samples = codeSamples(endpoint, input, { base, needsKey });
  const labels = Object.keys(samples).map((each) => ({ id: each, label: text.code[each] }));
  return html`
    <${Tabs} label=${text.code.label} tabs=${labels} chosen=${language} onChoose=${setLanguage}
      className="small">
      <div class="code">
        <pre tabindex="0" data-language=${language}>${samples[language]}</pre>
        <${CopyButton} value=${samples[language]} />
      </div>
      ${needsKey && html`<p class="hint">${text.code.needsKey}</p>`}
    <//>
  `;
}

/** Copies a text; where a page may not, as over plain HTTP, there is no button. */
export function CopyButton({ value }) {
  const [isCopied, setCopied] = useState(false);
  if (!navigator.clipboard) return null;
  const copy = async () => {
    await navigator.clipboard.writeText(value);
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };
  return html`
    <button type="button" class="plain copy" onClick=${copy}>
      ${isCopied ? text.copied : text.copy}
    </button>
  `;
}
