"""Splits: speakers apart, shares kept, labels spread, the same for the same seed; compared with brute force."""

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhiyin.data.manifest import Record
from zhiyin.data.split import assign, split
from zhiyin.errors import UserError

EMOTIONS = ("happy", "sad", "anger")


def corpus(num_speakers: int, seed: int) -> list[Record]:
    """Records of speakers who differ in length and in what they feel."""
    rng = random.Random(seed)
    out = []
    for speaker in range(num_speakers):
        for number in range(rng.randint(1, 12)):
            label = EMOTIONS[min(2, int(rng.expovariate(1.0)))]
            key = f"{speaker}-{number}"
            out.append(
                Record(
                    key,
                    Path(key),
                    rng.uniform(0.5, 5),
                    ("asr", "ser"),
                    "x",
                    labels={"ser": label},
                    speaker=f"s{speaker}",
                )
            )
    return out


@settings(max_examples=40)
@given(st.integers(3, 40), st.integers(0, 1000), st.sampled_from([5.0, 10.0, 30.0]))
def test_speakers_stay_together_and_nothing_is_lost(num_speakers: int, seed: int, percent: float) -> None:
    records = corpus(num_speakers, seed)
    done = split(records, by="speaker", dev=percent, test=percent, seed=seed)
    assert sorted(r.id for part in done.records.values() for r in part) == sorted(r.id for r in records)
    homes = {name: {r.speaker for r in part} for name, part in done.records.items()}
    assert all(not a & b for a, b in itertools.combinations(homes.values(), 2)) and all(homes.values())
    mixed = random.Random(seed).sample(records, len(records))
    again = split(mixed, by="speaker", dev=percent, test=percent, seed=seed)
    for name, speakers in homes.items():
        assert {r.speaker for r in again.records[name]} == speakers, "the order of the lines does not count"
        assert [r.id for r in done.records[name]] == [r.id for r in records if r.speaker in speakers]


def test_shares_and_labels_are_close_with_many_speakers() -> None:
    records = corpus(300, 7)
    done = split(records, by="speaker", dev=10, test=10, seed=3)
    for name, share in (("train", 0.8), ("dev", 0.1), ("test", 0.1)):
        for label in (None, *EMOTIONS):
            whole = sum(r.duration_s for r in records if label in (None, r.labels["ser"]))
            part = sum(r.duration_s for r in done.records[name] if label in (None, r.labels["ser"]))
            assert part / whole == pytest.approx(share, rel=0.05), (name, label)
    other = split(records, by="speaker", dev=10, test=10, seed=4)
    assert {r.id for r in other.records["dev"]} != {r.id for r in done.records["dev"]}


def test_no_division_is_much_better() -> None:
    """Every way to divide eight groups, priced by the formula written out; ours is near the best and beats most."""
    shares = np.array([0.6, 0.2, 0.2])
    for seed in range(12):
        seconds_GK = np.random.default_rng(seed).uniform(0, 5, (8, 2))
        seconds_GK[:, 0] = seconds_GK.sum(1)
        total = seconds_GK.sum(0)

        def price(homes: tuple[int, ...], of: np.ndarray = seconds_GK, total: np.ndarray = total) -> float:
            sums = [[sum(of[g, k] for g in range(8) if homes[g] == s) for k in range(2)] for s in range(3)]
            wanted = [[shares[s] * total[k] for k in range(2)] for s in range(3)]
            return sum((sums[s][k] - wanted[s][k]) ** 2 / wanted[s][k] / total[k] for s in range(3) for k in range(2))

        every = sorted(price(homes) for homes in itertools.product(range(3), repeat=8) if len(set(homes)) == 3)
        ours = price(tuple(assign(seconds_GK, shares)))
        assert ours <= every[len(every) // 20], (seed, ours, every[0])


def test_records_without_a_speaker_are_groups_of_their_own() -> None:
    records = [Record(str(i), Path("a"), 1.0, ("asr",), "x") for i in range(100)]
    done = split(records, by="speaker", dev=10, test=0, seed=1)
    assert {name: len(part) for name, part in done.records.items()} == {
        "train": 90,
        "dev": 10,
    } and done.ungrouped == 100


@pytest.mark.parametrize(
    ("by", "dev", "said"), [("speakr", 5, "--by 'speakr'"), ("speaker", 95, "below 100"), ("speaker", 5, "too few")]
)
def test_what_cannot_be_divided_is_refused(by: str, dev: float, said: str) -> None:
    records = [Record(str(i), Path("a"), 1.0, ("asr",), "x", speaker="one") for i in range(3)]
    with pytest.raises(UserError, match=said):
        split(records, by=by, dev=dev, test=5, seed=1)
