// The overview: datacenters as columns, tasks as arrows between them.

import { get, isAdmin, taskHash } from "./api.js";
import { h, put, s, text } from "./dom.js";
import { bytes, count, duration, percent, plural, short } from "./format.js";
import { tasks, watch, world } from "./live.js";
import { badge, empty, notice, setBadge, spark, wish } from "./widgets.js";

const LANE = 96; // px of one datacenter's column
const LANES = 5; // more datacenters than this are written, not drawn
const NONE = [];
const SPARK_EVERY = 10; // s
const AT_ONCE = 40; // rows of the first frame; the rest follows right behind it

export function overviewPage() {
  const sites = h("div.sites");
  const chips = h("p.chips", { role: "status" });
  const list = h("div.tasklist");
  const find = h("input", { type: "search", placeholder: "Find a task", "aria-label": "Find a task", oninput: draw });
  const rows = new Map();
  const sparks = new Map(); // uid -> values
  let shape = "";

  async function loadSparks() {
    try {
      const all = await get("/overview");
      for (const task of all.tasks) sparks.set(task.uid, task.spark);
      draw();
    } catch { /* the live connection says what is wrong */ }
  }

  function draw() {
    if (!world.loaded) {
      put(list, h("p.loading", {}, "Reading the coordinators …"));
      return;
    }
    drawSites(sites);
    const names = [...world.datacenters.keys()];
    const wanted = find.value.trim().toLowerCase();
    const found = tasks().filter((task) => !wanted || task.task.toLowerCase().includes(wanted));
    drawChips(chips, tasks());
    const read = [...world.datacenters.values()].filter((dc) => dc.read).length;
    const now = JSON.stringify([names, read, found.map((task) => task.uid), Boolean(wanted)]);
    if (now !== shape) {
      shape = now;
      build(list, rows, names, found, wanted, draw);
    }
    for (const task of found) rows.get(task.uid)?.update(task, sparks.get(task.uid) || NONE);
  }

  const unwatch = watch(draw);
  loadSparks();
  const timer = setInterval(loadSparks, SPARK_EVERY * 1000);
  return {
    title: "Overview",
    element: h("div", {}, h("h1.sr", {}, "Overview"), sites,
      h("div.bar", {}, h("h2", {}, "Tasks"), chips, find), list),
    close() { unwatch(); clearInterval(timer); },
  };
}

function drawSites(sites) {
  const cards = [...world.datacenters.values()].map((dc) => {
    const state = dc.reachable ? (dc.nodes_ready ? "ready" : "idle") : dc.configured ? "unreachable" : "idle";
    return [dc, state];
  });
  const now = JSON.stringify(cards);
  if (sites.dataset.shape === now) return;
  sites.dataset.shape = now;
  put(sites, cards.map(([dc, state]) => h("article.site", {},
    h("h2", {}, dc.datacenter),
    state === "ready" || state === "unreachable" ? badge(state) : h("span.badge.idle", {},
      h("span.mark", { "aria-hidden": "true" }, "○"), dc.configured ? "no node is ready" : "not in console.yaml"),
    h("p", {}, dc.nodes ? `${dc.nodes_ready} of ${plural(dc.nodes, "node")} ready` : "no nodes", h("span.dot", {}, " · "),
      `${count(dc.tasks_out)} out, ${count(dc.tasks_in)} in`),
    dc.trouble && dc.configured && h("p.problem", {}, dc.trouble),
    dc.coordinator && h("p.hint.cut", { title: dc.coordinator }, dc.coordinator))));
}

function drawChips(chips, all) {
  const by = new Map();
  for (const task of all) by.set(task.state, (by.get(task.state) || 0) + 1);
  const lags = all.map((task) => task.lag_seconds).filter((lag) => lag !== null);
  const order = ["failed", "assigned", "snapshot", "streaming", "paused", "stopped", "created"];
  const words = [plural(all.length, "task"), ...order.filter((state) => by.has(state)).map((state) => `${by.get(state)} ${state}`)];
  if (lags.length) words.push(`largest lag ${duration(Math.max(...lags))}`);
  text(chips, all.length ? words.join(" · ") : "");
}

function build(list, rows, names, found, wanted, draw) {
  rows.clear();
  if (!found.length) {
    const unread = [...world.datacenters.values()].filter((dc) => dc.configured && !dc.read).map((dc) => dc.datacenter);
    put(list, unread.length ? h("p.loading", {}, `Reading the coordinators of ${unread.join(", ")} …`) : wanted
      ? empty("No task has that in its name.")
      : empty("There are no tasks yet.", h("p", {}, "A task copies everything that is written at one server to another, from then on."),
        isAdmin() ? h("p", {}, h("a.button.primary", { href: "#/new" }, "Create the first task"))
          : notice("info", "You may look, not create.")));
    return;
  }
  const drawn = names.length <= LANES;
  const make = (task) => {
    rows.set(task.uid, row(task, names, drawn));
    return rows.get(task.uid).element;
  };
  const body = h("tbody", {}, found.slice(0, AT_ONCE).map(make));
  if (found.length > AT_ONCE) {
    requestAnimationFrame(() => setTimeout(() => {
      if (!body.isConnected) return;
      body.append(...found.slice(AT_ONCE).map(make));
      draw();
    }));
  }
  put(list, h("table.tasks", {},
    h("caption.sr", {}, "Tasks with their direction, state, lag and throughput"),
    h("thead", {}, h("tr", {},
      h("th", { scope: "col" }, "Task"),
      h("th.lanes", { scope: "col" }, h(drawn ? "span.sr" : "span", {}, "Direction"), drawn && lanesHead(names)),
      h("th", { scope: "col" }, "State"), h("th.num", { scope: "col" }, "Lag"),
      h("th.num", { scope: "col" }, "Throughput"), h("th.last", { scope: "col" }, "Last 10 min"))),
    body));
}

function lanesHead(names) {
  return h("span.lanenames", { "aria-hidden": "true" }, names.map((name) => h("span", { title: name }, name)));
}

function lanes(task, names) {
  const x = (name) => names.indexOf(name) * LANE + LANE / 2;
  const [from, to] = [x(task.source.datacenter), x(task.target.datacenter)];
  const way = to > from ? 1 : -1;
  const width = names.length * LANE;
  return s("svg", { class: "arrow", viewBox: `0 0 ${width} 28`, width, height: 28, "aria-hidden": "true" },
    names.map((name) => s("line", { class: "lane", x1: x(name), x2: x(name), y1: 0, y2: 28 })),
    s("line", { class: "way", x1: from, x2: to - way * 7, y1: 14, y2: 14 }),
    s("circle", { class: "from", cx: from, cy: 14, r: 4.5 }),
    s("path", { class: "head", d: `M${to - way * 9} 8.5L${to - way * 1} 14L${to - way * 9} 19.5Z` }));
}

function row(task, names, drawn) {
  const cells = { state: badge(task.state), more: h("span.hint"), lag: h("td.num"), rate: h("td.num") };
  cells.lag.dataset.label = "Lag";
  cells.rate.dataset.label = "Throughput";
  const line = spark((values) => values.length ? `at most ${short(Math.max(...values))} commands a second` : "no figures yet");
  const route = `${task.source.datacenter} → ${task.target.datacenter}`;
  const element = h("tr", {},
    h("th", { scope: "row" }, h("a", { href: taskHash(task.task, task.home) }, task.task),
      task.two_way && h("span.hint", {}, ` ⇄ ${task.two_way}`)),
    h("td.lanes", {}, drawn && lanes(task, names),
      h(drawn ? "span.route.narrow" : "span.route", {}, route), drawn && h("span.sr", {}, `from ${task.source.datacenter} to ${task.target.datacenter}`)),
    h("td.state", {}, cells.state, " ", cells.more), cells.lag, cells.rate,
    h("td.last", {}, line.element));
  let shown = null;
  return {
    element,
    update(now, values) {
      line.set(values);
      if (now === shown) return;
      shown = now;
      setBadge(cells.state, now.state);
      const more = now.state === "snapshot" ? percent(now.snapshot_fraction) : wish(now) || (now.error || now.phase || "").slice(0, 90);
      text(cells.more, more === "–" ? "" : more);
      cells.more.title = now.error || now.phase || "";
      element.className = now.state === "failed" ? "failed" : now.live ? "" : "stale";
      text(cells.lag, now.desired === "stopped" ? "–" : duration(now.lag_seconds));
      cells.lag.title = `${bytes(now.lag_bytes)} behind`;
      text(cells.rate, now.commands_per_second === null ? "–" : `${short(now.commands_per_second)}/s`);
      cells.rate.title = now.bytes_per_second === null ? "" : `${bytes(now.bytes_per_second)}/s`;
    },
  };
}
