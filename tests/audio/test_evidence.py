"""What speaks for speech: a level that moves, whatever it is, and a detector that was once sure."""

import numpy as np
import pytest

from zhiyin.audio.evidence import STEADY_DB, is_steady, range_db
from zhiyin.audio.features import SAMPLE_RATE_HZ
from zhiyin.audio.silero import CHUNK_SAMPLES
from zhiyin.audio.vad import CHUNK_S, Detector, Span, Thresholds


@pytest.mark.parametrize("change_db", [3.0, 12.0, 40.0])
@pytest.mark.parametrize("loud", [1e-3, 0.5])
def test_the_range_is_what_was_made(change_db: float, loud: float) -> None:
    """Half a second loud, half a second softer, in turn; how loud it is as a whole does not count."""
    tone_T = np.sin(np.arange(8 * SAMPLE_RATE_HZ) * 0.3)
    soft_T = np.where(np.arange(len(tone_T)) // 8000 % 2, 10 ** (-change_db / 20), 1.0)
    samples_T = (loud * tone_T * soft_T).astype(np.float32)
    assert range_db(samples_T) == pytest.approx(change_db, abs=0.6)
    assert is_steady(samples_T) == (change_db < STEADY_DB)


def test_hardly_any_audio_is_steady() -> None:
    assert is_steady(np.zeros(0, np.float32)) and is_steady(np.ones(300, np.float32))


class _Scripted:
    """Stands for the network: gives the probabilities it is told."""

    def __init__(self, values: list[float]) -> None:
        self.values = values

    def probabilities(self, samples_T: np.ndarray) -> np.ndarray:
        count = len(samples_T) // CHUNK_SAMPLES
        given, self.values = self.values[:count], self.values[count:]
        return np.array(given, np.float32)


def scripted(values: list[float]) -> tuple[Detector, list[Span]]:
    detector = Detector(Thresholds(start=0.4, end=0.25, peak=0.6))
    detector._silero = _Scripted(values)  # type: ignore[assignment]
    return detector, detector.push(np.zeros(len(values) * CHUNK_SAMPLES, np.float32))


QUIET = [0.0] * 8


def test_a_span_must_be_clear_once() -> None:
    assert scripted([*QUIET, *[0.5] * 10, *QUIET])[1] == []
    _, found = scripted([*QUIET, *[0.5] * 5, 0.7, *[0.5] * 4, *QUIET])
    assert len(found) == 1 and found[0].peak == pytest.approx(0.7)
    assert found[0].start_s < 8 * CHUNK_S and found[0].end_s > 18 * CHUNK_S, "the unclear parts around it belong to it"


def test_nothing_is_promised_before_it_is_clear() -> None:
    detector, _ = scripted([*QUIET, *[0.5] * 10])
    assert detector.open is None
    detector, _ = scripted([*QUIET, *[0.5] * 10, 0.6])
    assert detector.open is not None


def test_an_hour_of_doubt_is_not_kept_in_memory() -> None:
    """What lies further back than three seconds is settled, and a clear sound takes no more than that along."""
    detector, found = scripted([*QUIET, *[0.5] * 3000])
    assert found == [] and detector.settled_s > 3000 * CHUNK_S - 3.5
    _, found = scripted([*QUIET, *[0.5] * 3000, *[0.9] * 10, *QUIET])
    assert len(found) == 1 and 3.0 < found[0].end_s - found[0].start_s < 4.0
