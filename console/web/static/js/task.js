// One task: figures, charts, shards, dead letters, history, configuration, and what can be done with it.

import { get, isAdmin, taskPath as path } from "./api.js";
import { actions } from "./actions.js";
import { lagChart, rateChart } from "./charts.js";
import { h, put, text } from "./dom.js";
import { ago, bytes, count, duration, plural, short, when } from "./format.js";
import { taskByName, watch, world } from "./live.js";
import { shardTable, snapshotPart } from "./shards.js";
import { badge, empty, notice, section, setBadge, tile, wish } from "./widgets.js";

const REFRESH = 2000;

export function taskPage(name) {
  const body = h("div", {}, h("p.loading", {}, `Reading task ${name} …`));
  const element = h("div", {}, h("p.crumbs", {}, h("a", { href: "#/" }, "Overview"), " / ", name), body);
  let parts = null;
  let closed = false;
  let timer = 0;

  async function refresh() {
    try {
      const found = await get(path(name));
      if (closed) return;
      if (parts === null) {
        parts = build(name);
        put(body, parts.element);
        get(path(name, "/history")).then((history) => parts?.history(history)).catch(() => {});
      }
      parts.detail(found);
    } catch (error) {
      if (closed) return;
      if (error.status === 404 || parts === null) {
        parts?.close();
        parts = null;
        put(body, error.status === 404
          ? empty(`There is no task ${name}.`, h("p", {}, "It may have been deleted. ", h("a", { href: "#/" }, "To the overview")))
          : notice("bad", `Task ${name} cannot be shown`, h("p", {}, error.message), h("p.hint", {}, "Trying again.")));
      }
    }
    if (!closed) timer = setTimeout(refresh, REFRESH);
  }

  const unwatch = watch(() => {
    const task = world.loaded && taskByName(name);
    if (task && parts) parts.live(task);
  });
  refresh();
  return { title: name, element, close() { closed = true; clearTimeout(timer); unwatch(); parts?.close(); } };
}

function build(name) {
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
  const buttons = actions(name);
  const charts = { lag: lagChart(), rate: rateChart() };
  const shards = shardTable();
  const snapshot = snapshotPart();
  const letters = h("div");
  const history = h("div");
  const config = h("pre", { tabindex: "0", "aria-label": "Specification as YAML" });
  let lettersSeen = -1;

  const element = h("div.task", {},
    h("div.title", {}, h("h1", {}, name), state, aim, buttons.element), route, trouble,
    h("dl.tiles", {}, Object.values(tiles).map((one) => one.element)),
    h("div.charts", {}, charts.lag.element, charts.rate.element),
    snapshot.element,
    section("Shards", shards.element),
    h("div.columns", {},
      section("Dead letters", letters),
      section("History", history),
      section("Conflicts", empty("No conflict is recorded.", h("p", {}, "Where both sides of a two-way task write the same key at the same time, it shows here which value stayed."))),
      section("Comparisons", empty("Nothing has been compared yet.", h("p", {}, h("code", {}, "redis-canal verify --source URL --target URL"), " compares both servers by content.")))),
    section("Configuration", isAdmin() && h("a.button", { href: `#/tasks/${encodeURIComponent(name)}/edit` }, "Edit"), config));

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
      task.two_way && h("span.hint", {}, " two-way with ", h("a", { href: `#/tasks/${encodeURIComponent(task.two_way)}` }, task.two_way)));
    put(trouble, task.error && notice("bad", task.state === "failed" ? "This task stands still" : "Trouble", h("p", {}, task.error)),
      !task.live && task.desired !== "stopped" && !task.nodes.length && notice("info", "No node runs it", h("p", {}, "It waits for a node with room at ", h("b", {}, task.source.datacenter || "its source"), ".")));
    shards.update(task.shard_list);
    snapshot.update(task.shard_list);
    text(config, task.yaml);
    put(history, task.events.length
      ? h("ul.log", { tabindex: "0", "aria-label": "History" }, task.events.slice(0, 50).map((event) => h("li", {}, h("time", { title: when(event.at) }, ago(event.at)), h("span", {}, event.what), h("span.hint", {}, event.by))))
      : empty("Nothing has happened yet."));
    if (task.dead_letters !== lettersSeen) {
      lettersSeen = task.dead_letters;
      loadLetters(name, task.dead_letters, letters);
    }
  }

  return {
    element, live, detail,
    history(found) { charts.lag.load(found); charts.rate.load(found); },
    close() { charts.lag.close(); charts.rate.close(); },
  };
}

function side(value) {
  return h("span", {}, h("b", {}, value.datacenter || "unknown"), " ", h("code", {}, value.url || ""), value.credentials && h("span.hint", {}, ` as ${value.credentials}`));
}

async function loadLetters(name, number, letters) {
  if (!number) {
    put(letters, empty("There are none.", h("p", {}, "Commands that the target refuses for good are kept here, with the reason.")));
    return;
  }
  try {
    const found = await get(path(name, "/dead-letters"));
    put(letters, h("p", {}, `Refused by the target since this worker started: ${plural(number, "command")}.`),
      found.trouble.map((line) => h("p.hint", {}, line)),
      h("ul.log", { tabindex: "0", "aria-label": "Dead letters" }, found.dead_letters.map((one) => h("li", {}, h("time", { title: when(one.at) }, ago(one.at)),
        h("span", {}, h("code", {}, `${one.command} ${one.key ?? ""}`.trim()), " ", one.error), h("span.hint", {}, `db ${one.db}, offset ${count(one.offset)}`)))));
  } catch (error) {
    put(letters, notice("bad", "They cannot be read", h("p", {}, error.message)));
  }
}

