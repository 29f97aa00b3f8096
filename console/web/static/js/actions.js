// What can be done with a task. Everything that interrupts or destroys is asked about first.

import { isAdmin, request, taskPath as path } from "./api.js";
import { confirm, h, toast } from "./dom.js";

const ACTIONS = [
  { name: "start", label: "Start", when: (t) => t.desired === "stopped" || t.state === "failed", primary: true, done: "is to run" },
  { name: "resume", label: "Resume", when: (t) => t.desired === "paused", primary: true, done: "goes on" },
  {
    name: "pause", label: "Pause", when: (t) => t.desired === "running", done: "is to pause",
    ask: (n) => ({ title: `Pause ${n}?`, body: "Its target gets nothing new until you resume. The source is still followed, into the journal on disk.", action: "Pause" }),
  },
  {
    name: "stop", label: "Stop", when: (t) => t.desired !== "stopped", done: "is to stop",
    ask: (n) => ({ title: `Stop ${n}?`, body: "Nothing is captured any more. When it is started again, it goes on where it was only if the source's backlog still reaches back to there; else it needs a full resync.", action: "Stop" }),
  },
  {
    name: "resync", label: "Resync", method: "POST", when: (t) => t.desired === "running", done: "is asked for a new snapshot",
    ask: (n) => ({ title: `Full resync of ${n}?`, body: "A new snapshot of the whole source is applied to the target. That loads both servers and the line between them.", action: "Resync", danger: true }),
  },
  { name: "verify", label: "Compare", method: "POST", body: {}, when: (t) => t.desired !== "stopped", done: "is compared: see its jobs" },
  {
    name: "verify", label: "Repair", method: "POST", body: { repair: true }, when: (t) => t.desired !== "stopped", done: "is compared and repaired: see its jobs",
    ask: (n) => ({ title: `Compare and repair ${n}?`, body: "Keys that differ are written again in place where they are at home, or, where that is not permitted, put in place at the other side, while writes go on. No other key is touched.", action: "Repair", danger: true }),
  },
  {
    name: "delete", label: "Delete", method: "DELETE", when: () => true, danger: true, done: "is deleted as soon as it has stopped",
    ask: (n) => ({ title: `Delete ${n}?`, body: "The task is stopped and forgotten with its positions and history. The data on both servers stays as it is.", action: "Delete", danger: true, type: n }),
  },
];

export function actions(name) {
  if (!isAdmin()) return { element: h("span.hint", {}, "You may look, not change."), update() {} };
  const buttons = ACTIONS.map((action) => {
    const kind = action.primary ? "button.primary" : action.danger ? "button.danger" : "button";
    return [action, h(kind, { hidden: true, onclick: () => run(name, action) }, action.label)];
  });
  return {
    element: h("div.actions", { role: "group", "aria-label": "Actions" }, buttons.map(([, button]) => button)),
    update(task) {
      for (const [action, button] of buttons) button.hidden = !action.when(task);
    },
  };
}

async function run(name, action) {
  if (action.ask && !(await confirm(action.ask(name)))) return;
  try {
    const rest = action.method === "DELETE" ? "" : `/${action.name}`;
    await request(action.method || "PUT", path(name, rest), action.body);
    toast(`${name} ${action.done}`);
    if (action.name === "delete") location.hash = "#/";
  } catch (error) {
    toast(error.message, "bad");
  }
}
