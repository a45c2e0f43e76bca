// A picture as it will be cropped, with a drag or the arrow keys to choose the part that is kept.

import { html, useRef, useState } from "../vendor/preact.js";
import { cropOf } from "../file_pick.js";
import { text } from "../strings.js";

const KEYS = { ArrowLeft: -0.02, ArrowUp: -0.02, ArrowRight: 0.02, ArrowDown: 0.02 };
const clamp = (/** @type {number} */ value) => Math.min(1, Math.max(0, value));

/** @param {{ pick: import("../file_pick.js").FilePick, video: { width: number, height: number }, onMove: (part: number) => void, onUnreadable: () => void }} props */
export function Crop({ pick, video, onMove, onUnreadable }) {
  const [picture, setPicture] = useState(null);
  const [isHeld, setHeld] = useState(false);
  const frame = useRef(null);

  const loaded = ({ target }) =>
    setPicture({ width: target.naturalWidth, height: target.naturalHeight });
  const whole = picture && cropOf(picture, video, 1);
  const isMovable = whole !== null && whole.x + whole.y >= 1;

  const drag = (/** @type {PointerEvent} */ event) => {
    if (!isHeld || !isMovable) return;
    // What is left over, in pixels of the screen: only one of both sides has it.
    const scale = frame.current.clientWidth / whole.width;
    const moved = whole.x > whole.y ? event.movementX : event.movementY;
    onMove(clamp(pick.position - moved / (Math.max(whole.x, whole.y) * scale)));
  };
  const press = (/** @type {KeyboardEvent} */ event) => {
    const by = KEYS[event.key];
    if (by === undefined) return;
    event.preventDefault();
    onMove(clamp(pick.position + by));
  };
  const slider = isMovable && {
    role: "slider",
    tabindex: 0,
    "aria-label": text.file.crop,
    "aria-valuemin": 0,
    "aria-valuemax": 100,
    "aria-valuenow": Math.round(pick.position * 100),
    "aria-orientation": whole.x > whole.y ? "horizontal" : "vertical",
    onKeyDown: press,
    onPointerDown: (event) => {
      event.currentTarget.setPointerCapture(event.pointerId);
      setHeld(true);
    },
    onPointerMove: drag,
    onPointerUp: () => setHeld(false),
    onPointerCancel: () => setHeld(false),
  };
  const percent = `${pick.position * 100}%`;
  return html`
    <div class=${`stage crop ${isMovable ? "movable" : ""} ${isHeld ? "held" : ""}`} ref=${frame}
      style=${{ aspectRatio: `${video.width} / ${video.height}` }} ...${slider || {}}>
      <img src=${pick.shown} alt=${pick.file.name} draggable=${false} onLoad=${loaded}
        onError=${onUnreadable} style=${{ objectPosition: `${percent} ${percent}` }} />
    </div>
    ${isMovable && html`<p class="hint">${text.file.cropHint}</p>`}
  `;
}
