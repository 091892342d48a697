// One recording, from a file or the microphone: what is asked of it, how far it is, what was understood.

import { call, follow, upload, wish } from "/ui/api.js";
import { button, clock, el, fail, fill } from "/ui/dom.js";
import { meter, openMicrophone, wavFile } from "/ui/capture.js";
import { settings } from "/ui/page.js";
import { dropZone } from "/ui/pick.js";
import { segmentRow, showResult } from "/ui/result.js";
import { say } from "/ui/words.js";

const chosen = { file: null, mode: "upload" };
let parts = {};
let work = null; // {abort, id} while a recording is on its way
let shown = null;

/** The field where a recording comes from. */
export function mountSource(root) {
  const record = el("button", { type: "button", class: "zy-button", onclick: startRecording }, el("span", { class: "zy-dot", "aria-hidden": "true" }), say("record"));
  const file = el("div", { class: "zy-file", hidden: true });
  const zone = dropZone({ title: say("drop"), hint: say("drop_hint"), onfiles: (files) => files[0] && choose(files[0], "upload") });
  parts = { ...parts, record, file, zone };
  fill(root, zone, el("div", { class: "zy-row" }, record), file);
}

/** The button that starts, and how far the work is. */
export function mountStart(root) {
  const start = button(say("start"), begin, { class: "zy-button zy-primary", "data-start": true, title: say("start_hint") });
  const cancel = button(say("cancel"), stop, { hidden: true });
  parts = { ...parts, start, cancel };
  fill(root, el("div", { class: "zy-row" }, start, cancel, el("kbd", { class: "zy-hint" }, say("start_hint"))));
}

/** Where the result is shown. */
export function mountResult(root) {
  const progress = el("div", { class: "zy-progress", role: "status", "aria-live": "polite" });
  const result = el("div", { class: "zy-result" }, el("p", { class: "zy-empty" }, say("nothing_yet")));
  parts = { ...parts, progress, result };
  fill(root, progress, result);
}

function choose(file, mode) {
  chosen.file = file;
  chosen.mode = mode;
  const player = el("audio", { controls: true, preload: "metadata", src: URL.createObjectURL(file) });
  const drop = () => { chosen.file = null; URL.revokeObjectURL(player.src); parts.file.hidden = true; };
  fill(parts.file, el("span", { class: "zy-name" }, file.name), button("✕", drop, { class: "zy-button zy-bare", "aria-label": say("remove") }), player);
  parts.file.hidden = false;
}

async function startRecording() {
  const blocks = [];
  const level = meter();
  const began = Date.now();
  const time = el("span", { class: "zy-time" }, clock(0));
  let microphone;
  try {
    microphone = await openMicrophone((samples, peak) => { blocks.push(samples); level.show(peak); time.textContent = clock((Date.now() - began) / 1000); });
  } catch (error) {
    return fail(error);
  }
  const end = button(say("record_stop"), () => {
    microphone.stop();
    line.replaceWith(parts.record);
    const name = `${new Date(began).toISOString().slice(0, 19).replace(/[-:]/g, "")}.wav`;
    choose(wavFile(blocks, microphone.sampleRateHz, name), "microphone");
    parts.start.focus();
  }, { class: "zy-button zy-danger" });
  const line = el("div", { class: "zy-row zy-grow", "aria-label": say("recording") }, end, level.root, time);
  parts.record.replaceWith(line);
  end.focus();
}

async function begin() {
  if (work) return;
  if (!chosen.file) return fail(new Error(say("no_file")));
  const abort = new AbortController();
  work = { abort, id: "" };
  busy(true);
  shown?.remove();
  const list = el("ol", { class: "zy-segments" });
  fill(parts.result, list);
  try {
    const fields = { ...wish(settings("recognise")), mode: chosen.mode };
    const sending = (part) => bar(say("sending"), part);
    sending(0);
    const job = await upload("/api/jobs", fields, chosen.file, { onprogress: sending, signal: abort.signal });
    work.id = job.id;
    bar(say("state_queued"));
    toResult();
    finish(await follow(job.id, (event) => step(event, list)));
  } catch (error) {
    if (error.name === "AbortError") fill(parts.result, el("p", { class: "zy-empty" }, say("cancelled_note")));
    else problem(error.message);
  } finally {
    work = null;
    busy(false);
    toResult();
  }
}

function step(event, list) {
  if (event.event === "state") bar(say(`state_${event.state}`));
  if (event.event === "progress" && event.duration_s) bar(`${say("state_running")} ${clock(event.until_s)} / ${clock(event.duration_s)}`, event.until_s / event.duration_s);
  if (event.event === "segment") list.append(segmentRow(event.segment, () => {}));
}

function finish(job) {
  if (job.state === "done") shown = showResult(parts.result, job);
  else if (job.state === "cancelled") fill(parts.result, el("p", { class: "zy-empty" }, say("cancelled_note")));
  else problem(job.error);
}

/** On narrow screens the result is below the form, out of sight. */
function toResult() {
  if (matchMedia("(max-width: 700px)").matches) parts.result.parentElement.scrollIntoView({ behavior: "smooth", block: "start" });
}

const problem = (message) => fill(parts.result, el("p", { class: "zy-problem", role: "alert" }, message));

function bar(text, part = null) {
  fill(parts.progress, el("span", {}, text), el("progress", part === null ? { "aria-label": text } : { max: 1, value: part, "aria-label": text }));
}

function busy(is) {
  parts.start.disabled = is;
  parts.cancel.hidden = !is;
  if (!is) fill(parts.progress);
}

function stop() {
  if (work?.id) call("POST", `/api/jobs/${work.id}/cancel`).catch(fail);
  else work?.abort.abort();
}
