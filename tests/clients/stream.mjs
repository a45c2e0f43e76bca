// Stream a run: the kinds of the events, and the last of them.

import { ENDPOINT, fal, given, show } from "./fal.mjs";

const stream = await fal.stream(ENDPOINT, {
  input: given.input,
  connectionMode: given.connectionMode ?? "server",
});
let count = 0;
for await (const _event of stream) {
  count += 1;
}
show(count, await stream.done());
