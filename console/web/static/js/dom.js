// Elements, dialogs and notes. Text always becomes a text node: nothing that a server sent is read as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** h("a.button", {href, onclick}, "text", child …): an element; null and false children are left out. */
export function h(spec, props = {}, ...children) {
  const [tag, ...classes] = spec.split(".");
  return fill(document.createElement(tag || "div"), classes, props, children);
}

/** The same for SVG. */
export function s(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), [], props, children);
}

function fill(element, classes, props, children) {
  if (classes.length) element.classList.add(...classes);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (element.namespaceURI !== SVG && name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Set the text of an element when it differs, so that a selection or a screen reader is not disturbed. */
export function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
  return element;
}

/** Replace the children of an element. */
export function put(element, ...children) {
  element.replaceChildren(...children.flat(3).filter(Boolean));
  return element;
}

/** A short note at the edge of the page, read out by screen readers. */
export function toast(message, kind = "good") {
  const note = h(`p.toast.${kind}`, {}, h("span.mark", { "aria-hidden": "true" }, kind === "bad" ? "▲" : "✓"), message);
  document.getElementById("toasts").append(note);
  setTimeout(() => note.remove(), kind === "bad" ? 12000 : 4000);
}

let dialogs = 0;

/**
 * Ask before something is done. Resolves to null (no), or to what was entered in `fields` by name: each has name, label,
 * hint and kind ("check", "number" or "text") with its value. `type` has to be typed in before it can be done.
 */
export function ask({ title, body = [], action, danger = false, type = "", fields = [] }) {
  return new Promise((resolve) => {
    const id = `dialog-${++dialogs}`;
    const go = h(`button.${danger ? "danger" : "primary"}`, { value: "go", disabled: Boolean(type) }, action);
    const typed = type && h("input", {
      autocomplete: "off", spellcheck: "false", id: `${id}-typed`,
      oninput: (event) => { go.disabled = event.target.value !== type; },
    });
    const entries = fields.map((field) => entry(field, `${id}-${field.name}`));
    const dialog = h("dialog", { "aria-labelledby": id, onclose: () => {
      dialog.remove();
      const sure = dialog.returnValue === "go" && !go.disabled;
      resolve(sure ? Object.fromEntries(entries.map((one) => [one.name, one.value()])) : null);
    } },
      h("form", { method: "dialog" },
        h("h2", { id }, title),
        [].concat(body).map((line) => h("p", {}, line)),
        entries.map((one) => one.element),
        typed && h("p.field", {}, h("label", { for: `${id}-typed` }, "Type ", h("b", {}, type), " to go on"), typed),
        h("div.actions", {}, h("button", { value: "no", formnovalidate: true }, "Cancel"), go)));
    document.body.append(dialog);
    dialog.showModal();
    (typed || dialog.querySelector("input, button")).focus();
  });
}

function entry({ name, label, hint = "", kind = "text", value = "" }, id) {
  const more = hint && h("span.hint", { id: `${id}-hint` }, hint);
  const described = hint ? { "aria-describedby": `${id}-hint` } : {};
  if (kind === "check") {
    const box = h("input", { type: "checkbox", id, ...described });
    box.checked = Boolean(value);
    return { name, element: h("div.check", {}, box, h("div", {}, h("label", { for: id }, label), more)), value: () => box.checked };
  }
  const input = h("input", { id, type: kind, autocomplete: "off", spellcheck: "false", ...(kind === "number" ? { min: "0", step: "any" } : {}), ...described });
  input.value = value;
  return {
    name, element: h("p.field", {}, h("label", { for: id }, label), input, more),
    value: () => (kind === "number" ? Number(input.value || 0) : input.value.trim()),
  };
}

/** Ask for a yes or no. */
export async function confirm(question) {
  return (await ask(question)) !== null;
}
