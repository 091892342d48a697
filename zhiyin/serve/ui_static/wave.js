// A waveform one can click, with stretches marked on it, and a player under it.

import { button, clock, el, fill } from "/ui/dom.js";
import { say } from "/ui/words.js";

/** Shows a recording.
 *
 * root: where it is put. audio: address of the recording, "" if there is none. peaks: [lowest, highest] sample of equal
 * stretches, -1 to 1. marks: [{start_s, end_s}], in order. onmark: told the number of the mark that is played, or -1. */
export class Wave {
  constructor(root, { audio, peaks, duration_s, marks = [], onmark = () => {} }) {
    this.peaks = peaks;
    this.duration_s = duration_s || 0.001;
    this.marks = marks;
    this.onmark = onmark;
    this.now = -1;
    this.stop_s = Infinity;
    this.canvas = el("canvas", { "aria-hidden": "true" });
    this.cursor = el("div", { class: "zy-cursor" });
    this.bars = marks.map((mark, number) => el("button", {
      type: "button", class: "zy-mark", tabindex: "-1", style: this.place(mark),
      title: `${clock(mark.start_s, true)} – ${clock(mark.end_s, true)}`,
      onclick: (event) => { event.stopPropagation(); this.play(number); },
    }));
    this.frame = el("div", { class: "zy-wave", title: say("waveform"), onclick: (event) => this.jump(event) }, this.canvas, ...this.bars, this.cursor);
    this.time = el("span", { class: "zy-time" });
    this.toggle = button("▶", () => this.playOrPause(), { "aria-label": say("play"), class: "zy-button zy-play", disabled: !audio });
    this.problem = el("span", { class: "zy-hint" }, audio ? "" : say("no_audio"));
    fill(root, this.frame, el("div", { class: "zy-player" }, this.toggle, this.time, this.problem));
    this.audio = audio ? this.listen(new Audio(), audio) : null;
    this.show();
    this.watch = new ResizeObserver(() => this.draw());
    this.watch.observe(this.frame);
  }

  listen(player, address) {
    player.preload = "metadata";
    player.src = address;
    player.addEventListener("timeupdate", () => this.show());
    for (const name of ["play", "pause", "ended"]) player.addEventListener(name, () => this.show());
    player.addEventListener("error", () => { this.problem.textContent = say("no_playback"); this.toggle.disabled = true; });
    return player;
  }

  place(mark) {
    const left = (100 * mark.start_s) / this.duration_s;
    return `left:${left.toFixed(3)}%;width:${Math.max(0.2, (100 * (mark.end_s - mark.start_s)) / this.duration_s).toFixed(3)}%`;
  }

  playOrPause() {
    this.stop_s = Infinity;
    if (this.audio.paused) this.begin();
    else this.audio.pause();
  }

  /** Play one mark to its end. */
  play(number) {
    if (!this.audio || this.toggle.disabled) return;
    const mark = this.marks[number];
    this.audio.currentTime = mark.start_s;
    this.stop_s = mark.end_s;
    this.begin();
  }

  begin() {
    document.querySelectorAll("[data-playing]").forEach((other) => other !== this.frame && other.dispatchEvent(new Event("zy-quiet")));
    this.frame.dataset.playing = "";
    this.frame.addEventListener("zy-quiet", () => this.audio.pause(), { once: true });
    this.audio.play().catch(() => {});  // the error event says why
    this.tick();
  }

  /** While it plays, look often enough to stop at the end of a mark. */
  tick() {
    if (this.audio.currentTime >= this.stop_s) {
      this.audio.pause();
      this.stop_s = Infinity;
    }
    this.show();
    if (!this.audio.paused && !this.audio.ended) requestAnimationFrame(() => this.tick());
  }

  jump(event) {
    if (!this.audio || this.toggle.disabled) return;
    const box = this.frame.getBoundingClientRect();
    this.stop_s = Infinity;
    this.audio.currentTime = (this.duration_s * (event.clientX - box.left)) / box.width;
    this.show();
  }

  show() {
    const at = this.audio?.currentTime ?? 0;
    const plays = Boolean(this.audio) && !this.audio.paused && !this.audio.ended;
    this.time.textContent = `${clock(at, true)} / ${clock(this.duration_s, true)}`;
    this.cursor.style.left = `${Math.min(100, (100 * at) / this.duration_s)}%`;
    this.toggle.textContent = plays ? "⏸" : "▶";
    this.toggle.setAttribute("aria-label", say(plays ? "pause" : "play"));
    const now = plays || at > 0 ? this.marks.findIndex((mark) => at >= mark.start_s - 0.02 && at < mark.end_s) : -1;
    if (now !== this.now) {
      this.now = now;
      this.bars.forEach((bar, number) => bar.classList.toggle("zy-now", number === now));
      this.onmark(now);
    }
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.frame;
    if (!width) return;
    const scale = window.devicePixelRatio || 1;
    this.canvas.width = width * scale;
    this.canvas.height = height * scale;
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.fillStyle = getComputedStyle(this.frame).color;
    const columns = Math.floor(width / 3);
    const loudest = this.peaks.reduce((most, [low, high]) => Math.max(most, -low, high), 0.05);
    const middle = height / 2;
    const tall = (height - 10) / 2 / loudest;
    for (let column = 0; column < columns; column++) {
      const from = Math.floor((column * this.peaks.length) / columns);
      const to = Math.max(from + 1, Math.floor(((column + 1) * this.peaks.length) / columns));
      const some = this.peaks.slice(from, to);
      const up = Math.max(0.75, tall * some.reduce((most, [, high]) => Math.max(most, high), 0));
      const down = Math.max(0.75, tall * some.reduce((most, [low]) => Math.max(most, -low), 0));
      pen.fillRect(column * 3, middle - up, 2, up + down);
    }
  }

  /** The outline, when it has come. */
  outline({ peaks, duration_s }) {
    this.peaks = peaks;
    if (duration_s > 0) this.duration_s = duration_s;
    this.bars.forEach((bar, number) => bar.setAttribute("style", this.place(this.marks[number])));
    this.show();
    this.draw();
  }

  /** Silent and gone. */
  remove() {
    this.watch.disconnect();
    if (this.audio) {
      this.audio.pause();
      this.audio.removeAttribute("src");
    }
  }
}
