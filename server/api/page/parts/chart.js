// Bars by day, drawn by uPlot; a table with the same numbers is beside them for those who cannot see it.

import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import uPlot from "../vendor/uplot.js";

const HEIGHT = 180;

const DARK = matchMedia("(prefers-color-scheme: dark)");

/** Whether it is dark: what is drawn on a canvas is drawn again when that changes. */
function useDark() {
  const [isDark, setDark] = useState(DARK.matches);
  useEffect(() => {
    const changed = () => setDark(DARK.matches);
    DARK.addEventListener("change", changed);
    return () => DARK.removeEventListener("change", changed);
  }, []);
  return isDark;
}

/** @param {{ label: string, days: number[], values: number[] }} props `days` are Unix seconds */
export function Bars({ label, days, values }) {
  const frame = useRef(null);
  const isDark = useDark();
  useEffect(() => {
    const element = frame.current;
    const style = getComputedStyle(element);
    const [ink, line, accent] = ["--quiet", "--line", "--accent"].map((name) =>
      style.getPropertyValue(name),
    );
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { show: false } };
    const plot = new uPlot(
      {
        width: element.clientWidth,
        height: HEIGHT,
        legend: { show: false },
        cursor: { show: false },
        scales: { y: { range: (_, __, max) => [0, Math.max(1, max * 1.1)] } },
        axes: [{ ...axis, grid: { show: false }, values: dates }, { ...axis, size: 48 }],
        series: [
          {},
          {
            label,
            fill: accent,
            width: 0,
            points: { show: false },
            paths: uPlot.paths.bars({ size: [0.7, 40] }),
          },
        ],
      },
      [days, values],
      element,
    );
    const resized = new ResizeObserver(() =>
      plot.setSize({ width: element.clientWidth, height: HEIGHT }),
    );
    resized.observe(element);
    return () => {
      resized.disconnect();
      plot.destroy();
    };
  }, [label, days.join(), values.join(), isDark]);
  return html`
    <figure class="chart">
      <figcaption>${label}</figcaption>
      <div ref=${frame} aria-hidden="true"></div>
    </figure>
  `;
}

const DAY = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", timeZone: "UTC" });
const dates = (/** @type {unknown} */ _, /** @type {number[]} */ ticks) =>
  ticks.map((tick) => DAY.format(new Date(tick * 1000)));
