// Subscribe while another request runs, and show what the queued status had, and what came out.

import { ENDPOINT, fal, given, show } from "./fal.mjs";

await fal.queue.submit(ENDPOINT, { input: given.first });

const updates = [];
const { data } = await fal.subscribe(ENDPOINT, {
  input: given.second,
  mode: given.mode,
  pollInterval: 50,
  onQueueUpdate: (update) => updates.push(update),
});

show(...Object.keys(updates.find(({ status }) => status === "IN_QUEUE").estimate).sort());
show(...updates.map(({ status }) => status));
show(data.seed);
