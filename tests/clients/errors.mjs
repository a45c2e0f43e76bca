// Invalid input, through the queue and as a run; an id that nobody has.

import { ValidationError } from "@fal-ai/client";
import { ENDPOINT, fal, given, show } from "./fal.mjs";

for (const call of [fal.subscribe, fal.run]) {
  try {
    await call(ENDPOINT, { input: given.input });
  } catch (error) {
    const fields = error instanceof ValidationError ? error.getFieldErrors("num_frames") : [];
    show(error.status, ...fields.map((field) => field.type));
  }
}
const requestId = "00000000-0000-0000-0000-000000000000";
show(await fal.queue.status(ENDPOINT, { requestId }).catch(({ status }) => status));
