// Upload a file of the given size, and fetch it again without a key.

import { createHash, randomBytes } from "node:crypto";
import { fal, given, show } from "./fal.mjs";

const digest = (bytes) => createHash("sha256").update(bytes).digest("hex");

const bytes = randomBytes(given.size);
const file = new File([bytes], "ein Bild ü \"1\".png", { type: "image/png" });
const url = await fal.storage.upload(file);
const answer = await fetch(url);
const received = new Uint8Array(await answer.arrayBuffer());

show(url);
show(answer.status, answer.headers.get("content-type"));
show(digest(received) === digest(bytes));
