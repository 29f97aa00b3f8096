// One task: figures, charts, shards, history, configuration, and what can be done with it.

import { get, isAdmin, taskHash, taskPath as path } from "./api.js";
import { actions } from "./actions.js";
import { lagChart, rateChart } from "./charts.js";
import { h, put, text } from "./dom.js";
import { ago, bytes, count, duration, short, when } from "./format.js";
import { comparisonPart } from "./comparisons.js";
import { conflictPart } from "./conflicts.js";
import { letterPart } from "./letters.js";
import { taskByName, tasksByName, watch, world } from "./live.js";
import { shardTable, snapshotPart } from "./shards.js";
import { turnPart } from "./turn.js";
import { badge, empty, notice, section, setBadge, tile, wish } from "./widgets.js";

const REFRESH = 2000;

export function taskPage(name, home = "") {
  const body = h("div", {}, h("p.loading", {}, `Reading task ${name} …`));
  const element = h("div", {}, h("p.crumbs", {}, h("a", { href: "#/" }, "Overview"), " / ", name), body);
  let parts = null;
  let closed = false;
  let timer = 0;

  async function refresh() {
    try {
      const found = await get(path(name, "", home));
      if (closed) return;
      if (parts === null) {
        parts = build(name, found.home);
        put(body, parts.element);
        get(path(name, "/history", found.home)).then((history) => parts?.history(history)).catch(() => {});
      }
      parts.detail(found);
    } catch (error) {
      if (closed) return;
      if (error.status === 404 || parts === null) {
        parts?.close();
        parts = null;
        const same = tasksByName(name);
        if (!home && same.length > 1) put(body, choice(name, same));
        else put(body, error.status === 404
          ? empty(`There is no task ${name}.`, h("p", {}, "It may have been deleted. ", h("a", { href: "#/" }, "To the overview")))
          : notice("bad", `Task ${name} cannot be shown`, h("p", {}, error.message), h("p.hint", {}, "Trying again.")));
      }
    }
    if (!closed) timer = setTimeout(refresh, REFRESH);
  }

  const unwatch = watch(() => {
    const task = world.loaded && taskByName(name, home);
    if (task && parts) parts.live(task);
  });
  refresh();
  return { title: name, element, close() { closed = true; clearTimeout(timer); unwatch(); parts?.close(); } };
}

/** Two datacenters may have tasks of one name. */
function choice(name, same) {
  return empty(`${same.length} datacenters have a task ${name}.`,
    h("ul", {}, same.map((task) => h("li", {}, h("a", { href: taskHash(name, task.home) }, `${name} of ${task.home}`)))));
}

function build(name, home) {
  const state = badge("");
  const aim = h("span.hint");
  const route = h("p.route");
  const trouble = h("div");
  const tiles = {
    lag: tile("Lag", "age of the oldest write that is not applied yet"),
    behind: tile("Behind", "bytes received and not yet applied"),
    rate: tile("Throughput"),
    letters: tile("Dead letters", "commands that the target did not take"),
    restarts: tile("Restarts", "of the worker, since the last healthy hour"),
  };
  const buttons = actions(name, home);
  const charts = { lag: lagChart(), rate: rateChart() };
  const shards = shardTable();
  const snapshot = snapshotPart();
  const letters = letterPart(name, home);
  const turn = turnPart();
  const conflicts = conflictPart(name, home);
  const comparisons = comparisonPart(name, home);
  const history = h("div");
  const config = h("pre", { tabindex: "0", "aria-label": "Specification as YAML" });

  const element = h("div.task", {},
    h("div.title", {}, h("h1", {}, name), state, aim, buttons.element), route, trouble,
    h("dl.tiles", {}, Object.values(tiles).map((one) => one.element)),
    h("div.charts", {}, charts.lag.element, charts.rate.element),
    turn.element, snapshot.element,
    section("Shards", shards.element),
    h("div.columns", {},
      section("Dead letters", letters.element), section("History", history),
      section("Conflicts", conflicts.element), section("Comparisons", comparisons.element)),
    section("Configuration", isAdmin() && h("a.button", { href: taskHash(name, home, "/edit") }, "Edit"), config));

  function live(task) {
    setBadge(state, task.state);
    text(aim, wish(task) || (task.phase && task.phase !== task.state ? task.phase : ""));
    const stopped = task.desired === "stopped";
    tiles.lag.set(stopped ? "–" : duration(task.lag_seconds), task.lag_seconds === null && !stopped ? "unknown while not connected" : "");
    tiles.behind.set(bytes(task.lag_bytes));
    tiles.rate.set(task.commands_per_second === null ? "–" : `${short(task.commands_per_second)}/s`,
      task.bytes_per_second === null ? "" : `${bytes(task.bytes_per_second)}/s`);
    tiles.letters.set(count(task.dead_letters), "", task.dead_letters ? "warn" : "");
    tiles.restarts.set(count(task.restarts), "", task.restarts ? "warn" : "");
    buttons.update(task);
    const now = Date.now() / 1000;
    charts.lag.add(now, task.lag_seconds);
    charts.rate.add(now, task.commands_per_second);
  }

  function detail(task) {
    live(task);
    text(route, "");
    put(route, side(task.source), h("span", { "aria-label": "to" }, " → "), side(task.target),
      task.two_way && h("span.hint", {}, " two-way with ", h("a", { href: taskHash(task.two_way, peerHome(task)) }, task.two_way)));
    put(trouble, task.error && notice("bad", task.state === "failed" ? "This task stands still" : "Trouble", h("p", {}, task.error)),
      !task.live && task.desired !== "stopped" && !task.nodes.length && notice("info", "No node runs it", h("p", {}, "It waits for a node with room at ", h("b", {}, task.source.datacenter || "its source"), ".")));
    shards.update(task.shard_list);
    snapshot.update(task.shard_list);
    text(config, task.yaml);
    put(history, task.events.length
      ? h("ul.log", { tabindex: "0", "aria-label": "History" }, task.events.slice(0, 50).map((event) => h("li", {}, h("time", { title: when(event.at) }, ago(event.at)), h("span", {}, event.what), h("span.hint", {}, event.by))))
      : empty("Nothing has happened yet."));
    turn.update(task.turn);
    letters.update(task);
    conflicts.update(task);
    comparisons.update(task.jobs);
  }

  return {
    element, live, detail,
    history(found) { charts.lag.load(found); charts.rate.load(found); },
    close() { charts.lag.close(); charts.rate.close(); },
  };
}

/** Where the task of the other direction is kept, as far as is known. */
function peerHome(task) {
  return tasksByName(task.two_way).find((other) => other.source.datacenter === task.target.datacenter)?.home || "";
}

function side(value) {
  return h("span", {}, h("b", {}, value.datacenter || "unknown"), " ", h("code", {}, value.url || ""), value.credentials && h("span.hint", {}, ` as ${value.credentials}`));
}
