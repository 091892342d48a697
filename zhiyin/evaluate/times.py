"""How far word times are from the truth: accumulated averaging shift, and hits within a tolerance."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zhiyin.text.score import align

TOLERANCES_S = (0.05, 0.1, 0.2)

TimedRow = Mapping[str, Any]  # ``text``, ``start_s``, ``end_s``, as in `results.jsonl`


def shifts(said: Sequence[TimedRow], heard: Sequence[TimedRow]) -> list[float] | None:
    """Seconds between the boundaries of the words that were said and those that were heard, start and end of each.

    The heard words may divide the text more finely (character by character, where the truth has words): a word then
    goes from the start of its first part to the end of its last.

    Returns:
        Two figures for each word that was said; None where other words were heard, which have no times to compare.
    """
    found: list[float] = []
    at = 0
    for word in said:
        wanted, parts = _letters(word["text"]), list[TimedRow]()
        while at < len(heard) and len("".join(_letters(part["text"]) for part in parts)) < len(wanted):
            parts.append(heard[at])
            at += 1
        if not parts or "".join(_letters(part["text"]) for part in parts) != wanted:
            return None
        found += [abs(parts[0]["start_s"] - word["start_s"]), abs(parts[-1]["end_s"] - word["end_s"])]
    return found if at == len(heard) else None


def matched(said: Sequence[TimedRow], heard: Sequence[TimedRow]) -> list[float]:
    """As `shifts`, but also where other words were heard: of those that were said and heard.

    Both texts are aligned letter by letter with the fewest edits. A word counts as heard if all its letters are,
    without others between them, and are one or more whole words that were heard. Where all words are right these are
    `shifts`.
    """
    expected = [(letter, at) for at, word in enumerate(said) for letter in _letters(word["text"])]
    got = [(letter, at) for at, part in enumerate(heard) for letter in _letters(part["text"])]
    found: list[float] = []
    i = j = 0
    places: dict[int, list[int | None]] = {}
    for one, other in align([letter for letter, _ in expected], [letter for letter, _ in got]):
        if one is not None:
            places.setdefault(expected[i][1], []).append(j if one == other else None)
        i, j = i + (one is not None), j + (other is not None)
    for at, spots in places.items():
        first, last = spots[0], spots[-1]
        if first is None or last is None or spots != list(range(first, last + 1)):
            continue
        begins = first == 0 or got[first - 1][1] != got[first][1]
        ends = last + 1 == len(got) or got[last + 1][1] != got[last][1]
        if begins and ends:
            found.append(abs(heard[got[first][1]]["start_s"] - said[at]["start_s"]))
            found.append(abs(heard[got[last][1]]["end_s"] - said[at]["end_s"]))
    return found


def average_shift_s(found: Iterable[float]) -> float:
    """The accumulated averaging shift (AAS): the mean over all boundaries of all words.

    Source: Shi et al. 2022, "Achieving timestamp prediction while recognizing with non-autoregressive end-to-end ASR
    model".
    """
    values = list(found)
    return sum(values) / len(values) if values else float("nan")


def hit_rate(found: Iterable[float], tolerance_s: float) -> float:
    """Share of boundaries that are no further than this from the truth."""
    values = [shift <= tolerance_s + 1e-9 for shift in found]
    return sum(values) / len(values) if values else float("nan")


def _letters(text: str) -> str:
    return "".join(text.split()).lower()
