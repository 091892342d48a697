"""The samples are what `samples/truth.jsonl` says, and the base install understands them: no torch, no other extra."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
TRUTH: list[dict[str, Any]] = [
    json.loads(line) for line in (SAMPLES / "truth.jsonl").read_text(encoding="utf-8").splitlines()
]
NOT_IN_BASE = ("torch", "transformers", "onnx", "safetensors", "accelerate", "peft", "lhotse", "matplotlib")

UNDERSTAND = f"""
import json, sys
for name in {NOT_IN_BASE!r}:
    sys.modules[name] = None  # importing it now raises ModuleNotFoundError
import zhiyin
model = zhiyin.load()
for path in sys.argv[1:]:
    print(json.dumps(model.understand(path, tasks=["asr", "sgc"]).to_dict()))
"""

COMMAND = f"""
import sys
for name in {NOT_IN_BASE!r}:
    sys.modules[name] = None
from zhiyin.cli import main
main(["understand", *sys.argv[1:]])
"""


def test_truth_names_every_recording() -> None:
    assert {row["file"] for row in TRUTH} == {path.name for path in SAMPLES.glob("*.flac")}
    assert {row["licence"] for row in TRUTH} == {"CC0-1.0"}


@pytest.mark.parametrize("row", TRUTH, ids=lambda row: row["file"])
def test_recordings_are_small_and_ordinary(row: dict[str, Any]) -> None:
    path = SAMPLES / row["file"]
    samples_T, rate_hz = soundfile.read(path, dtype="float32", always_2d=False)
    assert rate_hz == 16_000 and samples_T.ndim == 1
    assert path.stat().st_size < 150_000
    assert len(samples_T) / rate_hz == pytest.approx(row["duration_s"], abs=0.01)
    assert np.abs(samples_T).max() == pytest.approx(10 ** (-3 / 20), abs=1e-3)


def letters(text: str) -> str:
    """The text without spaces: a corpus may or may not put them between Chinese words."""
    return "".join(text.lower().split())


def figures(text: str) -> str:
    """A string of digits as it is read, anything else as it is."""
    digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    said = text.split()
    return "".join(str(digits.index(word)) for word in said) if set(said) <= set(digits) else text


def run(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python code in a fresh process."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=SAMPLES.parent, capture_output=True, text=True, encoding="utf-8")


def test_the_base_install_understands_the_samples() -> None:
    done = run(UNDERSTAND, *(SAMPLES / row["file"] for row in TRUTH))
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [letters(result["text"]) for result in results] == [letters(row["text"]) for row in TRUTH]
    assert [result["labels"] for result in results] == [{"sgc": row["gender"]} for row in TRUTH]


@pytest.mark.parametrize("options", [(), ("--no-itn",)], ids=["written", "spoken"])
def test_the_demo_command_prints_what_is_said(options: tuple[str, ...]) -> None:
    done = run(COMMAND, "samples", "--task", "asr,sgc", *options)
    assert done.returncode == 0, done.stderr
    printed = letters(done.stdout)
    wanted = [row["text"] if options else figures(row["text"]) for row in TRUTH]
    assert all(letters(text) in printed for text in wanted), done.stdout
    genders = [line.removeprefix("gender: ") for line in done.stdout.splitlines() if line.startswith("gender: ")]
    assert genders == [row["gender"] for row in TRUTH]
