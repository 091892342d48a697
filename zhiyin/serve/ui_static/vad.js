// Where somebody speaks in a recording, for thresholds one can move. Nothing is kept on the server.

import { upload } from "/ui/api.js";
import { button, clock, el, fill } from "/ui/dom.js";
import { onSettings, settings } from "/ui/page.js";
import { dropZone } from "/ui/pick.js";
import { say } from "/ui/words.js";
import { Wave } from "/ui/wave.js";

const POINTS = 1600;

export function mount(root) {
  let file = null;
  let address = "";
  let wave = null;
  let round = 0;
  const name = el("div", { class: "zy-file", hidden: true });
  const place = el("div", {});
  const table = el("div", {});
  const status = el("p", { class: "zy-hint", role: "status", "aria-live": "polite" });
  const detect = async () => {
    if (!file) return;
    const mine = ++round;
    go.disabled = true;
    status.textContent = say("state_running");
    try {
      const found = await upload("/api/vad", { ...settings("vad"), points: POINTS }, file);
      if (mine === round) show(found);
    } catch (error) {
      wave?.remove();
      fill(place);
      fill(table, el("p", { class: "zy-problem", role: "alert" }, error.message));
      status.textContent = "";
    } finally {
      go.disabled = false;
    }
  };
  const go = button(say("vad_start"), detect, { class: "zy-button zy-primary", "data-start": true, disabled: true });
  const choose = ([first]) => {
    if (!first) return;
    file = first;
    if (address) URL.revokeObjectURL(address);
    address = URL.createObjectURL(file);
    fill(name, el("span", { class: "zy-name" }, file.name));
    name.hidden = false;
    go.disabled = false;
    detect();
  };
  const show = (found) => {
    const sum = found.spans.reduce((all, span) => all + span.end_s - span.start_s, 0);
    status.textContent = found.spans.length
      ? say("vad_found", { n: found.spans.length, s: sum.toFixed(2), p: found.duration_s ? Math.round((100 * sum) / found.duration_s) : 0 })
      : say("vad_none");
    const rows = found.spans.map((span, number) => el("tr", {},
      el("td", {}, button(clock(span.start_s, true), () => wave.play(number), { class: "zy-when", "aria-label": say("play_segment", { from: clock(span.start_s, true), to: clock(span.end_s, true) }) })),
      el("td", {}, clock(span.end_s, true)), el("td", {}, (span.end_s - span.start_s).toFixed(2)), el("td", {}, span.peak.toFixed(2))));
    const head = say("vad_table").split("|").map((title) => el("th", { scope: "col" }, title));
    fill(table, rows.length ? el("table", { class: "zy-table zy-numbers" }, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows)) : null);
    wave?.remove();
    wave = new Wave(place, {
      audio: address, peaks: found.peaks, duration_s: found.duration_s, marks: found.spans,
      onmark: (now) => rows.forEach((row, number) => row.classList.toggle("zy-now", number === now)),
    });
  };
  fill(root, dropZone({ title: say("vad_drop"), hint: "", onfiles: choose }), name, el("div", { class: "zy-row" }, go, status), place, table);
  let timer = 0;
  onSettings("vad", () => { clearTimeout(timer); timer = setTimeout(() => !go.disabled && detect(), 600); });
}
