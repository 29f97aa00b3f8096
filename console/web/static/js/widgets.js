// Small parts that several pages share.

import { h, s, put, text } from "./dom.js";

const STATES = {
  streaming: ["●", "good", "streaming"],
  snapshot: ["◐", "busy", "snapshot"],
  assigned: ["◌", "busy", "starting"],
  created: ["○", "idle", "created"],
  paused: ["❚❚", "idle", "paused"],
  stopped: ["■", "idle", "stopped"],
  failed: ["▲", "bad", "failed"],
  ready: ["●", "good", "ready"],
  draining: ["◑", "busy", "draining"],
  down: ["▲", "bad", "down"],
  unreachable: ["▲", "bad", "unreachable"],
  queued: ["○", "idle", "queued"],
  running: ["◐", "busy", "running"],
  succeeded: ["✓", "good", "done"],
  done: ["✓", "good", "done"],
  cancelled: ["■", "idle", "cancelled"],
  "timed-out": ["▲", "bad", "timed out"],
};

/** A state as symbol and word; colour only repeats it. */
export function badge(state) {
  const element = h("span.badge");
  setBadge(element, state);
  return element;
}

export function setBadge(element, state) {
  if (element.dataset.state === state) return;
  element.dataset.state = state;
  const [symbol, kind, word] = STATES[state] || ["○", "idle", state || "unknown"];
  element.className = `badge ${kind}`;
  put(element, h("span.mark", { "aria-hidden": "true" }, symbol), word);
}

/** Where a task wants to be, when it is not there yet. */
export function wish(task) {
  const reached = { running: ["streaming", "snapshot", "assigned"], paused: ["paused"], stopped: ["stopped", "created"] };
  if ((reached[task.desired] || []).includes(task.state) || task.state === "failed") return "";
  return task.desired === "running" ? "to run" : `to be ${task.desired}`;
}

/** A line of numbers, drawn small; null is a gap. */
export function spark(label) {
  const path = s("path", { class: "line" });
  const area = s("path", { class: "area" });
  const box = s("svg", { class: "spark", viewBox: "0 0 120 24", preserveAspectRatio: "none", role: "img" }, area, path);
  let shown = null;
  return {
    element: box,
    set(values) {
      if (values === shown) return;
      shown = values;
      box.setAttribute("aria-label", label(values));
      const numbers = values.filter((value) => value !== null);
      const top = Math.max(1, ...numbers);
      const step = 120 / Math.max(1, values.length - 1);
      let line = "";
      let open = false;
      values.forEach((value, index) => {
        if (value === null) { open = false; return; }
        line += `${open ? "L" : "M"}${(index * step).toFixed(1)} ${(22.5 - (value / top) * 20).toFixed(1)}`;
        open = true;
      });
      path.setAttribute("d", line);
      area.setAttribute("d", line && !values.includes(null) ? `${line}L120 24L0 24Z` : "");
    },
  };
}

/** A box that says what is wrong, or that there is nothing and what to do. */
export function notice(kind, title, ...more) {
  return h(`div.notice.${kind}`, { role: kind === "bad" ? "alert" : null },
    h("p", {}, h("span.mark", { "aria-hidden": "true" }, { bad: "▲", good: "✓" }[kind] || "i"), h("b", {}, title)), more);
}

export function empty(title, ...more) {
  return h("div.empty", {}, h("p", {}, h("b", {}, title)), more);
}

/** A bar for a fraction, or one that only moves when the end is not known. */
export function meter(label) {
  const bar = h("progress", { max: "100", "aria-label": label });
  const words = h("span.num");
  return {
    element: h("div.meter", {}, bar, words),
    set(fraction, said) {
      if (fraction === null || fraction === undefined) bar.removeAttribute("value");
      else bar.value = fraction * 100;
      text(words, said);
    },
  };
}

export function tile(label, hint = "") {
  const value = h("dd.num", {}, "–");
  const more = h("dd.more");
  const element = h("div.tile", { title: hint || null }, h("dt", {}, label), value, more);
  return {
    element,
    set(now, detail = "", kind = "") {
      text(value, now);
      text(more, detail);
      element.className = `tile ${kind}`.trim();
    },
  };
}

/** A heading with its content, as a region of the page; a link or button may stand beside the heading. */
export function section(title, ...content) {
  const id = `section-${title.toLowerCase().replace(/\W+/g, "-")}`;
  const beside = content[0]?.matches?.(".button") ? content.shift() : null;
  return h("section.card", { "aria-labelledby": id }, h("div.section-head", {}, h("h2", { id }, title), beside), content);
}
