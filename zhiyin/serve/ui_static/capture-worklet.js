// Runs in the audio thread: float samples of the microphone -> blocks of 16-bit PCM and how loud they were.

const BLOCK_SAMPLES = 2048; // 43 ms at 48 kHz: few messages, little delay

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Int16Array(BLOCK_SAMPLES);
    this.filled = 0;
    this.peak = 0;
  }

  process(inputs) {
    for (const sample of inputs[0][0] ?? []) {
      const limited = Math.max(-1, Math.min(1, sample));
      this.peak = Math.max(this.peak, Math.abs(limited));
      this.block[this.filled++] = Math.round(limited * 32767);
      if (this.filled === BLOCK_SAMPLES) {
        this.port.postMessage({ samples: this.block, peak: this.peak }, [this.block.buffer]);
        this.block = new Int16Array(BLOCK_SAMPLES);
        this.filled = 0;
        this.peak = 0;
      }
    }
    return true;
  }
}

registerProcessor("capture", Capture);
