// How the server is, in a word, at the top of every view.

import { html, useEffect, useState } from "../vendor/preact.js";
import { NoAnswer, ask } from "../api.js";
import { text } from "../strings.js";

const LOOK_MS = 5000;

/** What the server says of itself; null while nothing answers, undefined before the first answer. */
export function useHealth() {
  const [health, setHealth] = useState(undefined);
  useEffect(() => {
    let timer = 0;
    let isShown = true;
    const look = async () => {
      const news = document.hidden ? undefined : await read();
      if (!isShown) return;
      if (news !== undefined) setHealth(news);
      timer = setTimeout(look, LOOK_MS);
    };
    look();
    return () => {
      isShown = false;
      clearTimeout(timer);
    };
  }, []);
  return health;
}

async function read() {
  try {
    return await ask("page/ready.json");
  } catch (error) {
    return error instanceof NoAnswer ? null : undefined;
  }
}

/** The state as a colour and words. */
export function stateOf(health) {
  if (health === undefined) return ["", ""];
  if (health === null) return ["bad", text.server.away];
  const loading = health.slots.find((slot) => slot.loading);
  if (health.status === "ready") {
    return health.queue.paused ? ["warn", text.server.paused] : ["good", text.server.ready];
  }
  if (loading) return ["warn", text.server.loading(Math.round(loading.loading.fraction * 100))];
  return ["bad", text.server.notReady];
}

export function ServerState() {
  const health = useHealth();
  const [tone, words] = stateOf(health);
  const problems = health?.checks?.filter((check) => !check.passed).map((check) => check.problem);
  return html`
    <span class=${`state ${tone}`} role="status" title=${problems?.join(" ")}>
      ${words && html`<span class="dot" aria-hidden="true"></span>${words}`}
    </span>
  `;
}
