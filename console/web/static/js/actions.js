// What can be done with a task. Everything that interrupts or destroys is asked about first.

import { isAdmin, request, taskPath as path } from "./api.js";
import { ask, h, toast } from "./dom.js";

const TURN = [
  { name: "pause_writes", label: "Hold writes at the source until it is done", kind: "check", hint: "CLIENT PAUSE WRITE; needs Redis 6.2 or newer" },
  { name: "verify", label: "Compare both sides first", kind: "check", value: true },
  { name: "force", label: "The source is gone", kind: "check", hint: "goes on with what has arrived, and says what is lost" },
];

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
    name: "throttle", label: "Throttle", when: () => true, done: "has other limits",
    ask: (n, t) => ({
      title: `Limit the replay of ${n}?`, body: "It counts at once, without a new start. 0: no limit.", action: "Set limits",
      fields: [
        { name: "commands_per_second", label: "Commands a second", kind: "number", value: t.throttle.commands_per_second },
        { name: "bytes_per_second", label: "Bytes a second", kind: "number", value: t.throttle.bytes_per_second },
        { name: "latency_ms", label: "Slow down above this latency of the target, in ms", kind: "number", value: t.throttle.latency_ms },
      ],
    }),
  },
  {
    name: "promote", label: "Promote", method: "POST", when: (t) => t.state !== "created", done: "is being promoted: see below",
    ask: (n, t) => ({
      title: `Promote the target of ${n}?`, action: "Promote", danger: true, fields: TURN,
      body: `Everything that ${t.source.datacenter} has written is applied at ${t.target.datacenter}, both sides are compared, and the task is stopped${t.two_way ? " only by force, since it is one of a pair" : ""}. Stop the writers first, or hold their writes here.`,
    }),
  },
  {
    name: "reverse", label: "Reverse", method: "POST", when: (t) => !t.two_way && t.state !== "created", done: "is being turned round: see below",
    ask: (n, t) => ({
      title: `Reverse ${n}?`, action: "Reverse", danger: true,
      body: `The target at ${t.target.datacenter} is promoted as by Promote, then a task from there to ${t.source.datacenter} is created and started.`,
      fields: [...TURN, { name: "name", label: "Name of the new task", hint: `empty: ${t.target.datacenter}-${t.source.datacenter}` }],
    }),
  },
  {
    name: "delete", label: "Delete", method: "DELETE", when: () => true, danger: true, done: "is deleted as soon as it has stopped",
    ask: (n) => ({ title: `Delete ${n}?`, body: "The task is stopped and forgotten with its positions and history. The data on both servers stays as it is.", action: "Delete", danger: true, type: n }),
  },
];

export function actions(name, home) {
  if (!isAdmin()) return { element: h("span.hint", {}, "You may look, not change."), update() {} };
  let now = null;
  const buttons = ACTIONS.map((action) => {
    const kind = action.primary ? "button.primary" : action.danger ? "button.danger" : "button";
    return [action, h(kind, { hidden: true, onclick: () => run(name, home, action, now) }, action.label)];
  });
  return {
    element: h("div.actions", { role: "group", "aria-label": "Actions" }, buttons.map(([, button]) => button)),
    update(task) {
      now = task;
      for (const [action, button] of buttons) button.hidden = !action.when(task);
    },
  };
}

async function run(name, home, action, task) {
  const question = action.ask?.(name, task);
  const given = question ? await ask(question) : {};
  if (given === null) return;
  if (given.name === "") delete given.name;
  try {
    const rest = action.method === "DELETE" ? "" : `/${action.name}`;
    const body = question?.fields ? given : action.body;
    await request(action.method || "PUT", path(name, rest, home), body);
    toast(`${name} ${action.done}`);
    if (action.name === "delete") location.hash = "#/";
  } catch (error) {
    toast(error.message, "bad");
  }
}
