// The microphone: 16-bit PCM at the rate of the device, and a level meter. Recordings become WAV files here, so that
// they have a known length and every browser makes the same.

import { el } from "/ui/dom.js";
import { say } from "/ui/words.js";

const WANTED = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true };

/** Open the microphone. `onsamples` gets an Int16Array every few hundredths of a second, and the peak, 0 to 1.
 * Throws an Error whose message can be shown. */
export async function openMicrophone(onsamples) {
  if (!navigator.mediaDevices?.getUserMedia) throw new Error(say("mic_insecure"));
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: WANTED });
  } catch (error) {
    throw new Error(say(error.name === "NotFoundError" ? "mic_missing" : "mic_denied"));
  }
  const context = new AudioContext();
  const stop = () => {
    stream.getTracks().forEach((track) => track.stop());
    if (context.state !== "closed") context.close();
  };
  try {
    await context.audioWorklet.addModule("/ui/capture-worklet.js");
    await context.resume();
  } catch (error) {
    stop();
    throw error;
  }
  const node = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
  node.port.onmessage = ({ data }) => onsamples(data.samples, data.peak);
  context.createMediaStreamSource(stream).connect(node);
  return { sampleRateHz: context.sampleRate, stop };
}

/** A level meter; `.show(peak)` moves it. In decibels, so that a quiet voice is seen. */
export function meter() {
  const bar = el("div", { class: "zy-level-bar" });
  const root = el("div", { class: "zy-level", role: "meter", "aria-label": say("level"), "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": 0 }, bar);
  const show = (peak) => {
    const percent = Math.round(Math.max(0, Math.min(100, 100 + (20 * Math.log10(Math.max(peak, 1e-6)) * 100) / 60)));
    bar.style.width = `${percent}%`;
    root.setAttribute("aria-valuenow", percent);
  };
  return { root, show };
}

/** Blocks of PCM as a WAV file (RIFF, format 1, mono, 16 bit). */
export function wavFile(blocks, sampleRateHz, name) {
  const dataBytes = blocks.reduce((sum, block) => sum + block.byteLength, 0);
  const head = new DataView(new ArrayBuffer(44));
  const ascii = (at, text) => [...text].forEach((letter, i) => head.setUint8(at + i, letter.charCodeAt(0)));
  ascii(0, "RIFF");
  head.setUint32(4, 36 + dataBytes, true);
  ascii(8, "WAVEfmt ");
  head.setUint32(16, 16, true);
  head.setUint16(20, 1, true);
  head.setUint16(22, 1, true);
  head.setUint32(24, sampleRateHz, true);
  head.setUint32(28, sampleRateHz * 2, true);
  head.setUint16(32, 2, true);
  head.setUint16(34, 16, true);
  ascii(36, "data");
  head.setUint32(40, dataBytes, true);
  return new File([head, ...blocks], name, { type: "audio/wav" });
}
