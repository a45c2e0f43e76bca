// A run, or a submit that is waited for: the seed, or the error as the client has it.

import { ENDPOINT, fal, given, show } from "./fal.mjs";

async function waitedFor() {
  const { request_id: requestId } = await fal.queue.submit(ENDPOINT, { input: given.input });
  await fal.queue.subscribeToStatus(ENDPOINT, { requestId, pollInterval: 100 });
  return fal.queue.result(ENDPOINT, { requestId });
}

const { startTimeout } = given;
try {
  const { data } =
    given.call === "run"
      ? await fal.run(ENDPOINT, { input: given.input, startTimeout })
      : await waitedFor();
  show(data.seed);
} catch (error) {
  show(error.status, error.body.error_type, ...(error.isUserTimeout ? ["user"] : []));
}
