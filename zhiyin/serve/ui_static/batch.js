// Hundreds of files: each is a job of its own, sent a few at a time, and one that fails stops no other.

import { call, query, upload, wish } from "/ui/api.js";
import { button, bytes, chip, el, fail, fill, length } from "/ui/dom.js";
import { openDetail } from "/ui/detail.js";
import { settings } from "/ui/page.js";
import { chooser, dropZone, isRecording } from "/ui/pick.js";
import { labels } from "/ui/result.js";
import { say } from "/ui/words.js";

const SENDING = 3; // uploads at once: browsers open six connections, the rest of the page needs some
const AHEAD = 24; // sent and not finished: a pause soon is one, and other users get their turn
const ASK_MS = 1500;
const PAGE = 200;
const KEPT = "zhiyin_batch";
const ENDS = new Set(["done", "failed", "cancelled"]);

export function mount(root) {
  const batch = new Batch(root);
  batch.restore();
}

class Batch {
  constructor(root) {
    this.id = "";
    this.items = [];
    this.isRunning = false;
    this.waitUntil = 0;
    this.only = "";
    const take = (files) => this.add(files);
    this.start = button(say("batch_start"), () => this.run(), { class: "zy-button zy-primary", "data-start": true, disabled: true });
    this.pause = button(say("batch_pause"), () => this.stop(), { hidden: true });
    this.again = button(say("batch_retry"), () => this.retry(this.items.filter((item) => item.state === "failed")), { hidden: true });
    this.fresh = button(say("batch_new"), () => this.clear(), { class: "zy-button zy-bare", hidden: true });
    this.save = el("span", { class: "zy-row", hidden: true }, el("span", { class: "zy-hint" }, say("export_all")),
      ...["csv", "json", "srt"].map((format) => el("a", { class: "zy-button", href: "#", onclick: (event) => this.export(event, format) }, format.toUpperCase())));
    this.counts = el("span", { role: "status", "aria-live": "polite" });
    this.note = el("p", { class: "zy-hint", role: "status" });
    this.bar = el("progress", { max: 1, value: 0, "aria-label": say("tab_batch") });
    this.filter = el("select", { class: "zy-select", "aria-label": say("state"), onchange: () => { this.only = this.filter.value; this.items.forEach((item) => this.draw(item)); } },
      el("option", { value: "" }, say("all")), ...["unsent", "queued", "running", "done", "failed"].map((state) => el("option", { value: state }, say(`state_${state}`))));
    this.body = el("tbody", {});
    this.table = el("table", { class: "zy-table", hidden: true }, el("thead", {}, el("tr", {},
      ...["file", "result", "size", "state"].map((key) => el("th", { scope: "col", class: `zy-col-${key}` }, say(key))))), this.body);
    this.empty = el("p", { class: "zy-empty" }, say("batch_empty"));
    fill(root, dropZone({ title: say("batch_drop"), hint: "", multiple: true, onfiles: take }),
      el("div", { class: "zy-row" }, chooser(say("choose_files"), { onfiles: take }), chooser(say("choose_folder"), { folder: true, onfiles: take }),
        el("span", { class: "zy-space" }), this.start, this.pause, this.again, this.fresh),
      el("div", { class: "zy-row zy-bar" }, this.counts, this.bar, el("span", { class: "zy-space" }), this.save, this.filter), this.note, this.table, this.empty);
    addEventListener("beforeunload", (event) => this.isRunning && this.items.some((item) => item.state === "unsent" || item.state === "sending") && event.preventDefault());
    this.tell();
  }

  add(files) {
    const good = files.filter(isRecording);
    for (const file of good) this.put({ file, name: file.webkitRelativePath || file.name, bytes: file.size, state: "unsent", job: null, error: "", part: 0 });
    this.note.textContent = good.length < files.length ? say("batch_skipped", { n: files.length - good.length }) : "";
    this.tell();
    if (this.isRunning) this.pump();
  }

  put(item) {
    this.items.push(item);
    item.row = el("tr", {});
    this.body.append(item.row);
    this.draw(item);
  }

  run() {
    this.id ||= newId();
    localStorage.setItem(KEPT, this.id);
    this.isRunning = true;
    this.note.textContent = "";
    this.tell();
    this.pump();
    this.ask();
  }

  stop() {
    this.isRunning = false;
    this.note.textContent = say("batch_paused");
    this.tell();
  }

  /** Send what may be sent now. */
  pump() {
    const of = (...states) => this.items.filter((item) => states.includes(item.state));
    let free = Math.min(SENDING - of("sending").length, AHEAD - of("sending", "queued", "running").length);
    if (!this.isRunning || Date.now() < this.waitUntil) return;
    for (const item of of("unsent")) {
      if (free-- <= 0) break;
      this.send(item);
    }
  }

  async send(item) {
    this.set(item, { state: "sending", error: "", part: 0 });
    try {
      const fields = { ...wish(settings("batch")), mode: "batch", batch: this.id };
      const job = await upload("/api/jobs", fields, item.file, { onprogress: (part) => this.set(item, { part }) });
      this.set(item, { state: job.state, job });
    } catch (error) {
      if (error.status === 429 || error.status === 503) this.hold(item, error);
      else this.set(item, { state: "failed", error: error.message });
    }
    this.pump();
  }

  /** The service is full: this file goes later, and so does everything else. */
  hold(item, error) {
    const wait_s = Math.min(120, error.retryAfterS || 5);
    this.waitUntil = Date.now() + wait_s * 1000;
    this.set(item, { state: "unsent" });
    this.note.textContent = say("batch_wait", { s: wait_s });
    setTimeout(() => { if (this.isRunning) this.note.textContent = ""; this.pump(); }, wait_s * 1000 + 50);
  }

  /** How the jobs of this batch are; asked as long as some are not finished. */
  async ask() {
    if (this.asking) return;
    this.asking = true;
    try {
      while (this.items.some((item) => item.job && !ENDS.has(item.state)) || (this.isRunning && this.items.some((item) => !ENDS.has(item.state)))) {
        await new Promise((wake) => setTimeout(wake, ASK_MS));
        await this.look();
        this.pump();
      }
      this.isRunning = false;
    } finally {
      this.asking = false;
      this.tell();
    }
  }

  async look() {
    const open = new Map(this.items.filter((item) => item.job && !ENDS.has(item.state)).map((item) => [item.job.id, item]));
    if (!open.size) return;
    try {
      for await (const job of this.jobs()) {
        const item = open.get(job.id);
        if (item) this.set(item, { state: job.state, job, error: job.error });
        if (open.delete(job.id) && !open.size) break;  // the newest come first: mostly one page is enough
      }
    } catch (error) {
      this.note.textContent = error.message;  // asked again
    }
  }

  async *jobs() {
    let after = "";
    do {
      const page = await call("GET", `/api/history?${query({ batch: this.id, limit: PAGE, after })}`);
      yield* page.rows;
      after = page.next;
    } while (after);
  }

  async retry(items) {
    for (const item of items) {
      if (!item.job) {
        this.set(item, { state: "unsent", error: "" });
        continue;
      }
      try {
        const job = await call("POST", `/api/jobs/${item.job.id}/retry`);
        this.set(item, { state: job.state, job, error: "" });
      } catch (error) {
        this.set(item, { error: error.message });
      }
    }
    this.run();
  }

  async restore() {
    this.id = localStorage.getItem(KEPT) ?? "";
    if (!this.id) return;
    try {
      for await (const job of this.jobs()) this.put({ file: null, name: job.file_name, bytes: job.bytes, state: job.state, job, error: job.error, part: 1 });
    } catch (error) {
      return fail(error);
    }
    if (this.items.length) this.note.textContent = say("batch_lost");
    this.tell();
    this.ask();
  }

  clear() {
    localStorage.removeItem(KEPT);
    this.id = "";
    this.isRunning = false;
    this.items = [];
    this.body.replaceChildren();
    this.note.textContent = "";
    this.tell();
  }

  export(event, format) {
    event.preventDefault();
    el("a", { href: `/api/history/export?${query({ format, batch: this.id })}`, download: true }).click();
  }

  set(item, change) {
    if (!this.items.includes(item)) return;
    Object.assign(item, change);
    this.draw(item);
    this.tell();
  }

  draw(item) {
    const { job } = item;
    const text = item.error || (job && (job.written || job.text || job.answer || job.translation)) || "";
    const name = job && ENDS.has(item.state) ? button(item.name, () => openDetail(job.id), { class: "zy-link" }) : el("span", {}, item.name);
    const again = item.state === "failed" ? button(say("retry"), () => this.retry([item]), { class: "zy-button zy-small" }) : null;
    const state = item.state === "sending" ? chip("sending", `${say("state_sending")} ${Math.round(100 * item.part)}%`) : chip(item.state);
    fill(item.row, el("td", { class: "zy-col-file" }, name),
      el("td", { class: `zy-col-result ${item.error ? "zy-bad" : ""}` }, el("div", { class: "zy-snippet" }, text), el("div", { class: "zy-labels" }, ...labels(job?.labels))),
      el("td", { class: "zy-col-size" }, job?.duration_s ? length(job.duration_s) : bytes(item.bytes)),
      el("td", { class: "zy-col-state" }, state, again));
    item.row.hidden = Boolean(this.only) && this.only !== item.state;
  }

  tell() {
    const count = (state) => this.items.filter((item) => item.state === state).length;
    const all = this.items.length;
    const [done, failed] = [count("done"), count("failed")];
    const left = count("unsent");
    this.counts.textContent = all ? say("batch_counts", { done, all, failed }) : "";
    this.bar.value = all ? (done + failed + count("cancelled")) / all : 0;
    this.bar.hidden = this.filter.hidden = !all;
    this.table.hidden = !all;
    this.empty.hidden = all > 0;
    this.save.hidden = !done;
    this.again.hidden = !failed;
    this.fresh.hidden = !all || this.isRunning;
    this.pause.hidden = !this.isRunning || !left;
    this.start.hidden = this.isRunning || (all > 0 && !left);
    this.start.disabled = !left;
    this.start.textContent = say(this.id && all > left ? "batch_resume" : "batch_start");
  }
}

/** 32 hex digits; randomUUID needs https, this does not. */
const newId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
