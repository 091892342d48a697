"""Latency and errors of live understanding, in a paced simulation.

    taskset -c 0,1 python benchmarks/live.py PACK [--split dev,test] [--block 0.064] [--step 0.3] [--hangover 0.24] ...

PACK is the folder of the speech pack. Strings of words whose times are known because they were put together
(`composite`, and as many more as --strings says, made of single words of one speaker with pauses of 0.1 to 0.35 s), and
our own samples, stand one after the other in one stream, with pauses of 0.8 to 2 s.

The stream is fed in blocks on a virtual clock: a block is there when its last sample is; what the session then computes
takes as long as it really took; what arrives meanwhile waits and comes as one block, as in `zhiyin listen`. So a run
takes only the time of the computing, and the latencies are those of a real stream on this machine. On a machine that is
busy with other things, --cpu-time counts what the process itself computed (give --threads 1).

Prints a Markdown table: first text and first committed word after the end of the first word, final segment after the
end of the last word, word errors beside those of `pipeline.understand` on the same recordings.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from measure import SAMPLES

import zhiyin
from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.audio.io import load
from zhiyin.data.corpora import speech_pack
from zhiyin.data.manifest import Record
from zhiyin.live.events import Event, Final, Partial
from zhiyin.live.session import LiveSession, Settings
from zhiyin.text.score import edits, words

PAUSE_S = (0.8, 2.0)
NOISE = 10 ** (-70 / 20)  # the pauses: white noise of a quiet line, not digital silence
GAP_S = (0.1, 0.35)
SINGLE_WORDS = ("fsdd", "dsp20")
SEED = 7


@dataclass(frozen=True)
class Clip:
    """One recording, where it begins in the stream, and when its first and last word end, in the stream."""

    samples_T: Float32
    text: str
    start_s: float
    first_end_s: float | None
    last_end_s: float | None


@dataclass(frozen=True)
class Heard:
    """An event and when it was there, on the virtual clock."""

    event: Event
    at_s: float


Known = tuple[Float32, str, float | None, float | None]  # samples, text, ends of the first and the last word


def clips(pack: Path, splits: list[str], strings: int) -> tuple[list[Clip], Float32]:
    """The clips and the stream they make."""
    found: list[Known] = []
    for split in splits:
        records = [one for one in speech_pack.read(pack, split) if one.words]
        for one in records:
            if one.source == "composite":
                found.append((load(one.audio), one.text or "", one.words[0].end_s, one.words[-1].end_s))
        found += made([one for one in records if one.source in SINGLE_WORDS], strings // len(splits))
    truth = [json.loads(line) for line in (SAMPLES / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
    found += [(load(SAMPLES / row["file"]), row["text"], None, None) for row in truth]
    rng = np.random.default_rng(SEED)
    pieces: list[Float32] = []
    placed: list[Clip] = []
    for number in rng.permutation(len(found)):
        samples_T, text, first_s, last_s = found[number]
        pieces.append(_pause(rng))
        start_s = sum(map(len, pieces)) / SAMPLE_RATE_HZ
        ends = [None if at_s is None else start_s + at_s for at_s in (first_s, last_s)]
        placed.append(Clip(samples_T, text, start_s, ends[0], ends[1]))
        pieces.append(samples_T)
    return placed, np.concatenate([*pieces, _pause(rng)])


def made(records: list[Record], count: int) -> list[Known]:
    """Strings of three to six single words of one speaker, with short pauses."""
    rng = np.random.default_rng(SEED)
    speakers = sorted({(one.speaker, one.language) for one in records})
    found: list[Known] = []
    for number in range(count):
        own = [one for one in records if (one.speaker, one.language) == speakers[number % len(speakers)]]
        pieces: list[Float32] = []
        said: list[tuple[str, float]] = []
        for one in rng.choice(np.array(own, dtype=object), rng.integers(3, 7)):
            begun_s = sum(map(len, pieces)) / SAMPLE_RATE_HZ
            said.append((one.text, begun_s + one.words[-1].end_s))
            pieces += [load(one.audio), _noise(rng, rng.uniform(*GAP_S))]
        found.append((np.concatenate(pieces), " ".join(text for text, _ in said), said[0][1], said[-1][1]))
    return found


def _pause(rng: np.random.Generator) -> Float32:
    return _noise(rng, rng.uniform(*PAUSE_S))


def _noise(rng: np.random.Generator, seconds: float) -> Float32:
    return (NOISE * rng.standard_normal(int(seconds * SAMPLE_RATE_HZ))).astype(np.float32)


def stream(
    session: LiveSession, samples_T: Float32, block_s: float, clock: Callable[[], float]
) -> tuple[list[Heard], float]:
    """Everything a session said, and the seconds it computed."""
    block = round(block_s * SAMPLE_RATE_HZ)
    heard: list[Heard] = []
    clock_s = busy_s = 0.0
    done = 0
    while done < len(samples_T):
        there = min(len(samples_T), max(done + block, int(clock_s * SAMPLE_RATE_HZ) // block * block))
        began_s = clock()
        events = session.push(samples_T[done:there])
        took_s = clock() - began_s
        done = there
        clock_s = max(clock_s, done / SAMPLE_RATE_HZ) + took_s
        busy_s += took_s
        heard += [Heard(event, clock_s) for event in events]
    return heard + [Heard(event, clock_s) for event in session.finish()], busy_s


def of_clip(clip: Clip, heard: list[Heard]) -> list[Heard]:
    """Partials and finals of the speech of one clip."""
    first_s, last_s = clip.start_s - PAUSE_S[0] / 2, clip.start_s + len(clip.samples_T) / SAMPLE_RATE_HZ
    found = []
    for one in heard:
        if isinstance(one.event, (Partial, Final)):
            start_s = one.event.start_s if isinstance(one.event, Partial) else one.event.segment.start_s
            if first_s <= start_s < last_s:
                found.append(one)
    return found


ROWS = ("first text", "first text that begins right", "first committed word", "final segment")


def latencies(clip: Clip, own: list[Heard]) -> tuple[float | None, ...]:
    """Seconds after the end of the first word, of the last for the final segment; None where nothing came."""
    assert clip.first_end_s is not None and clip.last_end_s is not None
    first = words(clip.text)[0]
    said = [(_said(one.event), one.at_s - clip.first_end_s) for one in own]
    text = [at_s for (sure, tail), at_s in said if sure or tail]
    right = [at_s for (sure, tail), at_s in said if words(f"{sure} {tail}")[:1] == [first]]
    committed = [at_s for (sure, _), at_s in said if sure]
    finals = [one.at_s - clip.last_end_s for one in own if isinstance(one.event, Final)]
    return tuple(next(iter(found), None) for found in (text, right, committed, finals[::-1]))


def _said(event: Event) -> tuple[str, str]:
    """What is committed, and what is not."""
    if isinstance(event, Final):
        return event.segment.text, ""
    return (event.committed, event.tail) if isinstance(event, Partial) else ("", "")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--split", default="dev,test")
    parser.add_argument("--model")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--block", type=float, default=0.064, help="seconds of audio that arrive at once")
    parser.add_argument("--strings", type=int, default=0, help="strings made of single words, beside the composites")
    parser.add_argument("--cpu-time", action="store_true", help="latencies from CPU time instead of wall time")
    for field in fields(Settings):
        parser.add_argument(f"--{field.name.removesuffix('_s')}", type=type(field.default), default=field.default)
    given = parser.parse_args()
    settings = Settings(*(getattr(given, field.name.removesuffix("_s")) for field in fields(Settings)))
    model = zhiyin.load(given.model, threads=given.threads)
    placed, samples_T = clips(given.pack, given.split.split(","), given.strings)
    clock = time.process_time if given.cpu_time else time.perf_counter
    LiveSession(model.loaded).push(samples_T[: 8 * SAMPLE_RATE_HZ])  # the first call of everything is slow
    heard, busy_s = stream(LiveSession(model.loaded, settings=settings), samples_T, given.block, clock)
    rows = [latencies(clip, of_clip(clip, heard)) for clip in placed if clip.first_end_s is not None]
    print(f"{settings}, blocks of {given.block:g} s")
    print(f"{len(placed)} recordings, {len(samples_T) / SAMPLE_RATE_HZ:.0f} s; device {model.loaded.backend.device}\n")
    print("| ms after the end of the word | p50 | p95 | worst | none |\n|---|--:|--:|--:|--:|")
    for column, name in enumerate(ROWS):
        values = [1000 * row[column] for row in rows if row[column] is not None]
        p50, p95 = np.quantile(values, [0.5, 0.95])
        print(f"| {name} | {p50:.0f} | {p95:.0f} | {max(values):.0f} | {len(rows) - len(values)} |")
    live = errors(placed, [finals_text(of_clip(clip, heard)) for clip in placed])
    offline = errors(placed, [model.understand(clip.samples_T).text for clip in placed])
    count = sum(len(words(clip.text)) for clip in placed)
    print(f"\nword errors of {count}: live {live} ({100 * live / count:.1f} %), offline {offline}", end=" ")
    print(f"({100 * offline / count:.1f} %), {100 * (live / max(1, offline) - 1):+.0f} % relative")
    print(f"real-time factor {busy_s / (len(samples_T) / SAMPLE_RATE_HZ):.3f}")


def finals_text(own: list[Heard]) -> str:
    """What the finals say."""
    return " ".join(one.event.segment.text for one in own if isinstance(one.event, Final))


def errors(placed: list[Clip], texts: list[str]) -> int:
    """Word errors over all clips."""
    return sum(edits(words(clip.text), words(text)) for clip, text in zip(placed, texts, strict=True))


if __name__ == "__main__":
    main()
