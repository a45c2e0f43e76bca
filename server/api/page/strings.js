// Every text of the page that is not the server's own.

export const text = {
  product: "cosmos-serve",
  skip: "Skip to the content",
  nav: "Views",
  playground: "Playground",
  history: "History",
  operator: "Operator",
  apiDocs: "API",
  signOut: "Sign out",
  notFound: "There is no such view.",
  loading: "Loading…",
  tryAgain: "Try again",
  close: "Close",
  copy: "Copy",
  copied: "Copied",
  none: "–",

  server: {
    ready: "Ready",
    notReady: "Not ready",
    paused: "Paused",
    away: "No answer",
    loading: (percent) => `Loading the model, ${percent} %`,
  },

  signIn: {
    title: "Sign in",
    lead: "This server asks for a key. It is exchanged for a cookie, and not kept by the page.",
    label: "Key",
    hint: "In the form id:secret, as in FAL_KEY.",
    button: "Sign in",
    wrong: "The server does not know this key.",
    ended: "The key has ended, or was revoked. Sign in again.",
  },

  form: {
    tabs: "Endpoint",
    kind: "How to write the request",
    form: "Form",
    json: "JSON",
    code: "Code",
    additional: "Additional settings",
    required: "required",
    random: "random",
    reset: "Reset to the defaults",
    example: "Use an example",
    submit: "Make a video",
    submitting: "Sending…",
    uploading: (percent) => `Uploading, ${percent} %`,
    missing: (title) => `${title} is missing.`,
  },

  media: { image: "picture", video: "video" },

  file: {
    drop: (kind) => `Drop a ${kind} here, or paste it`,
    choose: "Choose a file",
    replace: "Replace",
    remove: "Remove",
    byUrl: "or its URL",
    urlPlaceholder: "https://…",
    urlNote: "The server fetches it; this page does not open it.",
    prepared: (width, height) => `As the server has cropped it for ${width}×${height}`,
    crop: "The part that is kept",
    cropHint: "Drag it, or use the arrow keys, to choose the part that is kept.",
    cropped: (width, height) => `Cropped to ${width}×${height}`,
    whole: (width, height) => `Shown as it will be cropped for ${width}×${height}; sent as it is`,
    clip: (width, height) => `Its last frames begin the video, cropped for ${width}×${height}`,
    unreadable: "This browser cannot show it. The server may be able to read it.",
    wrongKind: (name, kind) => `${name} is not a ${kind}.`,
    tooMany: "One file, please.",
    empty: (name) => `${name} is empty.`,
  },

  json: {
    label: "The request as JSON",
    broken: (reason) => `This is not JSON: ${reason}`,
    notObject: "A request is an object: { … }.",
    hint: "What you change here changes the form, and the other way round.",
  },

  code: {
    label: "Language",
    python: "Python",
    javascript: "JavaScript",
    curl: "curl",
    needsKey: "Set FAL_KEY to your key first.",
  },

  estimate: {
    work: (duration) => `About ${duration} of work`,
    now: "starts at once",
    wait: (duration) => `starts in about ${duration}`,
    ahead: (count) => (count === 1 ? "one request ahead" : `${count} requests ahead`),
    unknown: "How long it takes is known once a video was made",
  },

  run: {
    title: "Run",
    empty: "Your video appears here.",
    emptyHint: "Write a prompt, and press “Make a video”.",
    yours: "Runs of this browser",
    queued: "Waiting",
    queuedNext: "Next in line",
    queuedBehind: (count) =>
      count === 1 ? "Waiting behind one request" : `Waiting behind ${count} requests`,
    startsAt: (time) => `should start at ${time}`,
    running: "Running",
    done: "Done",
    failed: "Failed",
    cancelled: "Cancelled",
    unknown: "Asking the server…",
    gone: "The server no longer has this request.",
    offline: "The server does not answer. The run goes on once it is back.",
    stages: {
      text: "Prompt",
      image: "Picture",
      denoise: "Denoise",
      decode: "Decode",
      encode: "Encode",
    },
    stagesLabel: "Stages",
    step: (step, steps) => `Step ${step} of ${steps}`,
    left: (duration) => `about ${duration} left`,
    cancel: "Cancel",
    cancelling: "Cancelling…",
    log: "Log",
    noLog: "Nothing yet.",
    json: "Raw JSON",
    request: "Request",
    response: "Response",
    download: "Download",
    seed: "Seed",
    useSeed: "Use again",
    again: "Run again with changes",
    forget: "Take off the list",
    open: "Open",
    prepared: "What the video begins with, as it was prepared",
    preview: "A preview of the video that is being made",
    video: "The video that was made",
    seconds: "Seconds",
    stageSeconds: "of which",
    tier: "Tier",
    backend: "Backend",
    size: "Video",
    file: "File",
    frames: (count, fps) => `${count} frames at ${fps} a second`,
  },

  past: {
    endpoint: "Endpoint",
    outcome: "Outcome",
    period: "Period",
    all: "All",
    outcomes: { success: "Succeeded", user_error: "Refused", error: "Failed" },
    days: (count) => (count === 1 ? "The last day" : `The last ${count} days`),
    empty: "There is nothing here yet.",
    notKept: "What was asked is no longer kept.",
    more: "Show more",
    again: "Run again",
    remove: "Delete",
    removeReally: "Really delete its files?",
  },

  operate: {
    notAllowed: "This key may not operate the server: that takes the scope admin.",
    health: "Health",
    examine: "Examine the machine",
    examining: "Examining, which takes some seconds…",
    levels: { ok: "ok", warning: "could be better", problem: "problem" },
    check: "Check",
    said: "What the doctor says",
    checks: {
      worker: "Worker",
      guardrail: "Guardrail",
      database: "Database",
      disk: "Disk",
      tasks: "Tasks",
      draining: "Accepting",
    },
    passed: "ok",
    workers: "Workers",
    worker: "Worker",
    device: "Device",
    state: "State",
    states: { loading: "Loading", idle: "Idle", busy: "Busy", down: "Down" },
    memory: "Memory plan",
    backend: "Backend",
    checkpoint: "Checkpoint",
    job: "Current job",
    pace: (step, steps, seconds) => `step ${step} of ${steps}, ${seconds} s a step`,
    queue: "Queue",
    queueEmpty: "Nothing runs, and nothing waits.",
    pause: "Pause",
    resume: "Resume",
    pausedSince: (time) => `Paused since ${time}`,
    request: "Request",
    key: "Key",
    endpoint: "Endpoint",
    priority: "Priority",
    since: "Since",
    cancelReally: "Really cancel?",
    usage: "Usage of the last 30 days",
    usageEmpty: "Nothing was made in this time.",
    videos: "Videos",
    gpuSeconds: "GPU-seconds",
    cost: "Cost",
    noKey: "no key",
    outcomes: "Outcomes",
    succeeded: "Succeeded",
    refused: "Refused or cancelled",
    failed: "Failed",
    ran: "Ran, p50 / p95",
    stages: "Seconds of each stage since the server's start",
    stage: "Stage",
    median: "p50",
    p95: "p95",
    count: "Videos",
    keys: "Keys",
    alias: "Name of the new key",
    make: "Make a key",
    made: "It is shown this once:",
    created: "Made",
    revoke: "Revoke",
    revokeReally: "Really revoke?",
    limits: "Limits",
    noLimits: "those of all keys",
    limit: {
      queue_limit: (count) => `${count} waiting`,
      running_limit: (count) => `${count} running`,
      submits_per_minute: (count) => `${count} a minute`,
      storage_limit_mib: (count) => `${count} MiB of files`,
    },
  },

  errors: {
    network: "The server does not answer.",
    status: (code) => `The server answered with the status ${code}.`,
  },
};

const MINUTE = 60;

/** Seconds in words: `4.2 s`, `48 s`, `2 min 5 s`, `3 h 10 min`. */
export function duration(/** @type {number} */ seconds) {
  if (seconds < 9.95) return `${Math.max(0, seconds).toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < MINUTE) return `${whole} s`;
  if (whole < 60 * MINUTE) return `${Math.floor(whole / MINUTE)} min ${whole % MINUTE} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / MINUTE)} min`;
}

/** Seconds that are counted down: whole ones, and of more than a minute and a half each fifth. */
export function countdown(/** @type {number} */ seconds) {
  const whole = Math.max(0, Math.ceil(seconds));
  return duration(Math.max(whole > 90 ? Math.ceil(whole / 5) * 5 : whole, 0)).replace(".0 s", " s");
}

/** A size in bytes in words. */
export function size(/** @type {number} */ bytes) {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  return `${unit === 0 || bytes >= 99.5 ? Math.round(bytes) : bytes.toFixed(1)} ${units[unit]}`;
}

const TIME = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const DATE_TIME = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** The time of a moment, with its day where that is not today. */
export function moment(/** @type {string | number | Date} */ at) {
  const date = new Date(at);
  const isToday = date.toDateString() === new Date().toDateString();
  return (isToday ? TIME : DATE_TIME).format(date);
}
