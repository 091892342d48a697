// What all tabs share: the settings that Gradio's form fields hold, Ctrl+Enter, who is signed in.

import { session } from "/ui/api.js";
import { el, fill, isShown } from "/ui/dom.js";
import { language, say } from "/ui/words.js";

/** The present values of a form ("recognise", "live", ...); the page keeps them in `window.zhiyin` (see ui_blocks.py). */
export const settings = (form) => window.zhiyin?.[form] ?? {};

/** Call `take(values)` whenever a field of the form changes. */
export function onSettings(form, take) {
  document.addEventListener(`zhiyin:${form}`, (event) => take(event.detail));
}

document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || document.querySelector("dialog[open]")) return;
  const start = [...document.querySelectorAll("[data-start]")].find((one) => isShown(one) && !one.disabled);
  if (!start) return;
  event.preventDefault();
  event.stopPropagation();  // or Gradio's checkboxes would take the Enter for themselves
  start.click();
}, { capture: true });

/** The line above the tabs. */
export async function mount(root) {
  const other = language === "zh" ? "en" : "zh";
  const who = el("span", { class: "zy-who" });
  const turn = el("a", { class: "zy-button zy-bare", href: `/ui/language/${other}`, lang: other, hreflang: other }, say("other_language"));
  const right = el("div", { class: "zy-top-right" }, who, turn);
  fill(root, el("header", { class: "zy-top" }, el("img", { src: "/ui/icon.svg", alt: "", width: 28, height: 28 }),
    el("h1", {}, say("brand")), el("p", { class: "zy-motto" }, say("motto")), right));
  const here = await session;
  who.textContent = here.name === "local" ? "" : here.name;
  if (here.can_sign_out) {
    right.append(el("form", { method: "post", action: "/logout" }, el("button", { class: "zy-button zy-bare", type: "submit" }, say("sign_out"))));
  }
}
