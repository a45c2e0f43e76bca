// The field of a file: dropped, pasted, chosen, or named by its URL, which this page never opens.

import { html, useEffect, useState } from "../vendor/preact.js";
import { isOwnFile, onThisOrigin } from "../api.js";
import { FilePick } from "../file_pick.js";
import { preparedOf } from "../jobs.js";
import { size, text } from "../strings.js";
import { Crop } from "./crop.js";

/** What browsers call the files of each medium. Those that they have no name for may be sent. */
const TYPES = { image: /^(image\/(?!svg)|$)/, video: /^(video\/|image\/gif$|$)/ };
const ACCEPTED = { image: "image/*", video: "video/*" };

/** The one file that was dropped or pasted, or a sentence about why there is none. */
function fileOf(/** @type {FileList} */ files, /** @type {"image" | "video"} */ medium) {
  const [file, ...others] = files;
  if (others.length > 0) return text.file.tooMany;
  if (!TYPES[medium].test(file.type)) return text.file.wrongKind(file.name, text.media[medium]);
  return file.size === 0 ? text.file.empty(file.name) : file;
}

export function FileField({ field, medium, url, pick, video, problem, onPick, onUrl }) {
  const [wrong, setWrong] = useState("");
  const [isOver, setOver] = useState(false);
  const take = (/** @type {FileList | undefined} */ files) => {
    if (!files?.length) return;
    const file = fileOf(files, medium);
    const isFile = file instanceof File;
    setWrong(isFile ? "" : file);
    if (isFile) onPick(new FilePick(file));
  };
  const drop = (/** @type {DragEvent} */ event) => {
    event.preventDefault();
    setOver(false);
    take(event.dataTransfer?.files);
  };
  useEffect(() => {
    const paste = (/** @type {ClipboardEvent} */ event) => {
      const [file] = event.clipboardData?.files ?? [];
      // It may be for another field.
      if (!file || !TYPES[medium].test(file.type)) return;
      event.preventDefault();
      take(event.clipboardData?.files);
    };
    // A file that misses the field must not take the place of the page.
    const refuse = (/** @type {DragEvent} */ event) => event.preventDefault();
    document.addEventListener("paste", paste);
    addEventListener("dragover", refuse);
    addEventListener("drop", refuse);
    return () => {
      document.removeEventListener("paste", paste);
      removeEventListener("dragover", refuse);
      removeEventListener("drop", refuse);
    };
  }, [medium, onPick]);

  const id = `field-${field.name}`;
  const choose = (words) => html`
    <label class="button">
      ${words}
      <input type="file" class="hidden-input" id=${id} accept=${ACCEPTED[medium]}
        aria-describedby=${`${id}-hint`} aria-invalid=${problem ? "true" : undefined}
        onChange=${({ target }) => { take(target.files); target.value = ""; }} />
    </label>
  `;
  const remove = html`
    <button type="button" class="plain" onClick=${() => (pick ? onPick(undefined) : onUrl(""))}>
      ${text.file.remove}
    </button>
  `;
  const isChosen = pick || url;
  return html`
    <div class="field" role="group" aria-labelledby=${`${id}-label`}>
      <span class="label" id=${`${id}-label`}>
        ${field.title.replace(/ URL$/, "")} ${field.required && html`<span class="tag">${text.form.required}</span>`}
      </span>
      <div class=${`drop ${isOver ? "over" : ""} ${isChosen ? "chosen" : ""}`} onDrop=${drop}
        onDragOver=${() => setOver(true)} onDragLeave=${() => setOver(false)}>
        ${pick && html`<${Picked} key=${pick.shown} pick=${pick} medium=${medium} video=${video} onPick=${onPick} />`}
        ${!pick && url && html`<${Named} key=${url} url=${url} medium=${medium} video=${video} />`}
        ${isChosen
          ? html`<div class="row">${choose(text.file.replace)} ${remove}</div>`
          : html`
              <p class="drop-words">${text.file.drop(text.media[medium])}</p>
              ${choose(text.file.choose)}
              <label class="by-url">
                <span class="quiet">${text.file.byUrl}</span>
                <input type="url" placeholder=${text.file.urlPlaceholder}
                  onChange=${({ target }) => onUrl(target.value.trim())} />
              </label>
            `}
      </div>
      <span class="hint" id=${`${id}-hint`}>${field.description}</span>
      ${(wrong || problem) && html`<span class="problem" role="alert">${wrong || problem}</span>`}
    </div>
  `;
}

/** A file of this computer. */
function Picked({ pick, medium, video, onPick }) {
  const [isUnreadable, setUnreadable] = useState(false);
  const { width, height } = video;
  const name = html`<b>${pick.file.name}</b> · ${size(pick.file.size)}`;
  if (isUnreadable) return html`<p>${name}<br /><span class="hint">${text.file.unreadable}</span></p>`;
  const unreadable = () => setUnreadable(true);
  if (medium === "video") {
    return html`
      <${Clip} src=${pick.shown} video=${video} onError=${unreadable} />
      <p class="caption">${name}<br />${text.file.clip(width, height)}</p>
    `;
  }
  return html`
    <${Crop} pick=${pick} video=${video} onUnreadable=${unreadable}
      onMove=${(part) => onPick(pick.keeping(part))} />
    <p class="caption">
      ${name}<br />
      ${pick.part === null ? text.file.whole(width, height) : text.file.cropped(width, height)}
    </p>
  `;
}

/** A file by its URL: shown if it is this server's, or once the server has prepared it. */
function Named({ url, medium, video }) {
  const [isUnreadable, setUnreadable] = useState(false);
  const unreadable = () => setUnreadable(true);
  if (isUnreadable || !isOwnFile(url)) {
    const words = url.length > 200 ? `${url.slice(0, 200)}…` : url;
    const picture = preparedOf(url);
    return html`
      ${picture && html`<${Picture} src=${picture} video=${video} />`}
      <p class="url">${words}</p>
      <p class="hint">
        ${picture ? text.file.prepared(video.width, video.height) : text.file.urlNote}
      </p>
    `;
  }
  const src = onThisOrigin(url);
  if (medium === "video") return html`<${Clip} src=${src} video=${video} onError=${unreadable} />`;
  return html`<${Picture} src=${src} video=${video} onError=${unreadable} />`;
}

function Picture({ src, video, onError }) {
  return html`
    <div class="stage" style=${{ aspectRatio: `${video.width} / ${video.height}` }}>
      <img src=${src} alt="" onError=${onError} />
    </div>
  `;
}

function Clip({ src, video, onError }) {
  return html`
    <div class="stage" style=${{ aspectRatio: `${video.width} / ${video.height}` }}>
      <video src=${src} muted autoplay loop playsinline onError=${onError}></video>
    </div>
  `;
}
