// Captions while somebody speaks: the microphone goes to /api/live, certain words come back black, the rest grey.

import { button, clock, el, fill, toast } from "/ui/dom.js";
import { meter, openMicrophone } from "/ui/capture.js";
import { settings } from "/ui/page.js";
import { openDetail } from "/ui/detail.js";
import { labels } from "/ui/result.js";
import { say } from "/ui/words.js";

const BACKLOG_BYTES = 4 << 20; // more than this unsent: the network is too slow for live captions

/** The controls and the captions. */
export function mount(root) {
  const level = meter();
  const status = el("span", { class: "zy-hint", role: "status" });
  const captions = el("div", { class: "zy-captions", tabindex: 0, "aria-live": "polite", "aria-label": say("tab_live") });
  const view = new Captions(captions);
  let stream = null;
  const toggle = button(say("live_start"), async () => {
    if (stream) return stream.finish();
    toggle.disabled = true;
    view.open();
    stream = new Stream(view, level, status, () => { stream = null; set(false); });
    await stream.start();
    toggle.disabled = false;
  }, { class: "zy-button zy-primary", "data-start": true });
  const set = (runs) => {
    toggle.disabled = false;
    toggle.textContent = say(runs ? "live_stop" : "live_start");
    toggle.classList.toggle("zy-on", runs);
    if (!runs) level.show(0);
  };
  status.addEventListener("zy-runs", () => set(true));
  view.clear();
  fill(root, el("div", { class: "zy-row" }, toggle, level.root, status, button(say("clear"), () => view.clear(), { class: "zy-button zy-bare" })),
    captions, el("p", { class: "zy-hint" }, say("live_legend")));
  addEventListener("beforeunload", (event) => stream && event.preventDefault());
}

/** One connection with one microphone. */
class Stream {
  constructor(view, level, status, onend) {
    Object.assign(this, { view, level, status, onend, id: "", problem: "", early: [] });
  }

  async start() {
    this.tell("live_connecting");
    try {
      this.microphone = await openMicrophone((samples, peak) => { this.level.show(peak); this.send(samples); });
    } catch (error) {
      return this.end(error.message);
    }
    const given = settings("live");
    this.socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/live`);
    this.socket.onopen = () => {
      const first = { tasks: given.tasks, language: given.language, hotwords: given.hotwords, itn: given.itn, format: "pcm16", sample_rate_hz: this.microphone.sampleRateHz };
      this.socket.send(JSON.stringify(first));
    };
    this.socket.onmessage = ({ data }) => this.take(JSON.parse(data));
    this.socket.onclose = () => this.end(this.problem || (this.id || this.ends ? "" : say("live_broken")));
  }

  send(samples) {
    if (!this.opened) this.early.push(samples); // what is said while the line opens is not lost
    else if (this.socket.bufferedAmount < BACKLOG_BYTES) this.socket.send(samples);
    else {
      this.problem = say("live_slow"); // better an end that is seen than a hole in the captions
      this.socket.close();
    }
  }

  take(event) {
    if (event.error) this.problem = event.error.message;
    else if (event.event === "opened") {
      this.opened = true;
      this.early.splice(0).forEach((samples) => this.socket.send(samples));
      this.tell("live_listening");
      this.status.dispatchEvent(new Event("zy-runs"));
    } else if (event.event === "closed") this.id = event.id ?? "";
    else this.view.take(event);
  }

  finish() {
    this.tell("live_finishing");
    this.ends = true;
    this.microphone.stop();
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ event: "finish" }));
  }

  end(problem) {
    this.microphone?.stop();
    this.view.end(problem);
    fill(this.status);
    if (this.id) {
      const id = this.id;
      toast(say("live_saved"), { action: say("open_detail"), onaction: () => openDetail(id) });
    }
    this.onend();
  }

  tell(key) {
    this.status.textContent = say(key);
  }
}

/** The text that is seen: finished segments, and the one that is open. */
class Captions {
  constructor(root) {
    this.root = root;
    this.line = null;
  }

  open() {
    this.root.querySelector(".zy-empty")?.remove();
    this.root.querySelectorAll(".zy-problem").forEach((old) => old.remove());
  }

  clear() {
    this.line = null;
    fill(this.root, el("p", { class: "zy-empty" }, say("live_empty")));
  }

  take(event) {
    if (event.event === "partial") this.show(event.start_s, event.committed, event.tail);
    if (event.event === "final") {
      const { segment } = event;
      if (segment.text || Object.keys(segment.labels ?? {}).length) {
        this.show(segment.start_s, segment.written || segment.text, "", labels(segment.labels));
      } else this.line?.remove();
      this.line = null;
    }
  }

  show(startS, committed, tail, marks = []) {
    this.open();
    const follows = this.root.scrollHeight - this.root.scrollTop - this.root.clientHeight < 60;
    this.line ??= this.root.appendChild(el("p", { class: "zy-caption" }));
    const space = committed && tail && /[A-Za-z0-9,.?!]$/.test(committed) && /^[A-Za-z0-9]/.test(tail) ? " " : "";
    fill(this.line, el("time", {}, clock(startS)), el("span", { class: "zy-words" }, el("span", { class: "zy-sure" }, committed),
      el("span", { class: "zy-tail" }, space + tail), ...marks));
    if (follows) this.root.scrollTop = this.root.scrollHeight; // who scrolled up to read is left there
  }

  end(problem) {
    this.line = null;
    if (problem) this.root.append(el("p", { class: "zy-problem", role: "alert" }, problem));
  }
}
