// What was understood of one recording: text, labels, waveform with segments, notes, downloads.

import { call, session } from "/ui/api.js";
import { button, clock, copy, el, fail, fill, length } from "/ui/dom.js";
import { labelName, language, say } from "/ui/words.js";
import { Wave } from "/ui/wave.js";

const FORMATS = ["txt", "srt", "vtt", "json"];
let tasks = {};
session.then((here) => { tasks = here.tasks ?? {}; });

export const taskName = (id) => tasks[id]?.[language] ?? id;

/** `{sgc: "female"}` as small marks. */
export function labels(found) {
  return Object.entries(found ?? {}).map(([task, label]) =>
    el("span", { class: "zy-label", title: `${task}=${label}` }, el("span", { class: "zy-label-task" }, taskName(task)), labelName(label)));
}

/** One line of a segment: when, what, labels; a click plays it. */
export function segmentRow(segment, onclick) {
  const times = { from: clock(segment.start_s, true), to: clock(segment.end_s, true) };
  const rest = [segment.answer, segment.translation].filter(Boolean).map((text) => el("div", { class: "zy-second" }, text));
  const turns = (segment.turns ?? []).filter((turn) => turn.speaker);
  const said = turns.length
    ? turns.map((turn) => el("div", {}, el("b", {}, `${turn.speaker} `), turn.written || turn.text))
    : [segment.written || segment.text || say("no_text")];
  return el("li", { class: "zy-segment" },
    el("button", { type: "button", class: "zy-when", onclick, "aria-label": say("play_segment", times) }, times.from),
    el("div", { class: "zy-said" }, ...said, ...rest),
    el("div", { class: "zy-labels" }, segment.channel === null || segment.channel === undefined ? null : el("span", { class: "zy-label" }, `#${segment.channel}`), ...labels(segment.labels),
      ...(segment.guards ?? []).map((guard) => el("span", { class: "zy-label zy-warn", title: say("guards") }, guard))));
}

function texts(job, segments) {
  const written = job.written || job.text;
  const parts = [];
  if (job.edited !== null && job.edited !== undefined) parts.push(block(say("edited"), job.edited, "zy-main zy-edited"));
  if (written || !(job.answer || job.translation)) parts.push(block(parts.length ? say("original") : say("text"), written || say("no_text"), "zy-main"));
  if (job.written && job.text && job.text !== job.written) parts.push(block(say("as_spoken"), job.text));
  if (job.answer) parts.push(block(say("answer"), job.answer));
  if (job.translation) parts.push(block(say("translation"), job.translation));
  const unparsed = segments.flatMap((segment) => segment.unparsed ?? []);
  if (unparsed.length) parts.push(block(say("unparsed"), unparsed.join(" · ")));
  return parts;
}

function block(title, text, kind = "") {
  return el("section", { class: `zy-block ${kind}` },
    el("header", {}, el("h3", {}, title), button(say("copy"), () => copy(text), { class: "zy-button zy-bare" })),
    el("p", {}, text));
}

function meta(job) {
  const rtf = job.real_time_factor ? say("rtf", { x: Number(job.real_time_factor).toFixed(3) }) : "";
  const took = job.processing_s ? say("took", { s: Number(job.processing_s).toFixed(2) }) : "";
  return [length(job.duration_s), job.model, job.device, took, rtf].filter(Boolean).join(" · ");
}

/** Show a finished job; gives back the wave, to be removed with it. */
export function showResult(root, job) {
  const segments = job.segments ?? [];
  const place = el("div", { class: "zy-waveplace" });
  const notes = job.notes ?? [];
  let wave = null;
  const rows = segments.map((segment, number) => segmentRow(segment, () => wave?.play(number)));
  fill(root,
    el("div", { class: "zy-resulthead" }, el("h2", { class: "zy-name" }, job.file_name || say("recording_name")), el("div", { class: "zy-hint" }, meta(job))),
    ...texts(job, segments),
    Object.keys(job.labels ?? {}).length ? el("div", { class: "zy-labels zy-big", "aria-label": say("labels") }, ...labels(job.labels)) : null,
    place,
    rows.length ? el("section", {}, el("h3", {}, `${say("segments")} (${rows.length})`), el("ol", { class: "zy-segments" }, ...rows)) : null,
    notes.length ? el("section", { class: "zy-notes" }, el("h3", {}, say("notes")), el("ul", {}, ...notes.map((note) => el("li", {}, note)))) : null,
    el("nav", { class: "zy-downloads", "aria-label": say("download") }, el("span", { class: "zy-hint" }, say("download")),
      ...FORMATS.map((format) => el("a", { class: "zy-button", href: `/api/history/${job.id}/result?format=${format}`, download: true }, format))));
  if (job.duration_s > 0) {
    wave = new Wave(place, {
      audio: job.has_audio ? `/api/history/${job.id}/audio` : "", peaks: [], duration_s: job.duration_s, marks: segments,
      onmark: (now) => rows.forEach((row, number) => row.classList.toggle("zy-now", number === now)),
    });
    if (job.has_audio) call("GET", `/api/history/${job.id}/peaks`).then((found) => wave.outline(found), fail);
  }
  return { remove: () => wave?.remove() };
}
