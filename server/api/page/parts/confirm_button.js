// A button for what cannot be undone: it asks once more, in its own place.

import { html, useState } from "../vendor/preact.js";

const ASKS_MS = 4000;

/** @param {{ words: string, question: string, onConfirm: () => void }} props */
export function ConfirmButton({ words, question, onConfirm }) {
  const [isAsking, setAsking] = useState(false);
  const press = () => {
    setAsking(!isAsking);
    if (isAsking) onConfirm();
    else setTimeout(() => setAsking(false), ASKS_MS);
  };
  return html`
    <button type="button" class="plain danger" onClick=${press}>
      ${isAsking ? question : words}
    </button>
  `;
}
