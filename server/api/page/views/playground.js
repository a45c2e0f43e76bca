// The playground: a request is written on one side, and its video appears on the other.

import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { lastEndpoint, setLastEndpoint } from "../drafts.js";
import { standingOf, useFollowed, useJobs, usePolled } from "../jobs.js";
import { labelOf } from "../schema.js";
import { text } from "../strings.js";
import { JobList } from "../parts/job_list.js";
import { Request } from "../parts/request.js";
import { RunPanel } from "../parts/run_panel.js";
import { Tabs } from "../parts/tabs.js";

/** @param {{ server: import("../main.js").Server }} props */
export function Playground({ server }) {
  const ids = server.endpoints.map(({ id }) => id);
  const [endpoint, setEndpoint] = useState(() => lastEndpoint(ids));
  const choose = (/** @type {string} */ id) => {
    setEndpoint(id);
    setLastEndpoint(id);
  };
  const jobs = useJobs();
  const [chosen, setChosen] = useState(() => jobs[0]?.id);
  const job = jobs.find(({ id }) => id === chosen);
  useFollowed(job);
  usePolled(job?.id);
  const watch = useRef(null);
  const [begun, setBegun] = useState("");
  // A run that has just begun comes into view, also for somebody at the end of a long form.
  useEffect(() => {
    const { top } = watch.current.getBoundingClientRect();
    if (begun && (top < 0 || top > innerHeight / 2)) watch.current.scrollIntoView();
  }, [begun]);
  const show = (/** @type {string} */ id) => {
    setChosen(id);
    setBegun(id);
  };
  // A draft that was changed from outside of the form is read again.
  const [round, setRound] = useState(0);
  const reuse = (/** @type {string} */ id) => {
    choose(id);
    setRound(round + 1);
  };
  const refused = job && job.endpoint === endpoint ? standingOf(job.id).error?.fields : undefined;
  const tabs = ids.map((id) => ({ id, label: labelOf(id) }));
  return html`
    <h1 class="visually-hidden">${text.playground}</h1>
    <${Tabs} label=${text.form.tabs} tabs=${tabs} chosen=${endpoint} onChoose=${choose}
      className="endpoints">
      <div class="playground">
        <section aria-label=${text.run.request}>
          <${Request} key=${`${endpoint} ${round}`} server=${server} endpoint=${endpoint}
            refused=${refused} onBegun=${({ id }) => show(id)} />
        </section>
        <section class="watch" ref=${watch} aria-label=${text.run.title}>
          ${job
            ? html`<${RunPanel} key=${job.id} job=${job} server=${server} onReuse=${reuse} />`
            : html`<${Nothing} server=${server} />`}
          <${JobList} jobs=${jobs} chosen=${chosen} onChoose=${setChosen} />
        </section>
      </div>
    <//>
  `;
}

function Nothing({ server }) {
  return html`
    <div class="stage empty" style=${{ aspectRatio: `${server.width} / ${server.height}` }}>
      <p><b>${text.run.empty}</b><br /><span class="quiet">${text.run.emptyHint}</span></p>
    </div>
  `;
}
