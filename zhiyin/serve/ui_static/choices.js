// What the form fields offer: the tasks and languages of the model that is loaded, and saved hotword lists. The
// functions here are called by Gradio's events; what they give back are changes of its fields.

import { call, session } from "/ui/api.js";
import { fail, toast } from "/ui/dom.js";
import { language as own, languageName, say } from "/ui/words.js";

const change = (changes) => ({ __type__: "update", ...changes });

/** The change of each field, by its kind; nothing changes while no model is loaded. */
export async function fit(kinds) {
  const [here, { workers }, lists] = await Promise.all([session, call("GET", "/api/device").catch(() => ({ workers: [] })), listNames()]);
  const all = (field) => [...new Set(workers.flatMap((worker) => worker[field] ?? []))];
  const tasks = all("tasks");
  const languages = all("languages").map((code) => [languageName(code), code]);
  const of = {
    tasks: tasks.length ? { choices: tasks.map((id) => [here.tasks?.[id]?.[own] ?? id, id]) } : {},
    language: languages.length ? { choices: [[say("automatic"), ""], ...languages] } : {},
    filter: languages.length ? { choices: [[say("all"), ""], ...languages] } : {},
    into: tasks.length && !tasks.includes("ast") ? { visible: false } : { choices: [[say("no_translation"), ""], ...languages] },
    saved: { choices: lists },
    everyone: { visible: here.role === "admin" && here.name !== "local" },
  };
  return kinds.map((kind) => change(of[kind]));
}

async function listNames() {
  const { lists } = await call("GET", "/api/hotwords").catch(() => ({ lists: [] }));
  return [["—", ""], ...lists.map((list) => [list.name, list.name])];
}

/** A saved list into the field of hotwords. */
export async function loadList(name, text) {
  if (!name) return text;
  try {
    return (await call("GET", `/api/hotwords/${encodeURIComponent(name)}`)).text;
  } catch (error) {
    fail(error);
    return text;
  }
}

/** Keep what stands in the field under a name. */
export async function saveList(name, text) {
  const wanted = prompt(say("hotwords_name"), name || "")?.trim();
  if (!wanted) return change({});
  try {
    await call("PUT", `/api/hotwords/${encodeURIComponent(wanted)}`, { text });
  } catch (error) {
    fail(error);
    return change({});
  }
  toast(say("saved"), { seconds: 2 });
  return change({ choices: await listNames(), value: wanted });
}

/** Remove the list that is chosen. */
export async function removeList(name) {
  if (!name) return change({});
  try {
    await call("DELETE", `/api/hotwords/${encodeURIComponent(name)}`);
  } catch (error) {
    fail(error);
  }
  return change({ choices: await listNames(), value: "" });
}
