// How long a run still takes, told so that it does not jump.

const NEWEST = 9;
const TAKEN_OVER = 0.3;

/**
 * Learns the pace of the steps and counts down to their end. A new estimate moves that end by a part
 * of the difference alone, so a slow step does not throw the number about.
 */
export class TimeLeft {
  /** @type {{ step: number, at: number }[]} */
  #seen = [];
  /** @type {number | undefined} When it should be over, in milliseconds. */
  #end;
  /** Seconds of what comes after the steps. */
  afterwards = 0;

  constructor(/** @type {() => number} */ now = () => performance.now()) {
    this.now = now;
  }

  /** Take note of how far the run is. */
  see(/** @type {{ stage: string, step?: number, num_steps?: number }} */ progress) {
    const { step, num_steps } = progress;
    if (step === undefined || num_steps === undefined) {
      if (progress.stage !== "decode") this.#seen = [];
      return;
    }
    const last = this.#seen.at(-1);
    if (last?.step === step) return;
    if (last && step < last.step) this.#forget();
    this.#seen.push({ step, at: this.now() });
    const pace = this.#pace();
    if (pace === undefined) return;
    const end = this.now() + pace * (num_steps - step) + this.afterwards * 1000;
    this.#end = this.#end === undefined ? end : this.#end + TAKEN_OVER * (end - this.#end);
  }

  /** Seconds, never less than none; undefined until a pace was seen. */
  get seconds() {
    return this.#end === undefined ? undefined : Math.max(0, (this.#end - this.now()) / 1000);
  }

  /** Milliseconds a step: the median of the newest, since a first one may warm up. */
  #pace() {
    const newest = this.#seen.slice(-NEWEST - 1);
    const paces = newest
      .slice(1)
      .map((each, index) => (each.at - newest[index].at) / (each.step - newest[index].step))
      .sort((one, other) => one - other);
    return paces[Math.floor(paces.length / 2)];
  }

  #forget() {
    this.#seen = [];
    this.#end = undefined;
  }
}
