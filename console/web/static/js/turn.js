// A promotion or reversal that this console carries out: its lines as they come, and how it ended.

import { h, put } from "./dom.js";
import { ago } from "./format.js";
import { badge, section, setBadge } from "./widgets.js";

export function turnPart() {
  const state = badge("");
  const words = h("span.hint");
  const lines = h("ol.lines", { tabindex: "0", "aria-label": "What was found on the way" });
  const element = section("Turn", h("p", {}, state, " ", words), h("div", { role: "log", "aria-label": "Turn" }, lines));
  element.hidden = true;
  let shown = "";
  return {
    element,
    update(turn) {
      element.hidden = !turn;
      if (!turn) return;
      const now = JSON.stringify([turn.started, turn.state, turn.lines.length]);
      if (now === shown) return;
      shown = now;
      setBadge(state, turn.state);
      put(words, `${turn.kind}, asked for by ${turn.by} ${ago(turn.started)}`);
      put(lines, turn.lines.map((line) => h("li", {}, line)), turn.error && h("li.problem", {}, turn.error));
    },
  };
}
