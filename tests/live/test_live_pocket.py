"""Live understanding with the real detector and the packaged model."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zhiyin
from tests.fake_model import fake_model
from tests.sounds import sounds
from zhiyin.audio.features import SAMPLE_RATE_HZ
from zhiyin.audio.io import load
from zhiyin.live.events import Event, Final, Partial, SpeechEnded, SpeechStarted
from zhiyin.live.session import LiveSession, Settings
from zhiyin.result import Segment
from zhiyin.text.score import edits, words

PAUSE_T = np.zeros(SAMPLE_RATE_HZ, np.float32)
BLOCK = 1024


@pytest.fixture(scope="module")
def pocket() -> zhiyin.Model:
    return zhiyin.load(threads=1)


@pytest.fixture(scope="module")
def samples(repository: Path) -> tuple[list[str], np.ndarray]:
    """What our samples say, and all of them as one stream."""
    folder = repository / "samples"
    rows = [json.loads(line) for line in (folder / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
    pieces = [piece for row in rows for piece in (load(folder / row["file"]), PAUSE_T)]
    return [row["text"] for row in rows], np.concatenate(pieces)


def run(session: LiveSession, samples_T: np.ndarray, block: int = BLOCK) -> list[Event]:
    events = [event for at in range(0, len(samples_T), block) for event in session.push(samples_T[at : at + block])]
    return [*events, *session.finish()]


def test_our_samples(pocket: zhiyin.Model, samples: tuple[list[str], np.ndarray]) -> None:
    """All that is said comes out, and partials before finals; two words may be wrong."""
    texts, stream_T = samples
    events = run(LiveSession(pocket.loaded), stream_T)
    heard = " ".join(event.segment.text for event in events if isinstance(event, Final))
    assert edits(words(" ".join(texts)), words(heard)) <= 2
    first = next(event for event in events if isinstance(event, Partial))
    assert first.stream_s < next(event for event in events if isinstance(event, Final)).stream_s


def test_speech_does_not_depend_on_blocks(samples: tuple[list[str], np.ndarray]) -> None:
    """Beginnings and ends are the same however the stream arrives; what is known of them is known as early."""
    _, stream_T = samples
    stream_T = stream_T[: 6 * SAMPLE_RATE_HZ]
    model = fake_model("x", ctc=("x",)).loaded

    def marks(block: int) -> list[float]:
        silent = LiveSession(model, compute=lambda works: [Segment(0, 0) for _ in works])
        found = run(silent, stream_T, block)
        return [
            event.start_s if isinstance(event, SpeechStarted) else event.end_s
            for event in found
            if isinstance(event, SpeechStarted | SpeechEnded)
        ]

    wanted = marks(BLOCK)
    assert len(wanted) >= 4

    @settings(max_examples=5)
    @given(st.integers(1, 40_000).filter(lambda block: block > 300))
    def same(block: int) -> None:
        assert marks(block) == wanted

    same()


def test_nothing_is_said_where_nobody_speaks(pocket: zhiyin.Model) -> None:
    """Where the recording as a whole gives no words: neither in a final nor as what is never taken back."""
    quiet = [(name, samples_T) for name, samples_T in sounds() if not pocket.understand(samples_T).text]
    assert len(quiet) >= 30
    for name, samples_T in quiet:
        for event in run(LiveSession(pocket.loaded), samples_T, 4096):
            assert not isinstance(event, Final) or not event.segment.text, (name, event)
            assert not isinstance(event, Partial) or not event.committed, (name, event)


def test_windows_of_fixed_lengths(pocket: zhiyin.Model, samples: tuple[list[str], np.ndarray]) -> None:
    texts, stream_T = samples
    session = LiveSession(pocket.loaded, settings=Settings(bucket_s=1.0))
    events = run(session, stream_T[: 8 * SAMPLE_RATE_HZ], 4096)
    assert next(event.segment.text for event in events if isinstance(event, Final)) == texts[0]
