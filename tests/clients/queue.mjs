// Submit, ask too early, cancel, and ask again.

import { ENDPOINT, fal, given, show } from "./fal.mjs";

const refused = ({ name, status, body }) => [name, status, body.detail, body.error_type ?? null];

const submitted = await fal.queue.submit(ENDPOINT, { input: given.input });
show(submitted.status, submitted.queue_position, Object.keys(submitted).sort());

const requestId = submitted.request_id;
const status = await fal.queue.status(ENDPOINT, { requestId, logs: true });
show(status.status, Array.isArray(status.logs));
show(...(await fal.queue.result(ENDPOINT, { requestId }).catch(refused)));

await fal.queue.cancel(ENDPOINT, { requestId });
for await (const update of await fal.queue.streamStatus(ENDPOINT, { requestId, logs: true })) {
  if (update.status === "COMPLETED") {
    show(update.status);
  }
}
show(...(await fal.queue.result(ENDPOINT, { requestId }).catch(refused)));
show(...(await fal.queue.cancel(ENDPOINT, { requestId }).catch(({ status }) => [status])));
