// Conflicts of a two-way task: keys that several datacenters wrote at the same time, and whose value stays.

import { get, taskPath as path } from "./api.js";
import { h, put } from "./dom.js";
import { ago, count, plural, when } from "./format.js";
import { empty, notice } from "./widgets.js";

export function conflictPart(name, home) {
  const element = h("div");
  let shown = "";

  async function load(task) {
    try {
      const found = await get(path(name, "/conflicts", home));
      put(element, found.conflicts.length ? list(task, found) : [none(task), trouble(found)]);
    } catch (error) {
      put(element, notice("bad", "They cannot be read", h("p", {}, error.message)));
    }
  }

  return {
    element,
    update(task) {
      const figures = [task.conflicts, task.conflicts_waiting, task.echoes, task.expiry_refused];
      const now = `${Boolean(task.two_way)} ${figures} ${task.nodes}`;
      if (now === shown) return;
      shown = now;
      if (task.two_way) load(task);
      else put(element, none(task));
    },
  };
}

function none(task) {
  return task.two_way
    ? empty("No conflict is recorded.", h("p", {}, "Where both sides write the same key at the same time, it shows here which value stayed."))
    : empty("There can be none.", h("p", {}, "Only one side writes: this task is not one of a two-way pair."));
}

const trouble = (found) => found.trouble.map((line) => h("p.hint", {}, line));

function list(task, found) {
  const waiting = task.conflicts_waiting ? `, ${count(task.conflicts_waiting)} not settled everywhere yet` : "";
  const echoes = task.echoes ? ` ${plural(task.echoes, "key")} echoed by their home.` : "";
  const kept = task.expiry_refused ? ` ${plural(task.expiry_refused, "delete")} of an expired key refused, since it lives on at the target.` : "";
  return [
    h("p", {}, `${plural(task.conflicts, "conflict")} since this worker started${waiting}.${echoes}${kept}`), trouble(found),
    h("ul.log", { tabindex: "0", "aria-label": "Conflicts" }, found.conflicts.map((one) => h("li", {},
      h("time", { title: when(one.at) }, ago(one.at)),
      h("span", {}, h("code", {}, one.key), " ", h("b", {}, one.winner), " stays"),
      h("span.hint", {}, `db ${one.db}, ${one.first?.dc || "–"} and ${one.second?.dc || "–"}`)))),
  ];
}
