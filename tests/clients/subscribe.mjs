// Subscribe, and show what came along and what came out.

import { ENDPOINT, fal, given, show } from "./fal.mjs";

const updates = [];
const { data, requestId } = await fal.subscribe(ENDPOINT, {
  input: given.input,
  logs: true,
  mode: given.mode ?? "polling",
  pollInterval: 100,
  onQueueUpdate: (update) => updates.push(update),
});
const video = await (await fetch(data.video.url)).arrayBuffer();

show(...new Set(updates.map((update) => update.status)));
show(...updates.at(-1).logs.map((log) => log.message));
show(data.seed, data.video.file_size, video.byteLength, data.video.content_type);
show(requestId, updates.at(-1).request_id);
