"""Levels and offsets: what is ordinary passes untouched, what is quiet is lifted, in pieces as in one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.audio.level import MAX_GAIN_DB, QUIET_DB, Evener, adjusted, loudness_db

NOISE_T = np.random.default_rng(0).standard_normal(20 * SAMPLE_RATE_HZ).astype(np.float32)


def at(level_db: float, seconds: float = 8.0) -> Float32:
    """White noise of this RMS."""
    return NOISE_T[: round(seconds * SAMPLE_RATE_HZ)] * np.float32(10 ** (level_db / 20))


def even(samples_T: Float32, piece: int = 10**9) -> Float32:
    evener = Evener()
    given_T = [evener.push(samples_T[start : start + piece]) for start in range(0, len(samples_T), piece)]
    return np.concatenate([*given_T, evener.finish()])


@pytest.mark.parametrize("level_db", [-1.0, -10.0, -27.0])
def test_ordinary_levels_pass_to_the_last_bit(level_db: float) -> None:
    given_T = at(level_db)
    assert adjusted(given_T) is given_T and np.array_equal(even(given_T), given_T)
    pause_T = np.concatenate([at(-70, 8), at(max(level_db, -20.0), 3), at(-70, 20)])
    assert np.array_equal(even(pause_T)[4 * SAMPLE_RATE_HZ :], pause_T[4 * SAMPLE_RATE_HZ :]), "nor are its pauses"


@pytest.mark.parametrize("level_db", [-40.0, -60.0])
def test_quiet_is_lifted(level_db: float) -> None:
    assert loudness_db(at(level_db)) == pytest.approx(level_db, abs=0.6)
    for lifted_T in (adjusted(at(level_db)), even(at(level_db))):
        assert loudness_db(lifted_T) == pytest.approx(QUIET_DB, abs=0.8)
    assert loudness_db(adjusted(at(-90))) == pytest.approx(-90 + MAX_GAIN_DB, abs=0.6), "not without end"


def test_an_offset_is_taken_away() -> None:
    speech_T = at(-30.0)
    for clean_T in (adjusted(speech_T + np.float32(0.2)), even(speech_T + np.float32(0.2))):
        assert abs(clean_T.mean()) < 0.001
        assert np.abs(clean_T / np.abs(clean_T).max() - speech_T / np.abs(speech_T).max()).max() < 0.1
    little_T = at(-10.0) + np.float32(0.01)
    assert adjusted(little_T) is little_T


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(-80, 0), st.floats(0.01, 4), st.floats(-0.1, 0.1)), max_size=4), st.integers(1, 9))
def test_pieces_joined_are_the_whole(parts: list[tuple[float, float, float]], thousands: int) -> None:
    given_T = np.concatenate([np.zeros(0, np.float32), *(at(db, s) + np.float32(offset) for db, s, offset in parts)])
    whole_T = even(given_T)
    assert len(whole_T) == len(given_T)
    assert np.array_equal(even(given_T, 7_001 * thousands), whole_T)
    assert np.isfinite(whole_T).all() and np.isfinite(adjusted(given_T)).all()


def test_a_bang_is_forgotten_in_minutes() -> None:
    quiet_T = np.tile(at(-50.0, 10.0), 30)
    quiet_T[:1600] = at(-3.0, 0.1)
    lifted_T = even(quiet_T)
    assert np.array_equal(lifted_T[1600 : 20 * SAMPLE_RATE_HZ], quiet_T[1600 : 20 * SAMPLE_RATE_HZ])
    assert loudness_db(lifted_T[-10 * SAMPLE_RATE_HZ :]) > -33
