"""Windows hold all speech, never exceed the limit, do not depend on the blocks, and memory stays constant."""

import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.audio import vad, windows
from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.audio.io import load
from zhiyin.audio.silero import CHUNK_SAMPLES
from zhiyin.audio.vad import Span, spans
from zhiyin.audio.windows import SILENCE_PEAK, Window, cut

RNG = np.random.default_rng(0)
NOISE_T = RNG.uniform(-1, 1, 60 * SAMPLE_RATE_HZ).astype(np.float32)


class Energy:
    """Stands for the network where a test needs speech to be wherever it is loud."""

    def probabilities(self, samples_T: Float32) -> Float32:
        return (np.abs(samples_T.reshape(-1, CHUNK_SAMPLES)).max(axis=1) > 0.1).astype(np.float32)


@pytest.fixture
def loud_is_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vad, "Silero", Energy)
    monkeypatch.setattr(windows, "is_steady", lambda samples_T: False)  # the speech of these tests is noise


def noise(seconds: float, amplitude: float = 0.5) -> Float32:
    return NOISE_T[: round(seconds * SAMPLE_RATE_HZ)] * np.float32(amplitude)


def hush(seconds: float) -> Float32:
    return noise(seconds, 0.003)


def divided(samples_T: Float32, block: int) -> Iterator[Float32]:
    for start in range(0, len(samples_T), block):
        yield samples_T[start : start + block]


def check(made: list[Window], samples_T: Float32, limit_s: float) -> None:
    """What holds for the windows of any recording."""
    before: Window | None = None
    for window in made:
        start = round(window.start_s * SAMPLE_RATE_HZ)
        assert 0 < len(window.samples_T) <= limit_s * SAMPLE_RATE_HZ + 1
        assert np.array_equal(window.samples_T, samples_T[start : start + len(window.samples_T)])
        assert window.start_s <= window.spans[0].start_s and window.spans[-1].end_s <= window.end_s + 1e-3
        if before is not None:
            assert window.spans[0].start_s >= before.spans[-1].end_s - 1e-9
            assert window.start_s - before.end_s == pytest.approx(-window.overlap_s, abs=1e-4) or (
                window.overlap_s == 0 and window.start_s >= before.end_s - 1e-4
            )
        before = window


def join(found: list[Span]) -> list[Span]:
    """Spans with those that touch made one."""
    joined: list[Span] = []
    for span in found:
        if joined and span.start_s - joined[-1].end_s < 1e-9:
            joined[-1] = Span(joined[-1].start_s, span.end_s)
        else:
            joined.append(span)
    return joined


PARTS = st.lists(st.tuples(st.booleans(), st.floats(0.05, 6.0)), min_size=1, max_size=12)


@given(parts=PARTS, block=st.sampled_from([700, 16_000, 50_001, 480_000]), limit_s=st.sampled_from([4.0, 5.0, 15.0]))
def test_windows_of_any_recording(parts: list[tuple[bool, float]], block: int, limit_s: float) -> None:
    samples_T = np.concatenate([noise(seconds) if is_loud else hush(seconds) for is_loud, seconds in parts])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vad, "Silero", Energy)
        patch.setattr(windows, "is_steady", lambda samples_T: False)
        expected = list(spans([samples_T]))
        made = list(cut(divided(samples_T, block), limit_s=limit_s))
        again = list(cut([samples_T], limit_s=limit_s))
    check(made, samples_T, limit_s)
    assert join([span for window in made for span in window.spans]) == expected  # all speech, nothing else, in order
    assert [(w.start_s, w.spans, w.overlap_s) for w in made] == [(w.start_s, w.spans, w.overlap_s) for w in again]
    assert [len(w.samples_T) for w in made] == [len(w.samples_T) for w in again]


def test_close_spans_share_a_window(loud_is_speech: None) -> None:
    close_T = np.concatenate([hush(1), noise(2), hush(0.5), noise(3), hush(1.5), noise(1), hush(1)])
    made = list(cut([close_T], limit_s=15))
    assert [len(window.spans) for window in made] == [2, 1]
    assert made[0].start_s == pytest.approx(1 - 0.06 - 0.3, abs=0.04)
    assert made[0].end_s == pytest.approx(6.5 + 0.06 + 0.3, abs=0.04)
    assert [len(window.spans) for window in cut([close_T], limit_s=5)] == [1, 1, 1]  # does not fit
    assert [len(window.spans) for window in cut([close_T], limit_s=15, context_s=0.15, join_gap_s=0.3)] == [1, 1, 1]
    assert [len(window.spans) for window in cut([close_T], limit_s=15, join_gap_s=2.0)] == [3]


def test_a_long_span_is_cut_in_its_quietest_place(loud_is_speech: None) -> None:
    loud_T = noise(30)
    for at_s in (11.0, 12.5, 13.5):
        start = round(at_s * SAMPLE_RATE_HZ)
        samples_T = loud_T.copy()
        samples_T[start : start + round(0.17 * SAMPLE_RATE_HZ)] *= 0.01  # shorter than what ends a span
        first, second, *_ = cut([samples_T], limit_s=15)
        assert at_s < first.end_s < at_s + 0.17 and first.overlap_s == second.overlap_s == 0.0
        assert second.start_s == pytest.approx(first.end_s, abs=1e-4)


def test_where_no_place_is_quiet_windows_overlap(loud_is_speech: None) -> None:
    made = list(cut([noise(30)], limit_s=15, overlap_s=1.5))
    check(made, noise(30), 15)
    assert len(made) == 3 and [window.overlap_s for window in made] == [0.0, 1.5, 1.5]
    assert all(right.start_s < left.end_s for left, right in pairwise(made))


def test_silence_gives_no_window(loud_is_speech: None) -> None:
    length = 5 * SAMPLE_RATE_HZ
    silent = [np.zeros(length), noise(5, SILENCE_PEAK * 0.99), noise(5, SILENCE_PEAK * 0.99) + 0.3, np.zeros(0)]
    for samples in silent:
        for limit_s in (4.0, 15.0):
            for keep in (False, True):
                assert list(cut([samples.astype(np.float32)], limit_s=limit_s, keep_nonspeech=keep)) == []
    assert list(cut([], limit_s=15, keep_nonspeech=True)) == []
    (window,) = cut([noise(5, SILENCE_PEAK * 1.1)], limit_s=15, keep_nonspeech=True)
    assert window.end_s == 5.0


def test_a_constant_offset_is_not_speech(loud_is_speech: None) -> None:
    """Even what the detector takes for speech gives no window when nothing moves."""
    assert list(spans([np.full(80_000, 0.5, np.float32)]))
    assert list(cut([np.full(80_000, 0.5, np.float32)], limit_s=15)) == []


def test_a_short_recording_is_kept_whole_when_asked(loud_is_speech: None) -> None:
    cough_T = hush(4)
    cough_T[16_000:24_000] *= 20
    assert list(cut([cough_T], limit_s=15)) == []
    (window,) = cut(divided(cough_T, 1000), limit_s=15, keep_nonspeech=True)
    assert window == Window(0.0, window.samples_T) and np.array_equal(window.samples_T, cough_T)
    speech_T = np.concatenate([cough_T, noise(1), hush(1)])
    (window,) = cut([speech_T], limit_s=15, keep_nonspeech=True)
    assert np.array_equal(window.samples_T, speech_T)
    assert window.spans == tuple(spans([speech_T])) != ()


def test_a_long_recording_without_speech_gives_its_loudest_part_when_asked(loud_is_speech: None) -> None:
    cry_T = hush(40)
    cry_T[27 * 16_000 : 29 * 16_000] *= 20
    assert list(cut([cry_T], limit_s=10)) == []
    (window,) = cut(divided(cry_T, 7001), limit_s=10, keep_nonspeech=True)
    assert (window.start_s, window.end_s, window.spans) == (20.0, 30.0, ())
    assert np.array_equal(window.samples_T, cry_T[20 * 16_000 : 30 * 16_000])
    with_speech_T = np.concatenate([cry_T, noise(2), hush(1)])
    kept, plain = (list(cut([with_speech_T], limit_s=10, keep_nonspeech=keep)) for keep in (True, False))
    assert [window.start_s for window in kept] == [window.start_s for window in plain] != []


def test_memory_does_not_grow_with_the_recording(loud_is_speech: None) -> None:
    """Two hours need what five minutes need; counted in samples that are held, by the allocator."""
    speech_T = np.concatenate([noise(9), hush(0.4), noise(13), hush(1.6), noise(6)])

    def held_samples(seconds: float, base_T: Float32) -> tuple[int, float]:
        count = heard_s = 0.0
        tracemalloc.start()
        try:
            for window in cut((base_T + np.float32(0) for _ in range(round(seconds / 30))), limit_s=15):
                count += 1
                heard_s += len(window.samples_T) / SAMPLE_RATE_HZ
            return tracemalloc.get_traced_memory()[1] // 4, heard_s
        finally:
            tracemalloc.stop()

    short, _ = held_samples(300, speech_T)
    long, heard_s = held_samples(7200, speech_T)
    assert heard_s > 6000
    assert long < 1.02 * short and long < 200 * SAMPLE_RATE_HZ
    for base_T in (hush(30), noise(30)):  # an endless pause, endless speech
        assert held_samples(600, base_T)[0] < 200 * SAMPLE_RATE_HZ


def test_with_the_real_detector(repository: Path) -> None:
    files = sorted((repository / "samples").glob("*.flac"))
    samples_T = np.concatenate([np.pad(load(file), (0, 4_000)) for file in files])
    samples_T += RNG.normal(0, 1e-4, len(samples_T)).astype(np.float32)
    for limit_s in (4.0, 15.0):
        made = list(cut(divided(samples_T, 30_000), limit_s=limit_s))
        check(made, samples_T, limit_s)
        assert join([s for w in made for s in w.spans]) == list(spans([samples_T]))
    assert len(made) < len(files)


@pytest.mark.parametrize(
    "wrong",
    [{"limit_s": 0.5}, {"limit_s": 3.0}, {"limit_s": 9, "context_s": 0.4}, {"limit_s": 9, "overlap_s": -1.0}],
)
def test_lengths_that_contradict_each_other(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="limit"):
        list(cut([], **wrong))  # type: ignore[arg-type]


def test_the_quietest_place_is_found_by_brute_force() -> None:
    samples_T = noise(3) * np.repeat(RNG.uniform(0.2, 1.0, 300), 160).astype(np.float32)
    at_s, _ = windows._quietest(samples_T, 1.0, 2.0)
    power = [np.mean(np.square(samples_T[start : start + 2400], dtype=np.float64)) for start in range(0, 45_601, 160)]
    middles_s = np.arange(len(power)) / 100 + 0.075
    inside = [index for index, middle_s in enumerate(middles_s) if 1.0 <= middle_s <= 2.0]
    assert at_s == pytest.approx(middles_s[min(inside, key=lambda index: power[index])])
