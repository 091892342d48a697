// Elements. What comes from users and models becomes text nodes here and is never parsed as HTML.

import { say } from "/ui/words.js";

/** An element. `on...` are listeners, `value`, `checked` and `disabled` properties, the rest attributes; strings among
 * the children become text. */
export function el(name, props = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "value" || key === "checked" || key === "disabled") node[key] = value;
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  fill(node, ...children);
  return node;
}

/** Replace what is in an element. */
export function fill(node, ...children) {
  node.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const button = (text, onclick, props = {}) => el("button", { type: "button", class: "zy-button", onclick, ...props }, text);

/** Seconds as 0:07, 12:34 or 1:02:03; with tenths where asked. */
export function clock(seconds, tenths = false) {
  const all = Math.max(0, tenths ? Math.round(seconds * 10) / 10 : Math.floor(seconds));
  const h = Math.floor(all / 3600);
  const m = Math.floor(all / 60) % 60;
  const s = tenths ? (all % 60).toFixed(1).padStart(4, "0") : String(Math.floor(all % 60)).padStart(2, "0");
  return h ? `${h}:${String(m).padStart(2, "0")}:${s}` : `${m}:${s}`;
}

/** How long a recording is, for lists: 1.9 s, 0:42, 1:02:03. */
export const length = (seconds) => (seconds < 10 ? `${seconds.toFixed(1)} s` : clock(Math.round(seconds)));

/** Bytes for people. */
export function bytes(count) {
  if (!count) return "0 B";
  const unit = Math.min(4, Math.floor(Math.log2(count) / 10));
  const value = count / 1024 ** unit;
  return `${value < 10 && unit ? value.toFixed(1) : Math.round(value)} ${["B", "KB", "MB", "GB", "TB"][unit]}`;
}

/** A moment in the time zone and manner of the reader. */
export function moment(iso, language) {
  return iso ? new Date(iso).toLocaleString(language === "zh" ? "zh-CN" : "en-GB", { dateStyle: "medium", timeStyle: "short" }) : "";
}

/** A coloured word for the state of a job. */
export const chip = (state, text) => el("span", { class: `zy-chip zy-${state}` }, text ?? say(`state_${state}`));

let corner = null;

/** A line in the corner for some seconds, with one thing to do about it if wanted. */
export function toast(text, { kind = "", action = null, onaction = null, seconds = 6 } = {}) {
  corner ??= document.body.appendChild(el("div", { class: "zy-toasts", role: "status", "aria-live": "polite" }));
  const line = el("div", { class: `zy-toast ${kind}` }, el("span", {}, text));
  if (action) line.append(button(action, () => { line.remove(); onaction(); }));
  line.append(button("✕", () => line.remove(), { "aria-label": say("close"), class: "zy-button zy-bare" }));
  corner.append(line);
  setTimeout(() => line.remove(), seconds * 1000);
}

export const fail = (error) => toast(error.message, { kind: "zy-bad", seconds: 12 });

/** Whether an element is on the screen (its tab is chosen). */
export const isShown = (node) => node.isConnected && node.offsetParent !== null;

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // the clipboard needs https; this does not
    const area = document.body.appendChild(el("textarea", { value: text }));
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  toast(say("copied"), { seconds: 2 });
}
