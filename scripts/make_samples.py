"""Synthesise the sample recordings and their truth: `make samples`.

Needs the programs espeak-ng and flite (`apt install espeak-ng flite`). The recordings are ours, CC0. Their words are
those that the pocket model was made for (digit strings, words of DSPSpeech-20), in orders which occur in no corpus that
trained it; the voices are among those that it hears right.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

RATE_HZ = 16_000
PEAK = 10 ** (-3 / 20)  # -3 dBFS: loud, and no codec clips it
PAUSE_S = 0.25  # silence before and after


@dataclass(frozen=True)
class Sample:
    """One recording: what is said, by which voice."""

    file: str
    text: str
    language: str
    gender: str
    voice: str
    command: str
    licence: str = "CC0-1.0"


def sample(name: str, text: str, gender: str, voice: str) -> Sample:
    """A row; `voice` is ``flite NAME`` or ``espeak-ng NAME``, as in the command that speaks it."""
    program, voice_name = voice.split()
    quoted = f"'{text}'"
    if program == "flite":
        command = f"flite -voice {voice_name} -t {quoted} -o OUT.wav"
    else:
        command = f"espeak-ng -v {voice_name} -w OUT.wav {quoted}"
    language = "zh" if voice_name.startswith("cmn") else "en"
    return Sample(f"{name}.flac", text, language, gender, voice, command)


SAMPLES = (
    sample("digits-1", "four one seven two nine", "female", "espeak-ng en-us+f2"),
    sample("digits-2", "six zero eight three", "male", "espeak-ng en-gb+m3"),
    sample("digits-3", "nine five five one zero eight", "female", "flite slt"),
    sample("digits-4", "eight four one", "male", "flite rms"),
    sample("words-1", "project open file", "female", "flite slt"),
    sample("words-2", "close file signal", "male", "flite awb"),
    sample("words-3", "北京语音识别", "female", "espeak-ng cmn+linda"),
    sample("words-4", "上海数字背景", "male", "espeak-ng cmn+m3"),
)


def speak(row: Sample) -> np.ndarray:
    """The recording [T], mono 16 kHz."""
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "out.wav"
        program, voice_name = row.voice.split()
        if program == "flite":
            arguments = ["flite", "-voice", voice_name, "-t", row.text, "-o", str(wav)]
        else:
            arguments = ["espeak-ng", "-v", voice_name, "-w", str(wav), row.text]
        subprocess.run(arguments, check=True)
        samples_T, rate_hz = soundfile.read(wav, dtype="float32")
    samples_T = soxr.resample(trim(samples_T), rate_hz, RATE_HZ)
    pause_T = np.zeros(round(PAUSE_S * RATE_HZ), np.float32)
    return np.concatenate([pause_T, samples_T * (PEAK / np.abs(samples_T).max()), pause_T])


def trim(samples_T: np.ndarray) -> np.ndarray:
    """Without what is below a hundredth of the peak at both ends."""
    loud = np.flatnonzero(np.abs(samples_T) > np.abs(samples_T).max() / 100)
    return samples_T[loud[0] : loud[-1] + 1]


def main() -> int:
    """Write every recording and `truth.jsonl`; the argument is the folder."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for row in SAMPLES:
        samples_T = speak(row)
        soundfile.write(folder / row.file, samples_T, RATE_HZ, subtype="PCM_16")
        lines.append(json.dumps({**asdict(row), "duration_s": round(len(samples_T) / RATE_HZ, 2)}, ensure_ascii=False))
        print(f"{row.file:16} {len(samples_T) / RATE_HZ:5.2f} s  {row.text}")
    (folder / "truth.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
