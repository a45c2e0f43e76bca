// Signing in: a key is exchanged for a cookie. All that the page knows of it is in this file.

import { html, useState } from "../vendor/preact.js";
import { Refused, ask } from "../api.js";
import { text } from "../strings.js";

const SESSION = "page/session";

/**
 * @typedef {object} Session Who has signed in here, if anybody has.
 * @property {boolean} needs_key
 * @property {{ scopes: string[] } | null} key
 */

/** @returns {Promise<Session>} */
export const askSession = () => ask(SESSION);

/** Whether somebody has signed in here, or need not. */
export const isKnown = (/** @type {Session} */ { needs_key, key }) => !needs_key || key !== null;

/** Whether the operator's view would be answered. */
export const mayOperate = (/** @type {Session} */ { needs_key, key }) =>
  !needs_key || (key?.scopes.includes("admin") ?? false);

/** Ask for a key, once. */
export function SignIn({ hasEnded, onDone }) {
  const [problem, setProblem] = useState("");
  const [isSending, setSending] = useState(false);
  const signIn = async (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    const form = /** @type {HTMLFormElement} */ (event.target);
    const key = String(new FormData(form).get("key")).trim();
    setSending(true);
    try {
      onDone(await ask(SESSION, { json: { key } }));
    } catch (error) {
      setProblem(error instanceof Refused && error.status === 401 ? text.signIn.wrong : error.message);
    } finally {
      setSending(false);
    }
  };
  return html`
    <form class="card sign-in" onSubmit=${signIn}>
      <h1>${text.signIn.title}</h1>
      ${hasEnded && html`<p class="notice warn" role="status">${text.signIn.ended}</p>`}
      <p class="quiet">${text.signIn.lead}</p>
      <label class="field">
        <span class="label">${text.signIn.label}</span>
        <input
          name="key"
          type="password"
          autocomplete="current-password"
          required
          aria-describedby="key-hint"
          aria-invalid=${problem ? "true" : undefined}
        />
        <span class="hint" id="key-hint">${text.signIn.hint}</span>
      </label>
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      <button class="primary" disabled=${isSending}>${text.signIn.button}</button>
    </form>
  `;
}

/** End the session. */
export function SignOut({ onDone }) {
  const signOut = () => ask(SESSION, { method: "DELETE" }).then(onDone, onDone);
  return html`<button type="button" class="plain" onClick=${signOut}>${text.signOut}</button>`;
}
