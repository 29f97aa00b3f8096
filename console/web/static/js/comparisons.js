// Comparisons and repairs of a task: jobs of its nodes, newest first.

import { isAdmin, request, taskPath as path } from "./api.js";
import { h, put, toast } from "./dom.js";
import { ago, count, when } from "./format.js";
import { badge, empty, setBadge } from "./widgets.js";

const KINDS = { verify: "comparison", repair: "repair", resync: "full resync" };
const LISTED = 20; // differences

export function comparisonPart(name, home) {
  const element = h("div");
  let shown = "";

  async function cancel(job) {
    try {
      await request("DELETE", path(name, `/jobs/${encodeURIComponent(job.id)}`, home));
      toast(`the ${KINDS[job.kind]} is asked to end`);
    } catch (error) {
      toast(error.message, "bad");
    }
  }

  function line(job) {
    const state = badge("");
    setBadge(state, job.state);
    const differences = (job.result?.differences || []).slice(0, LISTED);
    return h("li", {}, h("time", { title: when(job.created) }, ago(job.created)),
      h("span", {}, KINDS[job.kind], " ", state, " ", h("span.words", {}, words(job))),
      h("span.hint", {}, [`shard ${job.shard}`, job.node && `on ${job.node}`, job.by && `by ${job.by}`].filter(Boolean).join(", ")),
      differences.length > 0 && h("details", {}, h("summary", {}, "Keys that differ"),
        h("ul", {}, differences.map((one) => h("li", {}, h("code", {}, typeof one === "string" ? one : `${one.kind} db ${one.db} ${one.key} ${one.detail || ""}`))))),
      isAdmin() && !job.ended && h("div.deeds", {}, h("button.small", { onclick: () => cancel(job) }, "Cancel", h("span.sr", {}, ` the ${KINDS[job.kind]}`))));
  }

  return {
    element,
    update(jobs) {
      const mine = jobs.filter((job) => job.kind in KINDS);
      const now = JSON.stringify(mine);
      if (now === shown) return;
      shown = now;
      put(element, mine.length
        ? h("ul.log", { tabindex: "0", "aria-label": "Comparisons" }, mine.map(line))
        : empty("Nothing has been compared yet.", h("p", {}, "Compare looks at every key of both sides, while writes go on; Repair mends what differs.")));
    },
  };
}

function words(job) {
  const result = job.result || {};
  if (job.error) return job.error;
  if (!job.ended) return job.progress;
  if (typeof result.equal === "boolean") {
    const compared = result.keys === undefined ? "" : `${count(result.keys)} keys compared, `;
    return result.equal ? `${compared}no difference` : `${compared}${count(result.different ?? result.differences?.length)} differ`;
  }
  return job.progress;
}
