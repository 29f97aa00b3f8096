// Changing a task: its YAML, checked, then written back under the version that was looked at.

import { get, isAdmin, request, taskHash, taskPath } from "./api.js";
import { confirm, h, put, toast } from "./dom.js";
import { empty, notice } from "./widgets.js";

export function editPage(name, home = "") {
  if (!isAdmin()) return { title: `Edit ${name}`, element: empty("You may look, not change.") };
  const here = taskHash(name, home);
  const body = h("div", {}, h("p.loading", {}, "Reading …"));
  const said = h("div", { role: "status" });

  async function load() {
    try {
      const task = await get(taskPath(name, "", home));
      put(body, form(task));
    } catch (error) {
      put(body, notice("bad", `Task ${name} cannot be read`, h("p", {}, error.message)));
    }
  }

  function form(task) {
    const area = h("textarea", { id: "yaml", rows: "18", spellcheck: "false", autocomplete: "off" });
    area.value = task.yaml;
    async function save(event) {
      event.preventDefault();
      try {
        const found = await request("POST", "/tasks/preview", { yaml: area.value });
        put(said, found.warnings.map((line) => notice("info", line)));
        const sure = await confirm({ title: `Change ${name}?`, body: ["Its workers start anew with this.", h("pre", {}, found.yaml)], action: "Change" });
        if (!sure) return;
        await request("PUT", taskPath(name, "", home), { yaml: area.value, version: task.version });
        toast(`${name} is changed`);
        location.hash = here;
      } catch (error) {
        const lines = error.problems?.length ? error.problems.map((one) => one.message) : [error.message];
        put(said, notice("bad", "This cannot be saved", lines.map((line) => h("p", {}, line))));
        area.focus();
      }
    }
    return h("form", { onsubmit: save },
      h("p.field", {}, h("label", { for: "yaml" }, "Specification"), area), said,
      h("div.actions", {}, h("a.button", { href: here }, "Cancel"), h("button.primary", { type: "submit" }, "Check and save")));
  }

  load();
  return {
    title: `Edit ${name}`,
    element: h("div.narrow-page", {}, h("p.crumbs", {}, h("a", { href: "#/" }, "Overview"), " / ", h("a", { href: here }, name), " / edit"),
      h("h1", {}, `Edit ${name}`), body),
  };
}
