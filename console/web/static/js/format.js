// Numbers, sizes and times for people. What is unknown is "–", never "undefined" or "NaN".

export const UNKNOWN = "–";
const known = (value) => typeof value === "number" && Number.isFinite(value);

/** Whole numbers with thin spaces between thousands. */
export function count(value) {
  return known(value) ? Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, "\u2009") : UNKNOWN;
}

/** 1.2 k, 34 M … */
export function short(value) {
  if (!known(value)) return UNKNOWN;
  const units = ["", "k", "M", "G", "T"];
  let index = 0;
  while (Math.abs(value) >= 1000 && index < units.length - 1) { value /= 1000; index += 1; }
  const digits = index === 0 ? (value < 10 && value % 1 ? 1 : 0) : value < 10 ? 1 : 0;
  return `${value.toFixed(digits)}${index ? `\u202f${units[index]}` : ""}`;
}

export function bytes(value) {
  if (!known(value)) return UNKNOWN;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let index = 0;
  while (Math.abs(value) >= 1024 && index < units.length - 1) { value /= 1024; index += 1; }
  return `${value.toFixed(index && value < 10 ? 1 : 0)}\u202f${units[index]}`;
}

/** Seconds as 0 ms, 12 ms, 3.4 s, 5 min 20 s, 2 h 5 min, 3 d 4 h. */
export function duration(seconds) {
  if (!known(seconds)) return UNKNOWN;
  if (seconds === 0) return "0\u202fms";
  if (seconds < 0.001) return "<1\u202fms";
  if (seconds < 1) return `${Math.round(seconds * 1000)}\u202fms`;
  if (seconds < 60) return `${seconds.toFixed(1)}\u202fs`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)}\u202fmin ${whole % 60}\u202fs`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}\u202fh ${Math.floor((whole % 3600) / 60)}\u202fmin`;
  return `${Math.floor(whole / 86400)}\u202fd ${Math.floor((whole % 86400) / 3600)}\u202fh`;
}

/** Unix seconds as "12 s ago". */
export function ago(seconds) {
  if (!known(seconds) || seconds <= 0) return UNKNOWN;
  const age = Date.now() / 1000 - seconds;
  return age < 1 ? "now" : `${duration(Math.floor(age)).replace(".0", "")} ago`;
}

/** Unix seconds as local date and time. */
export function when(seconds) {
  if (!known(seconds) || seconds <= 0) return UNKNOWN;
  const at = new Date(seconds * 1000);
  const two = (number) => String(number).padStart(2, "0");
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ` +
    `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

export function percent(fraction) {
  return known(fraction) ? `${Math.floor(fraction * 100)}\u202f%` : UNKNOWN;
}

export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}
