// What was understood before: search, filters, details, deletion that can be undone, export.

import { call, query, session } from "/ui/api.js";
import { button, chip, el, fail, fill, length, moment, toast } from "/ui/dom.js";
import { openDetail } from "/ui/detail.js";
import { onSettings, settings } from "/ui/page.js";
import { labels } from "/ui/result.js";
import { language, say } from "/ui/words.js";

const PAGE = 50;

/** The list, its buttons, and what loads it. */
export function mount(root) {
  new List(root);
}

class List {
  constructor(root) {
    this.picked = new Set();
    this.rows = new Map();
    this.next = "";
    this.asked = 0;
    this.isAdmin = false;
    this.count = el("span", { class: "zy-hint", role: "status" });
    this.body = el("tbody", {});
    this.more = button(say("load_more"), () => this.load(true), { hidden: true });
    this.empty = el("p", { class: "zy-empty", hidden: true }, say("history_empty"));
    this.all = el("input", { type: "checkbox", "aria-label": say("select_all"), onchange: () => this.pickAll(this.all.checked) });
    this.remove = button(say("delete"), () => this.erase([...this.picked]), { class: "zy-button zy-danger", disabled: true });
    this.restore = button(say("restore"), () => this.undo([...this.picked]), { hidden: true });
    const head = ["file", "result", "duration", "when", "state"].map((key) => el("th", { scope: "col", class: `zy-col-${key}` }, say(key)));
    fill(root,
      el("div", { class: "zy-row zy-bar" }, this.count, el("span", { class: "zy-space" }), this.remove, this.restore,
        button(say("refresh"), () => this.load()), ...this.exports()),
      el("table", { class: "zy-table" }, el("thead", {}, el("tr", {}, el("th", { scope: "col", class: "zy-col-pick" }, this.all), ...head)), this.body),
      this.empty, el("div", { class: "zy-row zy-center" }, this.more));
    let timer = 0;
    onSettings("history", () => { clearTimeout(timer); timer = setTimeout(() => this.load(), 250); });
    new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && this.load()).observe(root);
    session.then((here) => { this.isAdmin = here.role === "admin"; });
  }

  filters() {
    const { text, state, mode, language: spoken, label, since, until, order, deleted, everyone } = settings("history");
    return { text, state, mode, language: spoken, label, since: day(since), until: day(until, 1), order, deleted, user: everyone ? "*" : "" };
  }

  exports() {
    return ["csv", "json", "srt"].map((format) =>
      el("a", { class: "zy-button", href: "#", onclick: (event) => this.save(event, format) }, `${say("export")} ${format.toUpperCase()}`));
  }

  /** An export is a plain download: it is streamed to disk by the browser however long it is. */
  save(event, format) {
    event.preventDefault();
    const which = this.picked.size ? { ids: [...this.picked].join(",") } : this.filters();
    el("a", { href: `/api/history/export?${query({ format, ...which })}`, download: true }).click();
  }

  async load(isMore = false) {
    const asked = ++this.asked;
    let page;
    try {
      page = await call("GET", `/api/history?${query({ ...this.filters(), limit: PAGE, after: isMore ? this.next : "" })}`);
    } catch (error) {
      return asked === this.asked && fail(error);
    }
    if (asked !== this.asked) return;  // a newer question is under way
    if (!isMore) {
      this.rows.clear();
      this.picked.clear();
      this.body.replaceChildren();
      this.all.checked = false;
    }
    for (const job of page.rows) this.put(job);
    this.next = page.next;
    this.more.hidden = !page.next;
    this.empty.hidden = this.rows.size > 0;
    this.total = page.total;
    this.tell();
  }

  put(job) {
    const open = () => openDetail(job.id, { onchange: (changed) => this.put(changed), ondelete: job.deleted_at ? null : (id) => this.erase([id]) });
    const pick = el("input", { type: "checkbox", checked: this.picked.has(job.id), "aria-label": say("select", { name: job.file_name }), onchange: () => this.pick(job.id, pick.checked) });
    const text = job.edited ?? (job.written || job.text || job.answer || job.translation);
    const row = el("tr", { class: job.deleted_at ? "zy-gone" : "", "data-id": job.id },
      el("td", { class: "zy-col-pick" }, pick),
      el("td", { class: "zy-col-file" }, button(job.file_name || say("recording_name"), open, { class: "zy-link" }), el("div", { class: "zy-hint" }, [say(`mode_${job.mode}`), this.isAdmin && job.user !== "local" ? job.user : ""].filter(Boolean).join(" · "))),
      el("td", { class: "zy-col-result" }, el("div", { class: "zy-snippet" }, job.error || text || ""), el("div", { class: "zy-labels" }, job.edited !== null && job.edited !== undefined ? el("span", { class: "zy-label zy-warn" }, say("edited")) : null, ...labels(job.labels))),
      el("td", { class: "zy-col-duration" }, job.duration_s ? length(job.duration_s) : ""),
      el("td", { class: "zy-col-when" }, moment(job.created_at, language)),
      el("td", { class: "zy-col-state" }, chip(job.state)));
    const old = this.rows.get(job.id);
    this.rows.set(job.id, row);
    if (old) old.replaceWith(row);
    else this.body.append(row);
  }

  pick(id, is) {
    if (is) this.picked.add(id);
    else this.picked.delete(id);
    this.tell();
  }

  pickAll(is) {
    for (const [id, row] of this.rows) {
      row.querySelector("input").checked = is;
      if (is) this.picked.add(id);
      else this.picked.delete(id);
    }
    this.tell();
  }

  tell() {
    const parts = [this.total === null || this.total === undefined ? "" : say("total", { n: this.total }), this.picked.size ? say("selected", { n: this.picked.size }) : ""];
    this.count.textContent = parts.filter(Boolean).join(" · ");
    const isDeleted = Boolean(settings("history").deleted);
    this.remove.hidden = isDeleted;
    this.restore.hidden = !isDeleted;
    this.remove.disabled = this.restore.disabled = !this.picked.size;
  }

  /** Gone from the list, with an undo at hand; only age removes a record for good. */
  async erase(ids) {
    try {
      await call("POST", "/api/history/delete", { ids });
    } catch (error) {
      return fail(error);
    }
    this.drop(ids);
    toast(say("deleted", { n: ids.length }), { action: say("undo"), onaction: () => this.undo(ids), seconds: 12 });
  }

  async undo(ids) {
    try {
      await call("POST", "/api/history/undo", { ids });
    } catch (error) {
      return fail(error);
    }
    toast(say("restored", { n: ids.length }), { seconds: 3 });
    this.load();
  }

  drop(ids) {
    for (const id of ids) {
      this.rows.get(id)?.remove();
      this.rows.delete(id);
      this.picked.delete(id);
      if (typeof this.total === "number") this.total -= 1;
    }
    this.empty.hidden = this.rows.size > 0;
    this.tell();
  }
}

/** A day of the reader (2026-11-21) as the moment it begins, in UTC; `later` days after it. */
function day(text, later = 0) {
  const [y, m, d] = /^(\d{4})-(\d{1,2})-(\d{1,2})$/.exec((text ?? "").trim())?.slice(1).map(Number) ?? [];
  return y ? new Date(y, m - 1, d + later).toISOString() : "";
}
