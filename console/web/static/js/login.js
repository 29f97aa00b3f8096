// The login: a token becomes a session.

import { login } from "./api.js";
import { h, text } from "./dom.js";

export function loginPage(done) {
  const problem = h("p.problem", { id: "login-problem", role: "alert" });
  const token = h("input", {
    id: "token", type: "password", name: "token", autocomplete: "current-password", required: true,
    "aria-describedby": "login-problem login-hint",
  });
  const button = h("button.primary", { type: "submit" }, "Log in");

  async function submit(event) {
    event.preventDefault();
    text(problem, "");
    if (!token.value) {
      text(problem, "Enter the token that you were given.");
      token.focus();
      return;
    }
    button.disabled = true;
    try {
      await login(token.value.trim());
      done();
    } catch (error) {
      token.setAttribute("aria-invalid", "true");
      text(problem, error.message);
      token.select();
      token.focus();
    } finally {
      button.disabled = false;
    }
  }

  const page = h("div.login", {},
    h("img", { src: "/static/icon.svg", alt: "", width: "48", height: "48" }),
    h("h1", {}, "redis-canal"),
    h("form.card", { onsubmit: submit, novalidate: true },
      h("p.field", {}, h("label", { for: "token" }, "Token"), token),
      problem, button,
      h("p.hint", { id: "login-hint" }, "Tokens stand in console.yaml as digests. ",
        h("code", {}, "redis-canal console token"), " makes a new one.")));
  return { title: "Log in", element: page, focus: token };
}
