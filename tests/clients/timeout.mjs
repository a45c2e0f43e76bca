// Give up waiting after two seconds; what became of the job.

import { ENDPOINT, fal, given, show } from "./fal.mjs";

let requestId;
try {
  await fal.subscribe(ENDPOINT, {
    input: given.input,
    timeout: 2000,
    onEnqueue: (id) => (requestId = id),
  });
} catch (error) {
  show(error.message);
}
let status;
do {
  status = await fal.queue.status(ENDPOINT, { requestId });
} while (status.status !== "COMPLETED");
show(await fal.queue.result(ENDPOINT, { requestId }).catch(({ body }) => body.error_type));
