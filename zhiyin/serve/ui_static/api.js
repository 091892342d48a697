// Our own API, as the page uses it. Every error is one line made for people, as the API gives it.

import { say } from "/ui/words.js";

export class ApiError extends Error {
  constructor(message, status, retryAfterS = 0) {
    super(message);
    this.status = status;
    this.retryAfterS = retryAfterS;
  }
}

function refused(status, body, retryAfter) {
  if (status === 401) location.assign(`/login?next=${encodeURIComponent(location.pathname)}`);
  let message = "";
  try {
    message = JSON.parse(body).error.message;
  } catch {
    message = say("no_answer", { status });
  }
  return new ApiError(message, status, Number(retryAfter) || 0);
}

/** Call a route; JSON in, JSON out. */
export async function call(method, path, body = undefined) {
  const isForm = body instanceof FormData;
  const options = { method, headers: body === undefined || isForm ? {} : { "Content-Type": "application/json" } };
  if (body !== undefined) options.body = isForm ? body : JSON.stringify(body);
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new ApiError(say("unreachable"), 0);
  }
  if (!response.ok) throw refused(response.status, await response.text(), response.headers.get("Retry-After"));
  return response.status === 204 ? null : response.json();
}

/** `a=1&b=2` of what has a value. */
export function query(values) {
  const given = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined && value !== false);
  return new URLSearchParams(given.map(([key, value]) => [key, String(value)])).toString();
}

/** What is asked of a recording (ui_blocks.SETTINGS) as the fields of a form. */
export function wish(settings) {
  const byWords = settings.ask === "words";
  return {
    tasks: byWords ? "" : settings.tasks.join(","),
    instruction: byWords ? settings.instruction : "",
    language: settings.language,
    into: settings.into,
    hotwords: settings.hotwords,
    itn: settings.itn,
    speakers: settings.speakers,
    channels: settings.channels,
  };
}

/** Send a recording with fields; `onprogress` gets 0 to 1. The fields stand before the file, so that the service knows
 * them before the first byte of audio. */
export function upload(path, fields, file, { onprogress = () => {}, signal = undefined } = {}) {
  const form = new FormData();
  for (const [key, value] of Object.entries(fields)) {
    if (value !== "" && value !== null && value !== undefined) form.append(key, String(value));
  }
  form.append("file", file, file.name);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    request.upload.onprogress = (event) => event.lengthComputable && onprogress(event.loaded / event.total);
    request.onload = () => {
      if (request.status >= 200 && request.status < 300) resolve(JSON.parse(request.responseText));
      else reject(refused(request.status, request.responseText, request.getResponseHeader("Retry-After")));
    };
    request.onerror = () => reject(new ApiError(say("unreachable"), 0));
    request.onabort = () => reject(new DOMException("aborted", "AbortError"));
    signal?.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

const ENDS = new Set(["done", "failed", "cancelled"]);

/** Follow a job to its end. `onevent` gets the events of the service; the promise gives the finished job. A stream that
 * breaks is opened again by the browser; one that cannot be opened is replaced by asking every second. */
export function follow(id, onevent) {
  return new Promise((resolve, reject) => {
    const stream = new EventSource(`/api/jobs/${id}/events`);
    const end = () => { stream.close(); call("GET", `/api/jobs/${id}`).then(resolve, reject); };
    const take = (message) => {
      const event = JSON.parse(message.data);
      onevent(event);
      if (event.event === "state" && ENDS.has(event.state)) end();
    };
    stream.onmessage = take;
    for (const name of ["state", "progress", "segment"]) stream.addEventListener(name, take);
    stream.onerror = async () => {
      if (stream.readyState !== EventSource.CLOSED) return;
      try {
        let job = await call("GET", `/api/jobs/${id}`);
        while (!ENDS.has(job.state)) {
          onevent({ event: "state", state: job.state });
          await new Promise((wake) => setTimeout(wake, 1000));
          job = await call("GET", `/api/jobs/${id}`);
        }
        resolve(job);
      } catch (error) {
        reject(error);
      }
    };
  });
}

/** Who is here and what the service allows; asked once. */
export const session = call("GET", "/ui/session.json").catch(() => ({ name: "", role: "user", can_sign_out: false, tasks: {} }));
