// The frame: session, header, and which page is shown. Pages return { title, element, close?, focus? }.

import { get, isAdmin, logout, onLogout, resume, session } from "./api.js";
import { createPage } from "./create.js";
import { h, put, text, toast } from "./dom.js";
import { editPage } from "./edit.js";
import { start, stop, watch, world } from "./live.js";
import { loginPage } from "./login.js";
import { nodesPage } from "./nodes.js";
import { overviewPage } from "./overview.js";
import { taskPage } from "./task.js";
import { empty, notice } from "./widgets.js";

const main = document.getElementById("main");
const top = document.getElementById("top");
let page = null;
let unwatch = null;

const ROUTES = [
  [/^\/?$/, () => overviewPage()],
  [/^\/nodes$/, () => nodesPage()],
  [/^\/new$/, () => createPage()],
  [/^\/tasks\/([^/@]+)(?:@([^/]+))?$/, (name, home) => taskPage(name, home)],
  [/^\/tasks\/([^/@]+)(?:@([^/]+))?\/edit$/, (name, home) => editPage(name, home)],
];

function show(next) {
  page?.close?.();
  page = next;
  document.title = `${next.title} · redis-canal`;
  put(main, next.element);
  window.scrollTo(0, 0);
  (next.focus || main).focus({ preventScroll: true });
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
    if (match) return show(make(...match.slice(1)));
  }
  return show({ title: "Not found", element: empty("There is no such page.", h("p", {}, h("a", { href: "#/" }, "To the overview"))) });
}

function header() {
  const light = h("span.mark", { "aria-hidden": "true" });
  const words = h("span");
  const live = h("span.live", { role: "status" }, light, words);
  unwatch?.();
  unwatch = watch(() => {
    text(light, world.connected ? "●" : "▲");
    text(words, world.connected ? "live" : world.loaded ? "connection lost, trying again" : "connecting");
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
  show(loginPage(enter));
}

function enter() {
  header();
  start();
  route();
}

window.addEventListener("hashchange", () => { if (!top.hidden) route(); });
onLogout(() => { if (!top.hidden) { toast("The session has ended. Log in again.", "bad"); toLogin(); } });

/** The event stream cannot tell why it was refused: ask. */
watch(() => {
  if (!world.loaded || world.connected || top.hidden) return;
  resume().then((here) => here || toLogin()).catch(() => {});
});

try {
  if (await resume()) enter();
  else toLogin();
} catch (error) {
  put(main, notice("bad", "The console cannot be used", h("p", {}, error.message)));
}
