// What was made, by day and by key, how it went, and how long each stage takes.

import { html, useEffect, useState } from "../vendor/preact.js";
import { ask, at, send } from "../api.js";
import { countOf, percentile, stageBuckets } from "../prometheus.js";
import { labelOf } from "../schema.js";
import { duration, text } from "../strings.js";
import { Bars } from "./chart.js";
import { Table } from "./table.js";

const DAYS = 30;
const DAY_S = 86_400;
const words = text.operate;
const NUMBER = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });
const money = (/** @type {string} */ currency) =>
  new Intl.NumberFormat(undefined, { style: "currency", currency });
const METRICS = ["success_count", "user_error_count", "error_count", "p50_duration", "p95_duration"];

function useUsage(endpoints) {
  const [found, setFound] = useState(null);
  const [problem, setProblem] = useState("");
  useEffect(() => {
    const start = new Date(Date.now() - DAYS * DAY_S * 1000).toISOString();
    const query = (expand) =>
      new URLSearchParams({ endpoint_id: endpoints.join(), start, timeframe: "day", limit: "100", expand });
    Promise.all([
      ask(`v1/models/usage?${query("time_series,summary,auth_method_structured")}`),
      ask(`v1/models/analytics?${query(`summary,${METRICS}`)}`),
      send(at("metrics")).then((answer) => answer.text()),
    ]).then(
      ([usage, analytics, metrics]) =>
        setFound({ usage, analytics, stages: stageBuckets(metrics) }),
      (error) => setProblem(error.message),
    );
  }, []);
  return { found, problem };
}

/** @param {{ server: import("../main.js").Server }} props */
export function Usage({ server }) {
  const { found, problem } = useUsage(server.endpoints.map(({ id }) => id));
  return html`
    <section class="card">
      <h2>${words.usage}</h2>
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      ${found && found.usage.summary.length === 0 && html`<p class="quiet">${words.usageEmpty}</p>`}
      ${found && found.usage.summary.length > 0 && html`<${Used} usage=${found.usage} />`}
    </section>
    ${found &&
    html`
      <${Outcomes} analytics=${found.analytics} />
      <${Stages} stages=${found.stages} />
    `}
  `;
}

function Used({ usage: { time_series: series, summary } }) {
  const today = Math.floor(Date.now() / 1000 / DAY_S) * DAY_S;
  const days = Array.from({ length: DAYS }, (_, index) => today - (DAYS - 1 - index) * DAY_S);
  const onDay = (name) =>
    days.map((day) => {
      const bucket = series.find((each) => Date.parse(each.bucket) / 1000 === day);
      return (bucket?.results ?? []).reduce((sum, each) => sum + each[name], 0);
    });
  const byKey = Object.groupBy(summary, (each) => each.auth_method_structured?.detail ?? "");
  const sum = (lines, name) => lines.reduce((total, each) => total + each[name], 0);
  const rows = Object.entries(byKey).map(([key, lines = []]) => ({
    id: key,
    cells: [
      key === "None" || key === "" ? words.noKey : key,
      sum(lines, "quantity"),
      NUMBER.format(sum(lines, "gpu_seconds")),
      money(lines[0].currency).format(sum(lines, "cost")),
    ],
  }));
  return html`
    <div class="charts">
      <${Bars} label=${words.videos} days=${days} values=${onDay("quantity")} />
      <${Bars} label=${words.gpuSeconds} days=${days} values=${onDay("gpu_seconds")} />
    </div>
    <${Table} label=${words.usage} rows=${rows} numbers=${[1, 2, 3]}
      head=${[words.key, words.videos, words.gpuSeconds, words.cost]} />
  `;
}

function Outcomes({ analytics: { summary } }) {
  if (summary.length === 0) return null;
  const both = (line) =>
    line.p50_duration === undefined
      ? text.none
      : `${duration(line.p50_duration)} / ${duration(line.p95_duration)}`;
  const rows = summary.map((line) => ({
    id: line.endpoint_id,
    cells: [
      labelOf(line.endpoint_id),
      line.success_count,
      line.user_error_count,
      line.error_count,
      both(line),
    ],
  }));
  return html`
    <section class="card">
      <h2>${words.outcomes}</h2>
      <${Table} label=${words.outcomes} rows=${rows} numbers=${[1, 2, 3, 4]}
        head=${[words.endpoint, words.succeeded, words.refused, words.failed, words.ran]} />
    </section>
  `;
}

function Stages({ stages }) {
  const names = Object.keys(stages);
  if (names.length === 0) return null;
  const rows = names.map((name) => ({
    id: name,
    cells: [
      text.run.stages[name] ?? name,
      countOf(stages[name]),
      duration(percentile(stages[name], 0.5)),
      duration(percentile(stages[name], 0.95)),
    ],
  }));
  return html`
    <section class="card">
      <h2>${words.stages}</h2>
      <${Table} label=${words.stages} rows=${rows} numbers=${[1, 2, 3]}
        head=${[words.stage, words.count, words.median, words.p95]} />
    </section>
  `;
}
