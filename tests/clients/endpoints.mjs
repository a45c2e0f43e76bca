// A video of each endpoint; a clip is a Blob, which the client uploads on its own.

import { fal, given, show } from "./fal.mjs";

for (const [endpoint, input] of Object.entries(given.requests)) {
  if (input.video_url) {
    input.video_url = await (await fetch(input.video_url)).blob();
  }
  const { data } = await fal.subscribe(endpoint, { input, pollInterval: 100 });
  show(endpoint, data.seed, data.video.file_size);
}
