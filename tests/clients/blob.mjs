// A run whose picture is a Blob: the client uploads it on its own.

import { ENDPOINT, fal, given, show } from "./fal.mjs";

const { data } = await fal.run(ENDPOINT, {
  input: { ...given.input, image_url: await (await fetch(given.input.image_url)).blob() },
});
show(data.seed);
