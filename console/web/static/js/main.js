// The frame: session, header, and which page is shown. Pages return { title, element, close?, focus? }.

import { get, isAdmin, logout, onLogout, resume, session } from "./api.js";
import { h, put, text, toast } from "./dom.js";
import { start, stop, watch, world } from "./live.js";
import { overviewPage } from "./overview.js";
import { empty, notice } from "./widgets.js";

const main = document.getElementById("main");
const top = document.getElementById("top");
let page = null;
let unwatch = null;

// What the overview does without is fetched when it is wanted, or once the first page stands.
const LATER = {
  task: () => import("./task.js"),
  nodes: () => import("./nodes.js"),
  create: () => import("./create.js"),
  edit: () => import("./edit.js"),
  login: () => import("./login.js"),
};
let asked = 0; // which page was wanted last: another one may still be on its way

const ROUTES = [
  [/^\/?$/, () => overviewPage()],
  [/^\/nodes$/, async () => (await LATER.nodes()).nodesPage()],
  [/^\/new$/, async () => (await LATER.create()).createPage()],
  [/^\/tasks\/([^/@]+)(?:@([^/]+))?$/, async (name, home) => (await LATER.task()).taskPage(name, home)],
  [/^\/tasks\/([^/@]+)(?:@([^/]+))?\/edit$/, async (name, home) => (await LATER.edit()).editPage(name, home)],
];

function show(next) {
  page?.close?.();
  page = next;
  document.title = `${next.title} · redis-canal`;
  put(main, next.element);
  window.scrollTo(0, 0);
  (next.focus || main).focus({ preventScroll: true });
}

/** Show a page, or what it is the promise of; a later one overtakes it. */
async function open(made) {
  const mine = ++asked;
  try {
    const next = await made;
    if (mine === asked) show(next);
    else next.close?.();
  } catch (error) {
    if (mine !== asked) return;
    const again = h("button", { onclick: () => location.reload() }, "Load again");
    show({ title: "Not loaded", element: notice("bad", "This page cannot be loaded", h("p", {}, error.message), h("p", {}, again)) });
  }
}

function route() {
  const path = decodeURIComponent(location.hash.slice(1));
  for (const link of top.querySelectorAll("nav a")) {
    const mine = link.getAttribute("href").slice(1) === (path || "/");
    if (mine) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  for (const [pattern, make] of ROUTES) {
    const match = pattern.exec(path);
    if (match) return open(make(...match.slice(1)));
  }
  return open({ title: "Not found", element: empty("There is no such page.", h("p", {}, h("a", { href: "#/" }, "To the overview"))) });
}

function header() {
  const light = h("span.mark", { "aria-hidden": "true" });
  const words = h("span");
  const live = h("span.live", { role: "status" }, light, words);
  unwatch?.();
  unwatch = watch(() => {
    text(light, world.connected ? "●" : "▲");
    text(words, world.connected ? "live" : world.lost ? "connection lost, trying again" : "connecting");
    live.className = `live ${world.connected ? "good" : "bad"}`;
  });
  async function leave() {
    try {
      await logout();
    } catch (error) {
      toast(error.message, "bad");
      return;
    }
    toLogin();
  }
  put(top,
    h("a.brand", { href: "#/" }, h("img", { src: "/static/icon.svg", alt: "", width: "24", height: "24" }), "redis-canal"),
    h("nav", { "aria-label": "Pages" },
      h("a", { href: "#/" }, "Overview"), h("a", { href: "#/nodes" }, "Nodes"),
      isAdmin() && h("a", { href: "#/new" }, "New task")),
    live,
    h("span.who", {}, session.name, session.role === "read-only" && h("span.hint", {}, " (read-only)")),
    !session.open && h("button.quiet", { onclick: leave }, "Log out"));
  top.hidden = false;
}

function toLogin() {
  stop();
  page?.close?.();
  top.hidden = true;
  open(LATER.login().then(({ loginPage }) => loginPage(enter)));
}

function enter(world = null) {
  header();
  start(world);
  route();
}

window.addEventListener("hashchange", () => { if (!top.hidden) route(); });
onLogout(() => { if (!top.hidden) { toast("The session has ended. Log in again.", "bad"); toLogin(); } });

/** The event stream cannot tell why it was refused: ask. */
watch(() => {
  if (!world.lost || top.hidden) return;
  resume().then((here) => here || toLogin()).catch(() => {});
});

try {
  const block = document.getElementById("known");
  const known = block && JSON.parse(block.textContent);
  if (known) Object.assign(session, known.session);
  if (known || (await resume())) enter(known?.world);
  else toLogin();
  setTimeout(() => Object.values(LATER).forEach((load) => load().catch(() => {})), 3000);
} catch (error) {
  put(main, notice("bad", "The console cannot be used", h("p", {}, error.message)));
}
