// Choosing recordings: files, folders, drag and drop.

import { el } from "/ui/dom.js";
import { say } from "/ui/words.js";

const RECORDINGS = /\.(wav|wave|mp3|m4a|m4b|mp4|aac|flac|ogg|oga|opus|webm|amr|awb|wma|aiff?|caf|au|mka|mkv|mov|avi|3gp|wv|ape|ac3|mpga|mpeg|mpg|ts|flv)$/i;

/** Whether a file is one we would read: by its kind or, where the browser knows none, by its name. */
export const isRecording = (file) => /^(audio|video)\//.test(file.type) || RECORDINGS.test(file.name);

/** A field to drop files on; also a button for mouse and keyboard. */
export function dropZone({ title, hint, multiple = false, onfiles }) {
  const input = el("input", { type: "file", class: "zy-hidden", accept: "audio/*,video/*,.amr,.opus,.flac,.m4a,.caf,.wma", multiple, "aria-label": title });
  input.addEventListener("change", () => { onfiles([...input.files]); input.value = ""; });
  const zone = el("label", { class: "zy-drop" }, input, el("span", { class: "zy-drop-icon", "aria-hidden": "true" }, "↥"),
    el("span", { class: "zy-drop-title" }, title), hint ? el("span", { class: "zy-hint" }, hint) : null);
  takeDrops(zone, onfiles);
  return zone;
}

/** Files and folders dropped on an element. */
export function takeDrops(zone, onfiles) {
  zone.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("zy-over"); });
  zone.addEventListener("dragleave", () => zone.classList.remove("zy-over"));
  zone.addEventListener("drop", async (event) => {
    event.preventDefault();
    zone.classList.remove("zy-over");
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const files = entries.length ? (await Promise.all(entries.map(filesIn))).flat() : [...event.dataTransfer.files];
    onfiles(files);
  });
}

async function filesIn(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const found = [];
  for (;;) {  // a reader gives a hundred entries at a time
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return found;
    found.push(...(await Promise.all(some.map(filesIn))).flat());
  }
}

/** A button that opens the chooser of files or of a folder. */
export function chooser(text, { folder = false, onfiles }) {
  const input = el("input", { type: "file", class: "zy-hidden", multiple: true, webkitdirectory: folder, "aria-label": text });
  input.addEventListener("change", () => { onfiles([...input.files]); input.value = ""; });
  return el("label", { class: "zy-button" }, input, text);
}
