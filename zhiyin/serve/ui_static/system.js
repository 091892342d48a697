// The machine and the service: devices, models, queue, disk, versions. Looked at by all, changed by administrators.

import { call, session } from "/ui/api.js";
import { button, bytes, chip, el, fail, fill, isShown, toast } from "/ui/dom.js";
import { taskName } from "/ui/result.js";
import { say } from "/ui/words.js";

const EVERY_MS = 4000;

export function mount(root) {
  const cards = el("div", { class: "zy-cards" });
  const model = el("input", { type: "text", class: "zy-input", placeholder: say("model_name"), "aria-label": say("model_name") });
  const look = async () => {
    try {
      const [{ workers }, system] = await Promise.all([call("GET", "/api/device"), call("GET", "/api/system")]);
      fill(cards, ...workers.map(worker), ...rest(system));
    } catch (error) {
      fill(cards, el("p", { class: "zy-problem", role: "alert" }, error.message));
    }
  };
  const controls = el("div", { class: "zy-row", hidden: true }, model, ...actions(model, look));
  const only = el("p", { class: "zy-hint" }, say("admin_only"));
  fill(root, cards, el("section", { class: "zy-card zy-wide" }, el("h3", {}, say("model")), controls, only));
  session.then((here) => { controls.hidden = here.role !== "admin"; only.hidden = here.role === "admin"; });
  new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && look()).observe(root);
  setInterval(() => isShown(root) && !document.hidden && look(), EVERY_MS);
}

function actions(model, look) {
  const act = (key, path, body, sure = "") => {
    const go = button(say(key), async () => {
      if (sure && !confirm(say(sure))) return;
      go.disabled = true;
      try {
        await call("POST", path, body());
        toast(say("done_note"), { seconds: 3 });
      } catch (error) {
        fail(error);
      }
      go.disabled = false;
      look();
    }, sure ? { class: "zy-button zy-danger" } : {});
    return go;
  };
  return [
    act("load", "/api/models/load", () => ({ model: model.value.trim() })),
    act("unload", "/api/models/unload", () => undefined, "sure_unload"),
    act("reset", "/api/device/reset", () => undefined, "sure_reset"),
  ];
}

function worker(one) {
  const [used, total] = [one.device_memory_used_bytes, one.device_memory_total_bytes];
  return card(say("workers"), [
    [say("state"), chip(`worker-${one.state}`, say(`worker_${one.state}`))],
    [say("device"), one.device],
    [say("asked_device"), one.asked],
    [say("model"), [one.model, one.model_hash?.slice(0, 12)].filter(Boolean).join(" · ")],
    [say("backend"), [one.backend, one.precision].filter(Boolean).join(" · ")],
    [say("tasks"), (one.tasks ?? []).map(taskName).join(" · ")],
    [say("memory"), one.memory_bytes ? bytes(one.memory_bytes) : ""],
    [say("device_memory"), total ? [el("progress", { max: total, value: used, "aria-label": say("device_memory") }), ` ${bytes(used)} / ${bytes(total)}`] : ""],
    [say("busy"), `${one.busy + one.streams} / ${one.slots}`],
    [say("error"), one.error],
  ], "zy-wide");
}

function rest(system) {
  const used = system.disk_total_bytes - system.disk_free_bytes;
  return [
    card(say("queue"), [[say("open_jobs"), String(system.jobs_open)]]),
    card(say("disk"), [[say("disk_used"), [el("progress", { max: system.disk_total_bytes, value: used, "aria-label": say("disk_used") }), ` ${bytes(used)}`]], [say("disk_free"), bytes(system.disk_free_bytes)],
      [say("keep_days"), system.keep_days ? String(system.keep_days) : say("keep_forever")]]),
    card(say("machine"), [[say("machine"), system.machine], [say("cpus"), String(system.cpus)]]),
    card(say("versions"), Object.entries({ zhiyin: system.version, python: system.python, ...system.parts })),
  ];
}

function card(title, rows, kind = "") {
  const given = rows.filter(([, value]) => value !== "" && value !== undefined && value !== null);
  return el("section", { class: `zy-card ${kind}` }, el("h3", {}, title),
    el("dl", { class: "zy-facts" }, ...given.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, ...[value].flat())])));
}
