// Percentiles from the histograms of /metrics, as Prometheus counts them.

const BUCKET = /^cosmos_stage_seconds_bucket\{(.*)\} (\S+)$/;
const LABEL = /(\w+)="([^"]*)"/g;

/**
 * The buckets of each stage's seconds: how many were at most so long.
 *
 * @param {string} metrics
 * @returns {Record<string, { le: number, count: number }[]>}
 */
export function stageBuckets(metrics) {
  /** @type {Record<string, { le: number, count: number }[]>} */
  const found = {};
  for (const line of metrics.split("\n")) {
    const match = BUCKET.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...match[1].matchAll(LABEL)].map(([, name, value]) => [name, value]));
    const le = labels.le === "+Inf" ? Infinity : Number(labels.le);
    (found[labels.stage] ??= []).push({ le, count: Number(match[2]) });
  }
  return Object.fromEntries(Object.entries(found).filter(([, buckets]) => countOf(buckets) > 0));
}

/** How many values the buckets have. */
export const countOf = (/** @type {{ count: number }[]} */ buckets) => buckets.at(-1)?.count ?? 0;

/**
 * The value that a share of them are at most, taken to lie evenly within a bucket.
 *
 * @param {{ le: number, count: number }[]} buckets
 * @param {number} share
 */
export function percentile(buckets, share) {
  const wanted = share * countOf(buckets);
  const index = buckets.findIndex(({ count }) => count >= wanted);
  const below = index === 0 ? { le: 0, count: 0 } : buckets[index - 1];
  const { le, count } = buckets[index];
  if (le === Infinity) return below.le;
  return below.le + ((le - below.le) * (wanted - below.count)) / (count - below.count);
}
