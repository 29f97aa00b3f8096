// What all pages show, kept up to date by server-sent events.

export const world = { datacenters: new Map(), tasks: new Map(), nodes: new Map(), connected: false, loaded: false, lost: false };

const KEYS = {
  datacenters: (item) => item.datacenter,
  tasks: (item) => item.uid,
  nodes: (item) => `${item.datacenter}/${item.node}`,
};
const listeners = new Set();
let source = null;

/** Call `listener` now and at every change; returns a function that ends it. */
export function watch(listener) {
  listeners.add(listener);
  listener();
  return () => listeners.delete(listener);
}

function tell() {
  for (const listener of [...listeners]) listener();
}

/** Follow the console; `known`: what the page came with, shown until the stream tells. */
export function start(known = null) {
  stop();
  if (known) take(known);
  source = new EventSource("/api/v1/events");
  source.addEventListener("all", (event) => {
    take(JSON.parse(event.data));
    connected(true);
  });
  source.addEventListener("changes", (event) => {
    const changes = JSON.parse(event.data);
    for (const [group, key] of Object.entries(KEYS)) {
      for (const item of changes[group] || []) world[group].set(key(item), item);
      for (const gone of changes[`removed_${group}`] || []) world[group].delete(gone);
    }
    connected(true);
  });
  source.onerror = () => connected(false);
}

function take(all) {
  for (const [group, key] of Object.entries(KEYS)) {
    world[group] = new Map((all[group] || []).map((item) => [key(item), item]));
  }
  world.loaded = true;
}

function connected(now) {
  world.connected = now;
  world.lost = !now;
  tell();
}

export function stop() {
  if (source) source.close();
  source = null;
}

/** Tasks by name, then datacenter. */
export function tasks() {
  return [...world.tasks.values()].sort((a, b) => a.task.localeCompare(b.task) || a.uid.localeCompare(b.uid));
}

export function tasksByName(name) {
  return tasks().filter((task) => task.task === name);
}

/** The task of that name that `home` keeps; without a home only where the name is enough. */
export function taskByName(name, home = "") {
  const found = tasksByName(name).filter((task) => !home || task.home === home);
  return found.length === 1 ? found[0] : null;
}
