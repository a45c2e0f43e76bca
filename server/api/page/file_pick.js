// A file that was chosen for a field: the part of it that is kept, and its URL once it was uploaded.

import { upload } from "./api.js";

const CENTRE = 0.5;

/**
 * The part of a picture that covers a video: the whole of one side, and of the other from `part` of
 * what is left over.
 *
 * @param {{ width: number, height: number }} picture
 * @param {{ width: number, height: number }} video
 * @param {number} part 0 is the left or upper end, 1 the other
 */
export function cropOf(picture, video, part) {
  const scale = Math.min(picture.width / video.width, picture.height / video.height);
  const [width, height] = [video.width * scale, video.height * scale];
  return {
    x: (picture.width - width) * part,
    y: (picture.height - height) * part,
    width,
    height,
  };
}

export class FilePick {
  /** @type {Map<number | null, Promise<string>>} */
  #urls = new Map();

  /**
   * @param {File} file
   * @param {number | null} part The part that is kept, if it was chosen: see `cropOf`
   * @param {FilePick} [before] The same file with another part
   */
  constructor(file, part = null, before) {
    this.file = file;
    this.part = part;
    if (before) this.#urls = before.#urls;
    /** Its URL within this browser. */
    this.shown = before?.shown ?? URL.createObjectURL(file);
  }

  /** The same file, of which another part is kept. */
  keeping(/** @type {number} */ part) {
    return new FilePick(this.file, part, this);
  }

  get position() {
    return this.part ?? CENTRE;
  }

  /** Let go of the file. */
  release() {
    URL.revokeObjectURL(this.shown);
  }

  /**
   * Upload it, unless that was done; its URL.
   *
   * @param {{ width: number, height: number }} video
   * @param {(fraction: number) => void} onProgress
   */
  async url(video, onProgress) {
    const known = this.#urls.get(this.part) ?? this.#upload(video, onProgress);
    this.#urls.set(this.part, known);
    known.catch(() => this.#urls.delete(this.part));
    return known;
  }

  async #upload(video, onProgress) {
    if (this.part === null) return upload(this.file, this.file.name, onProgress);
    const name = `${this.file.name.replace(/\.[^.]*$/, "")}.png`;
    return upload(await cropped(this.file, video, this.part), name, onProgress);
  }
}

/** The part of a picture as a PNG, in at most twice the video's size. */
async function cropped(file, video, part) {
  const picture = await createImageBitmap(file);
  const { x, y, width, height } = cropOf(picture, video, part);
  const scale = Math.min(1, (2 * video.width) / width);
  const canvas = new OffscreenCanvas(Math.round(width * scale), Math.round(height * scale));
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, x, y, width, height, 0, 0, canvas.width, canvas.height);
  picture.close();
  return canvas.convertToBlob({ type: "image/png" });
}
