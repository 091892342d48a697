"""The built-in model's word times against strings of words whose times are known."""

import dataclasses
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import zhiyin
from zhiyin.data.corpora import speech_pack
from zhiyin.evaluate.times import average_shift_s, hit_rate, shifts


def test_word_times_of_the_built_in_model(shared: Path) -> None:
    """A third of the development strings; times from the tokens alone are 0.15 s off on average."""
    model = zhiyin.load("pocket")
    backend = model.loaded.backend
    backend.spec = dataclasses.replace(backend.spec, tasks=tuple(dict.fromkeys((*backend.spec.tasks, "srwt"))))
    found: list[float] = []
    records = [one for one in speech_pack.read(shared / "data", "dev") if one.source == "composite"][::3]
    for record in records:
        timed, plain = (model.understand(record.audio, task) for task in ("srwt", "asr"))
        assert timed.text == plain.text
        words = [word for segment in timed.segments for word in segment.words]
        times = [time for word in words for time in (word.start_s, word.end_s)]
        assert times == sorted(times) and all(0 <= time <= timed.duration_s for time in times)
        assert {word.source for word in words} == {"ctc"}
        assert all(word.start_s < word.end_s for word in words)
        assert all(a.end_s <= b.start_s for a, b in pairwise(words))
        found += shifts([asdict(word) for word in record.words], [asdict(word) for word in words]) or []
    assert len(found) > len(records)  # the model knows enough of the words to compare
    assert average_shift_s(found) < 0.05 and hit_rate(found, 0.1) > 0.9
