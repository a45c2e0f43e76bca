// For the people who run the server: what it does now, what it did, and whose keys open it.

import { html, useCallback, useEffect, useState } from "../vendor/preact.js";
import { Refused, ask } from "../api.js";
import { text } from "../strings.js";
import { Health } from "../parts/health.js";
import { Keys } from "../parts/keys.js";
import { Queue } from "../parts/queue.js";
import { useHealth } from "../parts/server_state.js";
import { Usage } from "../parts/usage.js";
import { Workers } from "../parts/workers.js";

const LOOK_MS = 2000;

/** What an operator's call answers, asked again every so often. */
function useAnswer(/** @type {string} */ path) {
  const [answer, setAnswer] = useState(null);
  const [problem, setProblem] = useState(null);
  const look = useCallback(
    () =>
      ask(path).then(
        (news) => {
          setAnswer(news);
          setProblem(null);
        },
        (error) => setProblem(error),
      ),
    [path],
  );
  const isRefused = problem instanceof Refused && problem.status === 403;
  useEffect(() => {
    if (isRefused) return undefined;
    look();
    const timer = setInterval(() => document.hidden || look(), LOOK_MS);
    return () => clearInterval(timer);
  }, [look, isRefused]);
  return { answer, problem, isRefused, look };
}

/** @param {{ server: import("../main.js").Server }} props */
export function Operator({ server }) {
  const health = useHealth();
  const { answer, problem, isRefused, look } = useAnswer("admin/jobs");
  const { answer: places } = useAnswer("admin/slots");
  if (isRefused) {
    return html`<h1>${text.operator}</h1><p class="notice warn">${text.operate.notAllowed}</p>`;
  }
  const jobs = answer?.jobs ?? [];
  return html`
    <h1>${text.operator}</h1>
    ${problem && html`<p class="notice bad" role="alert">${problem.message}</p>`}
    <div class="operator">
      <${Health} health=${health} />
      <${Workers} health=${health} places=${places?.slots ?? []} jobs=${jobs} />
      <${Queue} health=${health} jobs=${jobs} onChange=${look} />
      <${Usage} server=${server} />
      ${server.needs_key && html`<${Keys} />`}
    </div>
  `;
}
