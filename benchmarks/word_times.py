"""How far word times from the CTC head are from the truth, on strings of words with known times.

    python benchmarks/word_times.py PACK [--model BUNDLE] [--split dev] [--source composite]

PACK is the folder of the speech pack. The model must have a CTC head; that it does not offer word times does not matter
here. Prints a Markdown table: the boundaries by pauses, as the pipeline makes them, and by tokens alone.
"""

import argparse
import dataclasses
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import zhiyin
from zhiyin.audio import pauses as detector
from zhiyin.audio.vad import Span
from zhiyin.data.corpora import speech_pack
from zhiyin.evaluate.times import TOLERANCES_S, average_shift_s, hit_rate, shifts


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--source", default="composite")
    given = parser.parse_args()
    model = zhiyin.load(given.model)
    backend = model.loaded.backend
    backend.spec = dataclasses.replace(backend.spec, tasks=tuple(dict.fromkeys((*backend.spec.tasks, "srwt"))))
    records = [one for one in speech_pack.read(given.pack, given.split) if one.source == given.source and one.words]
    print("| boundaries | language | right | words | AAS ms | within 50 ms | 100 ms | 200 ms |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    find = detector.find
    for name, pauses in (("pauses", find), ("tokens", _none)):
        detector.find = pauses
        found: dict[str, list[list[float] | None]] = defaultdict(list)
        for record in records:
            heard = [asdict(word) for one in model.understand(record.audio, "srwt").segments for word in one.words]
            found[record.language].append(shifts([asdict(word) for word in record.words], heard))
        for language, rows in sorted(found.items()):
            values = [shift for row in rows if row is not None for shift in row]
            hits = " | ".join(f"{100 * hit_rate(values, tolerance_s):.1f} %" for tolerance_s in TOLERANCES_S)
            right = f"{sum(row is not None for row in rows)} of {len(rows)}"
            aas_ms = 1000 * average_shift_s(values)
            print(f"| {name} | {language} | {right} | {len(values) // 2} | {aas_ms:.0f} | {hits} |")


def _none(samples_T: object) -> tuple[Span, ...]:
    return ()


if __name__ == "__main__":
    main()
