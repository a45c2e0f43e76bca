// One run by its address, which another tab can open as well.

import { html } from "../vendor/preact.js";
import { storedJobs, useFollowed, useJobs } from "../jobs.js";
import { text } from "../strings.js";
import { RunPanel } from "../parts/run_panel.js";

/** @param {{ server: import("../main.js").Server, about: string }} props `about` is the endpoint's id, a slash, and the request's */
export function Run({ server, about }) {
  useJobs();
  const cut = about.lastIndexOf("/");
  const id = about.slice(cut + 1);
  const endpoint = cut > 0 ? about.slice(0, cut) : server.endpoints[0].id;
  const job = storedJobs().find((each) => each.id === id) ?? { id, endpoint };
  useFollowed(job);
  const reuse = () => (location.hash = "#/playground");
  return html`
    <h1>${text.run.title}</h1>
    <div class="single"><${RunPanel} job=${job} server=${server} onReuse=${reuse} /></div>
  `;
}
