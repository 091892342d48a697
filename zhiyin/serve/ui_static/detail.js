// One record of the history in a window of its own: everything that was kept of it, and the edit of its text.

import { call } from "/ui/api.js";
import { bytes, chip, el, fail, fill, button, moment, toast } from "/ui/dom.js";
import { showResult } from "/ui/result.js";
import { language, say } from "/ui/words.js";

/** Open a record. `onchange` is told when it was edited. */
export async function openDetail(id, { onchange = () => {}, ondelete = null } = {}) {
  let job;
  try {
    job = await call("GET", `/api/history/${id}`);
  } catch (error) {
    return fail(error);
  }
  const body = el("div", { class: "zy-result" });
  const dialog = el("dialog", { class: "zy-dialog", "aria-label": job.file_name || say("recording_name") });
  let shown = null;
  const close = () => dialog.close();
  const show = () => {
    shown?.remove();
    shown = null;
    if (job.state === "done") shown = showResult(body, job);
    else fill(body, el("h2", { class: "zy-name" }, job.file_name), el("p", {}, chip(job.state)), job.error ? el("p", { class: "zy-problem" }, job.error) : null);
    body.append(facts(job));
  };
  const save = async (edited) => {
    try {
      await call("PATCH", `/api/history/${job.id}`, { edited });
      job = await call("GET", `/api/history/${job.id}`);
    } catch (error) {
      return fail(error);
    }
    edit.close();
    show();
    onchange(job);
    toast(say("saved"), { seconds: 2 });
  };
  const edit = editor(job, save);
  const remove = ondelete && button(say("delete"), () => { close(); ondelete(job.id); }, { class: "zy-button zy-danger" });
  fill(dialog, el("div", { class: "zy-dialog-head" }, job.state === "done" ? edit.open : null, remove, button("✕", close, { class: "zy-button zy-bare zy-close", "aria-label": say("close") })), edit.root, body);
  dialog.addEventListener("close", () => { shown?.remove(); dialog.remove(); });
  dialog.addEventListener("click", (event) => event.target === dialog && close());
  place().append(dialog);
  dialog.showModal();
  show();
}

/** Dialogs live in an element of ours that is always there: inside of Gradio's, whose colours they use. */
const place = () => document.querySelector(".zy-top")?.parentElement ?? document.body;

function editor(job, save) {
  const area = el("textarea", { rows: 5, class: "zy-area", "aria-label": say("edit_title") });
  const root = el("section", { class: "zy-edit", hidden: true }, el("h3", {}, say("edit_title")), area,
    el("div", { class: "zy-row" }, button(say("save"), () => save(area.value), { class: "zy-button zy-primary" }),
      button(say("revert"), () => save(null)), button(say("cancel"), () => { root.hidden = true; }, { class: "zy-button zy-bare" })));
  area.addEventListener("keydown", (event) => { if (event.key === "Enter" && event.ctrlKey) save(area.value); });
  const open = button(say("edit"), () => {
    area.value = area.value || (job.edited ?? (job.written || job.text));
    root.hidden = false;
    area.focus();
  });
  return { root, open, close: () => { root.hidden = true; } };
}

function facts(job) {
  const rows = [
    [say("when"), moment(job.created_at, language)],
    [say("user"), job.user],
    [say("mode"), say(`mode_${job.mode}`)],
    [say("size"), job.bytes ? bytes(job.bytes) : ""],
    [say("language"), job.wish?.language],
    [say("instruction"), job.wish?.instruction],
    [say("hotwords"), (job.wish?.hotwords ?? []).join(" · ")],
    [say("model"), [job.model, job.model_hash?.slice(0, 12)].filter(Boolean).join(" · ")],
    [say("device"), [job.device, job.backend, job.precision].filter(Boolean).join(" · ")],
    [say("sha256"), job.sha256?.slice(0, 16)],
    ["ID", job.id],
  ].filter(([, value]) => value);
  return el("dl", { class: "zy-facts" }, ...rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}
