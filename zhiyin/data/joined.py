"""Strings of words put together from recordings of single words by one speaker, with the times of the words exact."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.audio.io import load
from zhiyin.data.manifest import Record, write
from zhiyin.tasks.render import TimedWord


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
