// Dead letters: which commands the target refused and why, and what to do about each.

import { get, isAdmin, request, taskPath as path } from "./api.js";
import { confirm, h, put, toast } from "./dom.js";
import { ago, count, plural, when } from "./format.js";
import { empty, notice } from "./widgets.js";

const DEEDS = {
  refetch: { label: "Fetch the key", done: "its key is fetched from the source" },
  retry: {
    label: "Send again", done: "it was applied",
    ask: { title: "Send it to the target again?", body: "Only right after the cause is mended, and if the key was not written since. Else fetch the key.", action: "Send again" },
  },
  acknowledge: {
    label: "Acknowledge", done: "it is acknowledged",
    ask: { title: "Acknowledge it?", body: "It was dealt with otherwise, or does not matter. The two sides may still differ in its key.", action: "Acknowledge" },
  },
};
const EVERY_MS = 10000; // letters are files on nodes: read again when their number changes, and now and then

export function letterPart(name, home) {
  const element = h("div");
  const jobs = new Map(); // id -> what was asked for
  let seen = "";
  let read = 0;

  async function load(task) {
    try {
      const found = await get(path(name, "/dead-letters", home));
      draw(task, found.dead_letters.filter((one) => !one.settled), found.trouble);
    } catch (error) {
      put(element, notice("bad", "They cannot be read", h("p", {}, error.message)));
    }
  }

  function draw(task, letters, trouble) {
    const held = trouble.map((line) => h("p.hint", {}, line));
    if (!letters.length) {
      put(element, empty("There are none.", h("p", {}, "Commands that the target refuses for good are kept here, with the reason.")), held);
      return;
    }
    put(element, h("p", {}, `${plural(letters.length, "command")} refused by the target and not dealt with.`), held,
      h("ul.log", { tabindex: "0", "aria-label": "Dead letters" }, letters.map((one) => line(task, one))));
  }

  function line(task, one) {
    const what = `${one.command} ${one.key ?? ""}`.trim();
    const deeds = Object.entries(DEEDS).filter(([deed]) => deed !== "retry" || task.state === "failed");
    return h("li", {}, h("time", { title: when(one.at) }, ago(one.at)),
      h("span", {}, h("code", {}, what), " ", one.error),
      h("span.hint", {}, `db ${one.db}, offset ${count(one.offset)}`),
      isAdmin() && h("div.deeds", {}, deeds.map(([deed, { label }]) =>
        h("button.small", { onclick: () => send(deed, one) }, label, h("span.sr", {}, `: ${what}`)))));
  }

  async function send(deed, one) {
    const { ask, done } = DEEDS[deed];
    if (ask && !(await confirm(ask))) return;
    try {
      const found = await request("POST", path(name, "/dead-letters", home), { action: deed, shard: one.shard, ids: [one.id] });
      jobs.set(found.job, `${one.command}: ${done}`);
    } catch (error) {
      toast(error.message, "bad");
    }
  }

  /** Tell what has become of what was asked for; true when something has. */
  function settled(all) {
    let any = false;
    for (const job of all) {
      if (!jobs.has(job.id) || !job.ended) continue;
      if (job.state === "succeeded") toast(jobs.get(job.id));
      else toast(job.error || `this job is ${job.state}`, "bad");
      jobs.delete(job.id);
      any = true;
    }
    return any;
  }

  return {
    element,
    update(task) {
      const now = `${task.dead_letters} ${task.state}`;
      if (!settled(task.jobs) && now === seen && Date.now() - read < EVERY_MS) return;
      seen = now;
      read = Date.now();
      load(task);
    },
  };
}
