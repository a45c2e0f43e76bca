// @fal-ai/client, pointed at the server in one of the ways that docs/clients.md shows.

import { createFalClient } from "@fal-ai/client";

export const ENDPOINT = "fal-ai/cosmos-predict-2.5/image-to-video";

const SERVER = process.env.COSMOS_URL;

const SERVICES = { "fal.run": "run", "queue.fal.run": "queue", "rest.fal.ai": "rest" };

function moved(url) {
  const { hostname, pathname, search } = new URL(url);
  return hostname in SERVICES ? `${SERVER}/${SERVICES[hostname]}${pathname}${search}` : url;
}

const WAYS = {
  proxy: { proxyUrl: { url: `${SERVER}/api/fal/proxy`, when: "always" } },
  middleware: { requestMiddleware: async (request) => ({ ...request, url: moved(request.url) }) },
  fetch: { fetch: (url, options) => fetch(moved(url), options) },
};

export const given = JSON.parse(process.argv[2]);
export const fal = createFalClient({ ...WAYS[given.way], ...given.config });

export function show(...values) {
  console.log(JSON.stringify(values));
}
