// The frame of the page: who is signed in, which view is shown, and how the server is.

import { html, render, useEffect, useState } from "./vendor/preact.js";
import { ask, whenUnauthorized } from "./api.js";
import { text } from "./strings.js";
import { ServerState } from "./parts/server_state.js";
import { Playground } from "./views/playground.js";
import { Run } from "./views/run.js";
import { SignIn, SignOut, askSession, isKnown, mayOperate } from "./views/sign_in.js";

/**
 * @typedef {object} Server What this server makes; sizes are in pixels.
 * @property {{ id: string, title: string, summary: string, media: Record<string, string> }[]} endpoints
 * @property {number} width
 * @property {number} height
 * @property {number} fps
 * @property {boolean} needs_key
 */

/** Views that are not needed for the first paint come when they are opened. */
const LATER = {
  history: () => import("./views/history.js").then((module) => module.History),
  operator: () => import("./views/operator.js").then((module) => module.Operator),
};

/** The view that the fragment of the URL names, and what it is about. */
function place() {
  const [view = "", ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  return { view: view || "playground", about: rest.map(decodeURIComponent).join("/") };
}

function usePlace() {
  const [at, setAt] = useState(place);
  useEffect(() => {
    const moved = () => setAt(place());
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  return at;
}

function Later({ view, ...props }) {
  const [View, setView] = useState(null);
  useEffect(() => {
    let isShown = true;
    setView(null);
    LATER[view]().then((found) => isShown && setView(() => found));
    return () => (isShown = false);
  }, [view]);
  return View === null ? html`<p class="quiet">${text.loading}</p>` : html`<${View} ...${props} />`;
}

function View({ view, about, server }) {
  if (view === "playground") return html`<${Playground} server=${server} />`;
  if (view === "run") return html`<${Run} key=${about} server=${server} about=${about} />`;
  if (view in LATER) return html`<${Later} view=${view} server=${server} />`;
  return html`<p>${text.notFound}</p>`;
}

function Nav({ view, isOperator }) {
  const views = ["playground", "history", ...(isOperator ? ["operator"] : [])];
  const link = (name) => html`
    <a href=${`#/${name}`} aria-current=${view === name ? "page" : undefined}>${text[name]}</a>
  `;
  return html`<nav aria-label=${text.nav}>${views.map(link)}</nav>`;
}

function Header({ view, isOperator, canSignOut, onSignOut }) {
  return html`
    <header class="top">
      <a class="brand" href="#/playground">
        <img src="page/icon.svg" alt="" width="24" height="24" />${text.product}
      </a>
      <${Nav} view=${view} isOperator=${isOperator} />
      <div class="top-end">
        <${ServerState} />
        <a class="quiet" href="docs">${text.apiDocs}</a>
        ${canSignOut && html`<${SignOut} onDone=${onSignOut} />`}
      </div>
    </header>
  `;
}

function App() {
  const { view, about } = usePlace();
  /** @type {[Server | null, (server: Server) => void]} */
  const [server, setServer] = useState(null);
  const [problem, setProblem] = useState("");
  /** @type {["" | "new" | "ended", (asking: any) => void]} Why a key is asked for, if one is. */
  const [asking, setAsking] = useState("");
  const [isOperator, setIsOperator] = useState(false);
  const enter = (/** @type {import("./views/sign_in.js").Session} */ session) => {
    setAsking(isKnown(session) ? "" : "new");
    setIsOperator(mayOperate(session));
  };
  const load = () => {
    setProblem("");
    Promise.all([ask("page/server.json"), askSession()]).then(
      ([found, session]) => {
        enter(session);
        setServer(found);
      },
      (error) => setProblem(error.message),
    );
  };
  useEffect(load, []);
  useEffect(() => whenUnauthorized(() => setAsking((before) => before || "ended")), []);
  useEffect(() => {
    const name = text[view];
    document.title = typeof name === "string" ? `${name} · ${text.product}` : text.product;
  }, [view]);
  return html`
    <a class="skip" href="#content" onClick=${skip}>${text.skip}</a>
    <${Header} view=${view} isOperator=${isOperator && !asking} canSignOut=${server?.needs_key && !asking}
      onSignOut=${() => setAsking("new")} />
    <main id="content" tabindex="-1">
      ${problem &&
      html`<p class="notice bad" role="alert">
        ${problem} <button type="button" onClick=${load}>${text.tryAgain}</button>
      </p>`}
      ${asking
        ? html`<${SignIn} hasEnded=${asking === "ended"} onDone=${enter} />`
        : server && html`<${View} view=${view} about=${about} server=${server} />`}
    </main>
  `;
}

/** The fragment names the view, so the link to the content must not change it. */
function skip(/** @type {Event} */ event) {
  event.preventDefault();
  document.getElementById("content")?.focus();
}

render(html`<${App} />`, /** @type {HTMLElement} */ (document.getElementById("page")));
