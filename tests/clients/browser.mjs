// In a browser: upload a picture, stream a job to its end, cancel another, be told what is wrong.

import { createFalClient } from "@fal-ai/client";

const ENDPOINT = "fal-ai/cosmos-predict-2.5/image-to-video";

const fal = createFalClient({
  proxyUrl: "http://localhost:8000/api/fal/proxy",
  credentials: "my-team:a-long-secret",
  suppressLocalCredentialsWarning: true,
});

const canvas = new OffscreenCanvas(96, 64);
canvas.getContext("2d").fillRect(0, 0, 96, 64);
const picture = await canvas.convertToBlob({ type: "image/png" });
const image_url = await fal.storage.upload(picture);
console.log("uploaded", (await (await fetch(image_url)).blob()).size === picture.size);

const input = { prompt: "a red car", image_url, num_inference_steps: 2, seed: 7 };
const { data } = await fal.subscribe(ENDPOINT, { input, mode: "streaming", logs: true });
console.log("seed", data.seed);
console.log("video", (await (await fetch(data.video.url)).blob()).size);

const wrong = await fal.run(ENDPOINT, { input: { ...input, num_frames: 8 } }).catch((error) => error);
console.log("wrong", wrong.status, wrong.getFieldErrors("num_frames").length, wrong.requestId !== "");

const slow = { ...input, prompt: "sleep 3600" };
const { request_id: requestId } = await fal.queue.submit(ENDPOINT, { input: slow });
await fal.queue.cancel(ENDPOINT, { requestId });
await fal.queue.subscribeToStatus(ENDPOINT, { requestId, pollInterval: 100 });
const gone = await fal.queue.result(ENDPOINT, { requestId }).catch((error) => error);
console.log("cancelled", gone.status);
