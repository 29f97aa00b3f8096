// A new task: a form, then the YAML that it makes, then the task.

import { isAdmin, request, taskHash } from "./api.js";
import { h, put, text, toast } from "./dom.js";
import { tasks, world } from "./live.js";
import { empty, notice } from "./widgets.js";

/** The message without the path that stands before it: the field says that already. */
function sentence(path, message) {
  if (message === `${path} is missing`) return "This is needed.";
  return message.startsWith(`${path}: `) ? message.slice(path.length + 2) : message;
}

// How a control's text becomes what a specification has; undefined: nothing was entered. What is no number stays a text,
// so that the models of the server say what is wrong with it.
const asNumber = (text) => (/^\d+$/.test(text) ? Number(text) : text);
const plain = (control) => control.value.trim() || undefined;
const words = (control) => plain(control)?.split(/[\s,]+/).filter(Boolean);
const numbers = (control) => words(control)?.map(asNumber);
const number = (control) => { const text = plain(control); return text === undefined ? text : asNumber(text); };
const checked = (control) => control.checked || undefined;
const pairs = (control) => {
  const all = words(control);
  return all && Object.fromEntries(all.map((pair) => { const [from, to = ""] = pair.split(":"); return [from, asNumber(to)]; }));
};

export function createPage() {
  if (!isAdmin()) return { title: "New task", element: empty("You may look, not create.") };
  const fields = new Map();
  const review = h("div", { "aria-live": "polite" });
  const general = h("div");
  const id = (path) => `f-${path.replace(/\W/g, "-")}`;

  function field(path, label, control, hint = "", read = plain) {
    const problem = h("span.problem", { id: `${id(path)}-problem` });
    control.id = id(path);
    control.setAttribute("aria-describedby", `${id(path)}-problem ${id(path)}-hint`);
    fields.set(path, { control, problem, read });
    if (control.type === "checkbox") {
      return h("div.check", {}, control, h("div", {}, h("label", { for: control.id }, label), h("span.hint", { id: `${id(path)}-hint` }, hint), problem));
    }
    return h("p.field", {}, h("label", { for: control.id }, label), control,
      h("span.hint", { id: `${id(path)}-hint` }, hint), problem);
  }
  const input = (props = {}) => h("input", { autocomplete: "off", spellcheck: "false", autocapitalize: "off", ...props });
  const select = (...choices) => h("select", {}, choices.map(([value, said]) => h("option", { value }, said)));
  const value = (path) => fields.get(path).control.value.trim();

  const datacenters = h("datalist", { id: "datacenters" }, [...world.datacenters.keys()].map((name) => h("option", { value: name })));
  const side = (name, title, hint) => h("fieldset", {}, h("legend", {}, title),
    field(`${name}.datacenter`, "Datacenter", input({ list: "datacenters" }), hint),
    field(`${name}.url`, "Server", input({ placeholder: "redis://10.0.0.1:6379", inputmode: "url" }), "redis://, unix://, redis+sentinel:// or redis+cluster://; rediss… for TLS. No user, no password."),
    field(`${name}.credentials`, "Credentials", input(), "The name of an entry under credentials: in every node's node.yaml. Empty: none."),
    tester(name));

  function tester(name) {
    const said = h("div", { role: "status" });
    const button = h("button", { type: "button", onclick: async () => {
      button.disabled = true;
      put(said, h("p.hint", {}, "Connecting …"));
      try {
        const found = await request("POST", "/connections/test", { url: value(`${name}.url`), credentials: value(`${name}.credentials`) || null });
        put(said, notice(found.ok === false ? "bad" : found.ok ? "good" : "info", found.message, found.warnings.map((line) => h("p", {}, line))));
      } catch (error) {
        put(said, notice("bad", error.message));
      }
      button.disabled = false;
    } }, "Test connection", h("span.sr", {}, ` to the ${name}`));
    return h("div", {}, button, said);
  }

  const checkbox = () => h("input", { type: "checkbox" });
  const selection = (path, title, hint) => h("fieldset.inner", {}, h("legend", {}, title), h("p.hint", {}, hint),
    field(`${path}.keys`, "Keys", input({ placeholder: "user:*, prefix:cart:, regex:^s[0-9]+$" }), "Patterns, separated by commas or blanks: a glob, prefix:TEXT or regex:EXPRESSION.", words),
    field(`${path}.databases`, "Databases", input({ inputmode: "numeric", placeholder: "0, 1" }), "", numbers),
    field(`${path}.types`, "Types", input({ placeholder: "string, hash" }), "string, list, set, zset, hash, stream, module.", words),
    field(`${path}.commands`, "Commands", input({ placeholder: "publish" }), "", words));

  const twoWay = h("input", { type: "checkbox", id: "two-way", onchange: () => { peer.hidden = !twoWay.checked; } });
  const peer = h("div", { hidden: true },
    field("two_way.peer", "Task of the other direction", input({ list: "tasknames" }), "It is created like this one, with both sides exchanged."),
    field("two_way.home", "Whose value wins", input({ placeholder: "hash" }), "hash: by the key, the same on both sides; or the name of a datacenter."),
    field("snapshot.existing", "Keys that both sides have at the first snapshot", select(["", "that of the key's home stays"], ["target", "the target's stays"], ["source", "the source's stays"])),
    field("two_way.flush", "FLUSHALL and FLUSHDB", select(["", "choose by the peer's state"], ["replay", "repeat at the other side"], ["drop", "leave out"], ["stop", "stop the task"])),
    field("two_way.accept_evictions", "Link servers that evict keys all the same: evicted keys go on both sides", checkbox(), "", checked));

  function spec() {
    const made = { source: {}, target: {} };
    for (const [path, { control, read }] of fields) {
      const ofPair = path.startsWith("two_way.") || path === "snapshot.existing";
      const given = ofPair && !twoWay.checked ? undefined : read(control);
      if (given === undefined) continue;
      const names = path.split(".");
      const last = names.pop();
      let place = made;
      for (const name of names) place = place[name] ??= {};
      place[last] = given;
    }
    if (twoWay.checked) made.two_way ??= {};
    return made;
  }

  function showProblems(error) {
    for (const { control, problem } of fields.values()) {
      control.removeAttribute("aria-invalid");
      text(problem, "");
    }
    const rest = [];
    let first = null;
    for (const { path: whole, message } of error?.problems || []) {
      const path = whole.replace(/\[\d+\]/g, ""); // of a list's item: the field of the list
      const found = [...fields.keys()].filter((name) => name === path || name.startsWith(`${path}.`) || path.startsWith(`${name}.`));
      if (!path || !found.length) { rest.push(message); continue; }
      for (const name of found) {
        const { control, problem } = fields.get(name);
        control.setAttribute("aria-invalid", "true");
        control.closest("details")?.setAttribute("open", "");
        text(problem, sentence(whole, message));
        first ??= control;
      }
    }
    if (error && !error.problems.length) rest.push(error.message);
    put(general, rest.length ? notice("bad", "This cannot be created", rest.map((line) => h("p", {}, line))) : null);
    first?.focus();
  }

  async function check(event) {
    event.preventDefault();
    const made = spec();
    try {
      const found = await request("POST", "/tasks/preview", { spec: made });
      showProblems(null);
      put(review, reviewPart(made, found));
      review.querySelector("h2").focus();
      review.scrollIntoView({ block: "nearest" });
    } catch (error) {
      put(review);
      showProblems(error);
    }
  }

  function reviewPart(made, found) {
    const create = (start) => async () => {
      try {
        const done = await request("POST", "/tasks", { spec: made, start });
        toast(`task ${made.task} is created${start ? ", to run" : ""}`);
        done.notes.forEach((line) => toast(line));
        location.hash = taskHash(made.task, made.source.datacenter);
      } catch (error) {
        showProblems(error);
        general.scrollIntoView({ block: "center" });
      }
    };
    return h("section.card", {}, h("h2", { tabindex: "-1" }, "This is what will be created"),
      h("pre", { tabindex: "0", "aria-label": "Task as YAML" }, found.yaml),
      found.warnings.length > 0 && notice("info", "Before you go on", h("ul", {}, found.warnings.map((line) => h("li", {}, line)))),
      h("div.actions", {}, h("button", { type: "button", onclick: create(false) }, "Create"),
        h("button.primary", { type: "button", onclick: create(true) }, "Create and start")));
  }

  const form = h("form.task-form", { onsubmit: check, novalidate: true, oninput: () => put(review) },
    datacenters, h("datalist", { id: "tasknames" }, tasks().map((task) => h("option", { value: task.task }))),
    general,
    field("task", "Name", input({ required: true }), "Letters, digits, '-', '_' and '.'; for example sh-bj."),
    h("div.pair", {}, side("source", "Source", "Where the writes come from. The task runs on nodes there."), side("target", "Target", "Where they go.")),
    h("fieldset", {}, h("legend", {}, "How"),
      h("p.check", {}, twoWay, h("label", { for: "two-way" }, "Two-way: the target writes too, and its writes come back")), peer,
      field("snapshot.stale_keys", "Keys that only the target has", select(["", "stop at a target with data"], ["delete", "delete them"], ["keep", "keep them"]), "Looked at when the first snapshot is applied."),
      field("on_error", "A command that the target refuses for good", select(["", "stop the task"], ["continue", "keep it as a dead letter and go on"])),
      h("details", {}, h("summary", {}, "More"),
        field("snapshot.mode", "Snapshot", select(["", "when needed"], ["always", "at every start"], ["never", "never"])),
        field("writer", "Writer", select(["", "choose by itself"], ["gated", "gated"], ["guarded", "guarded"])),
        field("batch_commands", "Commands in one transaction", input({ inputmode: "numeric", placeholder: "1000" }), "", number)),
      h("details", {}, h("summary", {}, "Filters: what is carried"),
        selection("filter.include", "Carry only", "Nothing named: everything."),
        selection("filter.exclude", "Leave out", "Of what is carried.")),
      h("details", {}, h("summary", {}, "Names at the target"),
        field("map.databases", "Databases", input({ placeholder: "1:2, 3:0" }), "Database of the source : database of the target.", pairs),
        field("map.remove_prefix", "Take this beginning from keys", input({ placeholder: "old:" }), "Only keys that begin with it are carried."),
        field("map.add_prefix", "Put this before keys", input({ placeholder: "new:" })))),
    h("div.actions", {}, h("a.button", { href: "#/" }, "Cancel"), h("button.primary", { type: "submit" }, "Review")));
  return { title: "New task", element: h("div.narrow-page", {}, h("h1", {}, "New task"), form, review) };
}
