// Requests to the console: the session, JSON in and out, errors with their problems.

export const session = { name: "", role: "", csrf: "", open: false, version: "" };

export class ApiError extends Error {
  constructor(status, body) {
    super(body?.error?.message || `the console answered with ${status}`);
    this.status = status;
    this.code = body?.error?.code || "";
    this.problems = body?.error?.problems || [];
  }
}

const listeners = new Set();
/** Call when the session has ended. */
export const onLogout = (listener) => listeners.add(listener);

export async function request(method, path, body, again = true) {
  const headers = { Accept: "application/json" };
  if (method !== "GET") headers["X-CSRF-Token"] = session.csrf || "";
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(`/api/v1${path}`, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new ApiError(0, { error: { message: "the console does not answer; it may have been stopped" } });
  }
  const found = await answer.json().catch(() => null);
  if (answer.ok) return found;
  const error = new ApiError(answer.status, found);
  if (error.code === "csrf" && again && session.open && (await resume())) {
    return request(method, path, body, false); // the console was started anew: its old sessions are worth nothing
  }
  if (answer.status === 401 && path !== "/session") for (const listener of listeners) listener();
  throw error;
}

export const get = (path) => request("GET", path);
export const isAdmin = () => session.role === "admin";
/** The API's path of a task; `home`: the datacenter that keeps it, since two of them may have tasks of one name. */
export const taskPath = (name, rest = "", home = "") =>
  `/tasks/${encodeURIComponent(name)}${rest}${home ? `?datacenter=${encodeURIComponent(home)}` : ""}`;
/** The page's address of a task. */
export const taskHash = (name, home = "", rest = "") =>
  `#/tasks/${encodeURIComponent(name)}${home ? `@${encodeURIComponent(home)}` : ""}${rest}`;

/** True when somebody is logged in (without tokens: always). */
export async function resume() {
  Object.assign(session, await get("/session"));
  return session.name !== "";
}

export async function login(token) {
  Object.assign(session, await request("POST", "/session", { token }));
}

export async function logout() {
  await request("DELETE", "/session");
  Object.assign(session, { name: "", role: "", csrf: "" });
}
