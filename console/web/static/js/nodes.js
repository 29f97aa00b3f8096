// Nodes: what they hold and use, and draining them.

import { isAdmin, request } from "./api.js";
import { confirm, h, put, text, toast } from "./dom.js";
import { ago, bytes, count } from "./format.js";
import { watch, world } from "./live.js";
import { badge, empty, setBadge } from "./widgets.js";

export function nodesPage() {
  const list = h("div");
  const rows = new Map();
  let shape = "";

  function draw() {
    if (!world.loaded) {
      put(list, h("p.loading", {}, "Reading the coordinators …"));
      return;
    }
    const nodes = [...world.nodes.values()].sort((a, b) => a.datacenter.localeCompare(b.datacenter) || a.node.localeCompare(b.node));
    const now = JSON.stringify(nodes.map((node) => [node.datacenter, node.node, node.draining]));
    if (now !== shape) {
      shape = now;
      rows.clear();
      for (const node of nodes) rows.set(`${node.datacenter}/${node.node}`, row(node));
      put(list, nodes.length ? table(nodes, rows) : empty("No node is alive.", h("p", {}, "Start one with ",
        h("code", {}, "redis-canal node start -c node.yaml"), "; it shows up here by itself.")));
    }
    for (const node of nodes) rows.get(`${node.datacenter}/${node.node}`).update(node);
  }

  const unwatch = watch(draw);
  return { title: "Nodes", element: h("div", {}, h("h1", {}, "Nodes"), list), close: unwatch };
}

function table(nodes, rows) {
  const heads = ["Node", "State", "Shards", "CPU", "Memory", "Version", "Started", ""];
  return h("table.nodes", {},
    h("caption.sr", {}, "Nodes with the shards they hold and what they use"),
    h("thead", {}, h("tr", {}, heads.map((name, index) => h(index >= 2 && index <= 4 ? "th.num" : "th", { scope: "col" },
      name || h("span.sr", {}, "Actions"))))),
    h("tbody", {}, nodes.map((node) => rows.get(`${node.datacenter}/${node.node}`).element)));
}

function row(node) {
  const state = badge(node.state);
  const trouble = h("span.hint");
  const labelled = (name) => { const cell = h("td.num"); cell.dataset.label = name; return cell; };
  const [shards, cpu, memory] = [labelled("Shards"), labelled("CPU"), labelled("Memory")];
  const since = h("td");
  since.dataset.label = "Started";
  const version = h("td", {}, node.version || "–");
  version.dataset.label = "Version";
  const element = h("tr", {},
    h("th", { scope: "row" }, node.node, h("span.hint", {}, ` ${node.datacenter}${node.host ? `, ${node.host}` : ""}`)),
    h("td.state", {}, state, " ", trouble), shards, cpu, memory, version, since,
    h("td.act", {}, isAdmin() && action(node)));
  return {
    element,
    update(now) {
      setBadge(state, now.state);
      text(trouble, now.trouble);
      text(shards, now.max_shards === null ? count(now.shards.length) : `${count(now.shards.length)} of ${count(now.max_shards)}`);
      shards.title = now.shards.join(", ");
      text(cpu, now.cpu === null ? "–" : `${(now.cpu * 100).toFixed(1)}\u202f%`);
      text(memory, bytes(now.memory_bytes));
      text(since, ago(now.started));
    },
  };
}

function action(node) {
  const path = `/nodes/${encodeURIComponent(node.node)}/drain?datacenter=${encodeURIComponent(node.datacenter)}`;
  async function drain() {
    const others = [...world.nodes.values()].filter((other) => other.datacenter === node.datacenter && other.node !== node.node && other.state === "ready");
    const sure = await confirm({
      title: `Drain ${node.node}?`,
      body: ["It hands its shards to the other nodes and takes none until you undo this.",
        others.length ? null : "No other node is ready: its shards stay there until one is."].filter(Boolean),
      action: "Drain",
    });
    if (sure) await send("PUT", `${node.node} is draining`);
  }
  async function send(method, said) {
    try {
      await request(method, path);
      toast(said);
    } catch (error) {
      toast(error.message, "bad");
    }
  }
  return node.draining
    ? h("button", { onclick: () => send("DELETE", `${node.node} takes shards again`) }, "Undo drain", h("span.sr", {}, ` of ${node.node}`))
    : h("button", { onclick: drain }, "Drain", h("span.sr", {}, ` ${node.node}`));
}
