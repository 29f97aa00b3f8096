// Lag and throughput over the last hour, drawn by uPlot.

import uPlot from "../vendor/uPlot.esm.js";
import { h, put } from "./dom.js";
import { duration, short } from "./format.js";

document.head.append(h("link", { rel: "stylesheet", href: "/static/vendor/uPlot.min.css" }));

const HOUR = 3600;
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const clock = (at, exactly) => new Date(at * 1000).toTimeString().slice(0, exactly ? 8 : 5);

/** A chart of one series. `write` makes words of a value. */
export function chart(title, name, colour, write) {
  const box = h("div.plot");
  const said = h("figcaption");
  const none = h("p.hint", {}, "Figures appear here as they come in.");
  const element = h("figure.chart", {}, said, box);
  let plot = null;
  let data = [[], []];

  function options() {
    const axis = { stroke: css("--faint"), grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line"), width: 1, size: 4 }, font: "11px system-ui" };
    return {
      width: Math.max(200, box.clientWidth), height: 170, padding: [8, 28, 0, 0],
      legend: { show: false }, cursor: { y: false, points: { size: 6 } },
      scales: { y: { range: (_u, _low, high) => [0, Math.max(high || 0, name === "lag_seconds" ? 0.01 : 10) * 1.1] } },
      axes: [{ ...axis, size: 28, space: 80, values: (u, ticks) => ticks.map((at) => clock(at, u.scales.x.max - u.scales.x.min < 600)) },
        { ...axis, size: 64, values: (_u, ticks) => ticks.map(write) }],
      series: [{}, { stroke: css(colour), fill: `${css(colour)}22`, width: 1.5, points: { show: false }, spanGaps: false }],
      hooks: { setCursor: [(u) => tell(u.cursor.idx)] },
    };
  }

  function tell(index) {
    const at = index ?? data[0].length - 1;
    const value = data[1][at];
    const time = index === null || index === undefined ? "now" : clock(data[0][at], true);
    put(said, h("b", {}, title), h("span.num", {}, value === undefined || value === null ? "unknown" : `${write(value)} ${time}`));
  }

  function draw() {
    if (data[0].length < 2) { put(box, none); tell(); return; }
    if (plot === null) {
      put(box);
      plot = new uPlot(options(), data, box);
    } else plot.setData(data);
    tell(plot.cursor.idx);
  }

  const resize = new ResizeObserver(() => plot?.setSize({ width: Math.max(200, box.clientWidth), height: 170 }));
  resize.observe(box);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const repaint = () => { plot?.destroy(); plot = null; draw(); };
  dark.addEventListener("change", repaint);
  tell();
  return {
    element,
    load(history) { data = [history.time, history[name]]; draw(); },
    add(at, value) {
      const times = data[0];
      if (times.length && at < times[times.length - 1] + 1.8) return;
      data = [[...times, at], [...data[1], value]];
      const first = data[0].findIndex((time) => time > at - HOUR);
      if (first > 60) data = data.map((column) => column.slice(first));
      draw();
    },
    close() { resize.disconnect(); dark.removeEventListener("change", repaint); plot?.destroy(); plot = null; },
  };
}

export const lagChart = () => chart("Lag", "lag_seconds", "--accent", duration);
export const rateChart = () => chart("Throughput", "commands_per_second", "--second", (value) => `${short(value)}/s`);
