// Conflicts of a two-way task: keys that both sides wrote at the same time.

import { h, put } from "./dom.js";
import { empty } from "./widgets.js";

export function conflictPart() {
  const element = h("div");
  let shown = null;
  return {
    element,
    update(task) {
      const now = Boolean(task.two_way);
      if (now === shown) return;
      shown = now;
      put(element, now
        ? empty("No conflict is recorded.", h("p", {}, "Where both sides write the same key at the same time, it shows here which value stayed."))
        : empty("There can be none.", h("p", {}, "Only one side writes: this task is not one of a two-way pair.")));
    },
  };
}
