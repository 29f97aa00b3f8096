// The shards of a task and the snapshot that is being applied.

import { h, put, text } from "./dom.js";
import { ago, bytes, count, duration, percent, plural } from "./format.js";
import { badge, meter, section, setBadge } from "./widgets.js";

const COLUMNS = [
  ["Shard", (x) => x.shard, "th"],
  ["Node", (x) => x.node || "none"],
  ["State", null],
  ["Lag", (x) => duration(x.lag_seconds), "num"],
  ["Behind", (x) => bytes(x.lag_bytes), "num"],
  ["Received", (x) => count(x.source_offset), "num"],
  ["On disk", (x) => count(x.journaled_offset), "num"],
  ["Applied", (x) => count(x.applied_offset), "num"],
  ["Journal", (x) => bytes(x.journal_bytes), "num"],
  ["Full syncs", (x) => count(x.full_resyncs), "num"],
  ["Epoch", (x) => count(x.epoch), "num"],
  ["Last applied", (x) => ago(x.last_applied)],
];

export function shardTable() {
  const rows = new Map();
  const body = h("tbody");
  const element = h("div.scroll", { tabindex: "0", role: "group", "aria-label": "Shards" }, h("table.shards", {},
    h("caption.sr", {}, "Shards with node, state and stream positions in bytes"),
    h("thead", {}, h("tr", {}, COLUMNS.map(([name, , kind]) => h(kind === "num" ? "th.num" : "th", { scope: "col" }, name)))), body));
  return {
    element,
    update(shards) {
      const names = shards.map((shard) => shard.shard).join(" ");
      if (body.dataset.shape !== names) {
        body.dataset.shape = names;
        rows.clear();
        for (const shard of shards) rows.set(shard.shard, row());
        put(body, shards.map((shard) => rows.get(shard.shard).element));
      }
      for (const shard of shards) rows.get(shard.shard).update(shard);
    },
  };
}

function row() {
  const state = badge("");
  const note = h("span.hint");
  const cells = COLUMNS.map(([name, , kind]) => {
    if (name === "State") return h("td.state", {}, state, " ", note);
    const cell = kind === "th" ? h("th", { scope: "row" }) : h(kind === "num" ? "td.num" : "td");
    cell.dataset.label = name;
    return cell;
  });
  return {
    element: h("tr", {}, cells),
    update(shard) {
      COLUMNS.forEach(([, read], index) => { if (read) text(cells[index], read(shard)); });
      setBadge(state, shard.state);
      text(note, shard.live ? "" : shard.node ? `as of ${ago(shard.updated)}` : "");
    },
  };
}

export function snapshotPart() {
  const bars = h("div");
  const element = section("Snapshot", bars);
  element.hidden = true;
  const known = new Map();
  return {
    element,
    update(shards) {
      const taken = shards.filter((shard) => shard.snapshot?.started);
      element.hidden = !taken.length;
      for (const shard of taken) {
        if (!known.has(shard.shard)) {
          const bar = meter(`Snapshot of shard ${shard.shard}`);
          const words = h("p.hint");
          known.set(shard.shard, { bar, words });
          bars.append(bar.element, words);
        }
        draw(known.get(shard.shard), shard.snapshot, taken.length > 1 ? `shard ${shard.shard}: ` : "");
      }
    },
  };
}

function draw({ bar, words }, progress, prefix) {
  const done = progress.finished > 0 && progress.finished >= progress.started;
  const byBytes = progress.bytes_total > 0;
  const total = byBytes ? progress.bytes_total : progress.keys_total;
  const now = byBytes ? progress.bytes_done : progress.keys_done;
  const fraction = done ? 1 : total ? Math.min(1, now / total) : null;
  bar.set(fraction, done ? "done" : percent(fraction));
  const parts = [plural(progress.keys_done, "key"), bytes(progress.bytes_done)];
  if (done) parts.push(`in ${duration(progress.finished - progress.started)}, ${ago(progress.finished)}`);
  if (progress.stale_deleted) parts.push(`${plural(progress.stale_deleted, "stale key")} deleted`);
  if (progress.stale_kept) parts.push(`${plural(progress.stale_kept, "stale key")} kept`);
  if (progress.keys_kept) parts.push(`${plural(progress.keys_kept, "key")} kept at the target`);
  text(words, prefix + parts.join(" · "));
}
