"""Labelled speech from text-to-speech voices and from joined words, all marked `source: synthetic`.

Voices: espeak-ng (with its +f/+m variants) and flite, run as programs: tools of the recipe, not of the package.
"""

import random
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.audio.io import load
from zhiyin.data.manifest import Record, write
from zhiyin.errors import UserError
from zhiyin.tasks.render import TimedWord

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen")
ZH_NUMBERS = ("零", "一", "二", "三", "四", "五", "六", "七", "八", "九")
ZH_WORDS = ("数字", "语音", "语言", "识别", "中国", "总工", "北京", "背景", "上海", "商行", "复旦", "饭店")
GRID = (
    ("bin", "lay", "place", "set"),
    ("blue", "green", "red", "white"),
    ("at", "by", "in", "with"),
    tuple("abcdefghijklmnopqrstuvxyz"),
    DIGITS,
    ("again", "now", "please", "soon"),
)
COMMANDS = ("open", "close", "process", "project", "signal", "file", "computer", "speech")


@dataclass(frozen=True)
class Voice:
    """A voice of a synthesiser; `held_out` voices never make training data."""

    program: str  # espeak-ng or flite
    name: str
    language: str
    gender: str
    held_out: bool = False


def voices() -> list[Voice]:
    """All voices of the recipe: about forty, two languages."""
    out = [
        Voice("flite", name, "en", gender)
        for name, gender in (("slt", "female"), ("rms", "male"), ("awb", "male"), ("kal16", "male"))
    ]
    for base, language in (("en-us", "en"), ("en-gb", "en"), ("en-gb-scotland", "en"), ("cmn", "zh")):
        out.append(Voice("espeak-ng", base, language, "male"))
        for variant in ("f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m7"):
            gender = "female" if variant[0] == "f" else "male"
            out.append(Voice("espeak-ng", f"{base}+{variant}", language, gender, held_out=variant in ("f4", "m5")))
    return out


def say(voice: Voice, text: str, *, words_per_minute: int = 150, pitch: int = 50) -> Float32:
    """Speak `text`; mono 16 kHz in [-1, 1].

    Raises:
        UserError: the program is not installed or fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        if voice.program == "flite":
            stretch = 150 / words_per_minute
            command = [
                "flite",
                "-voice",
                voice.name,
                "--setf",
                f"duration_stretch={stretch:.2f}",
                "-t",
                text,
                "-o",
                str(path),
            ]
        else:
            command = [
                "espeak-ng",
                "-v",
                voice.name,
                "-s",
                str(words_per_minute),
                "-p",
                str(pitch),
                "-w",
                str(path),
                text,
            ]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=60)
        except FileNotFoundError as error:
            raise UserError(
                f"synthesis: {voice.program} is not installed; install the package {voice.program}"
            ) from error
        except subprocess.CalledProcessError as error:
            raise UserError(f"synthesis: {' '.join(command[:3])} failed: {error.stderr.decode()[-200:]!r}") from error
        return load(path)


@dataclass(frozen=True)
class Line:
    """One utterance to be spoken and what is true of it beyond its text."""

    text: str
    language: str
    answer: str = ""
    translation: str = ""


def digit_string(rng: random.Random) -> Line:
    """One to seven English digits."""
    digits = [rng.randrange(10) for _ in range(rng.choice((1, 2, 3, 3, 4, 4, 5, 6, 7)))]
    return Line(" ".join(DIGITS[d] for d in digits), "en", translation="".join(ZH_NUMBERS[d] for d in digits))


def command(rng: random.Random) -> Line:
    """A GRID sentence or a few command words."""
    if rng.random() < 0.6:
        return Line(" ".join(rng.choice(words) for words in GRID), "en")
    return Line(" ".join(rng.choice(COMMANDS) for _ in range(rng.randint(1, 4))), "en")


def chinese(rng: random.Random) -> Line:
    """Chinese digits or words."""
    if rng.random() < 0.5:
        digits = [rng.randrange(10) for _ in range(rng.randint(2, 6))]
        return Line("".join(ZH_NUMBERS[d] for d in digits), "zh", translation=" ".join(DIGITS[d] for d in digits))
    return Line("".join(rng.choice(ZH_WORDS) for _ in range(rng.randint(1, 4))), "zh")


def question(rng: random.Random) -> Line:
    """A small sum or a neighbour in counting, with its answer, in English or Chinese."""
    a, b = rng.randrange(10), rng.randrange(10)
    low, high = min(a, b), max(a, b)
    number = (*DIGITS, *TEENS)
    zh = [*ZH_NUMBERS, "十", *(f"十{ZH_NUMBERS[i]}" for i in range(1, 9))]
    return rng.choice(
        (
            Line(f"what is {number[a]} plus {number[b]}", "en", answer=number[a + b]),
            Line(f"what is {number[high]} minus {number[low]}", "en", answer=number[high - low]),
            Line(f"what comes after {number[a]}", "en", answer=number[a + 1]),
            Line(f"{zh[a]}加{zh[b]}等于几", "zh", answer=zh[a + b]),
            Line(f"{zh[high]}减{zh[low]}等于几", "zh", answer=zh[high - low]),
        )
    )


GRAMMARS: dict[str, Callable[[random.Random], Line]] = {
    "digits": digit_string,
    "commands": command,
    "chinese": chinese,
    "questions": question,
}


def speak_all(folder: Path, counts: dict[str, int], *, seed: int, held_out: bool, workers: int = 2) -> list[Record]:
    """Speak `counts` lines of each grammar with random voices, rates and pitches into `folder`; writes its manifest."""
    rng = random.Random(seed)
    jobs: list[tuple[str, Line, Voice, int, int]] = []
    pool = [voice for voice in voices() if voice.held_out == held_out]
    for grammar, count in counts.items():
        for i in range(count):
            line = GRAMMARS[grammar](rng)
            voice = rng.choice([voice for voice in pool if voice.language == line.language])
            jobs.append((f"syn_{grammar}_{i:05d}", line, voice, rng.randint(110, 190), rng.randint(35, 65)))
    folder.mkdir(parents=True, exist_ok=True)

    def make(job: tuple[str, Line, Voice, int, int]) -> Record:
        key, line, voice, rate, pitch = job
        path = folder / f"{key}.flac"
        if not path.exists():
            # espeak's English reads a lone "a" as the article; the letter is meant
            spoken = line.text.replace(" a ", " A, ") if line.language == "en" else line.text
            _save(path, say(voice, spoken, words_per_minute=rate, pitch=pitch))
        return Record(
            id=key,
            audio=path,
            duration_s=round(soundfile.info(path).duration, 3),
            tasks=("asr", "sgc", *(("sttc",) if line.answer else ()), *(("ast",) if line.translation else ())),
            text=line.text,
            labels={"sgc": voice.gender},
            answer=line.answer,
            translation=line.translation,
            language=line.language,
            speaker=f"{voice.program}:{voice.name}",
            source="synthetic",
            licence="CC0-1.0",
        )

    with ThreadPoolExecutor(workers) as threads:
        records = list(threads.map(make, jobs))
    write(folder / "manifest.jsonl", records)
    return records


def join_words(folder: Path, words: Sequence[Record], count: int, *, seed: int) -> list[Record]:
    """Strings of two to six word recordings of one speaker, with silence between and exact times."""
    rng = random.Random(seed)
    by_speaker: dict[tuple[str, str], list[Record]] = {}
    for record in words:
        by_speaker.setdefault((record.speaker, record.language), []).append(record)
    keys = sorted(by_speaker)
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for i in range(count):
        key = rng.choice(keys)
        parts = [rng.choice(by_speaker[key]) for _ in range(rng.randint(2, 6))]
        path = folder / f"join_{i:05d}.flac"
        samples, times = _joined(parts, rng)
        if not path.exists():
            _save(path, samples)
        language = key[1]
        out.append(
            Record(
                id=path.stem,
                audio=path,
                duration_s=round(len(samples) / SAMPLE_RATE_HZ, 3),
                tasks=("asr", "srwt", *(t for t in ("sgc",) if "sgc" in parts[0].labels)),
                text=("" if language == "zh" else " ").join(part.text or "" for part in parts),
                words=tuple(times),
                labels={k: v for k, v in parts[0].labels.items() if k == "sgc"},
                language=language,
                speaker=key[0],
                source="synthetic-join",
                licence=parts[0].licence,
            )
        )
    write(folder / "manifest.jsonl", out)
    return out


def _joined(parts: Sequence[Record], rng: random.Random) -> tuple[Float32, list[TimedWord]]:
    noise = np.random.default_rng(rng.randrange(2**32))
    pieces: list[Float32] = []
    times: list[TimedWord] = []
    place_s = 0.0
    for part in parts:
        gap_s = rng.uniform(0.05, 0.45)
        pieces.append((noise.standard_normal(int(gap_s * SAMPLE_RATE_HZ)) * 3e-4).astype(np.float32))
        samples = load(part.audio)
        inner = part.words[0]
        times.append(TimedWord(inner.text, place_s + gap_s + inner.start_s, place_s + gap_s + inner.end_s))
        pieces.append(samples)
        place_s += len(pieces[-2]) / SAMPLE_RATE_HZ + len(samples) / SAMPLE_RATE_HZ
    return np.concatenate(pieces), times


def _save(path: Path, samples: Float32) -> None:
    temporary = path.with_suffix(".part.flac")
    soundfile.write(temporary, np.clip(samples, -1, 1), SAMPLE_RATE_HZ, subtype="PCM_16")
    temporary.replace(path)
