// One generateVideo; the video, or the error as the SDK has it.

import { createFal } from "@ai-sdk/fal";
import { experimental_generateVideo as generateVideo } from "ai";

const server = process.env.COSMOS_URL;
const given = JSON.parse(process.argv[2]);
const asked = [];

const fal = createFal({
  fetch: async (url, options) => {
    const here = String(url)
      .replace("https://queue.fal.run/fal-ai/cosmos-serve/", `${server}/queue/cosmos-serve/`)
      .replace("https://queue.fal.run", `${server}/queue`);
    const headers = new Headers(options?.headers);
    headers.set("Authorization", `Key ${process.env.FAL_KEY}`);
    const answer = await fetch(here, { ...options, headers });
    asked.push(`${options?.method ?? "GET"} ${answer.status}`);
    return answer;
  },
});

try {
  const { video } = await generateVideo({
    model: fal.video(given.endpoint ?? "fal-ai/cosmos-predict-2.5/image-to-video"),
    prompt: given.input.image_url
      ? { text: given.input.prompt, image: given.input.image_url }
      : given.input.prompt,
    seed: given.input.seed,
    aspectRatio: "16:9",
    duration: 5,
    maxRetries: 0,
    providerOptions: { fal: { sync_mode: true, pollIntervalMs: 200, ...given.options } },
  });
  console.log(JSON.stringify([video.mediaType, video.uint8Array.length]));
} catch (error) {
  const { name, statusCode, responseBody } = error;
  console.log(JSON.stringify([name, statusCode, JSON.parse(responseBody).detail]));
}
console.log(JSON.stringify(asked));
