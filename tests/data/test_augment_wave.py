"""Augmentation of samples against other people's truths: measured SNR, Schroeder's integration, libsndfile's G.711."""

import io
import itertools

import numpy as np
import pytest
import soundfile

from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.data import augment_wave as wave
from zhiyin.data import g711
from zhiyin.errors import UserError

EVERY_INT16 = np.arange(-32768, 32768).astype(np.int16)
SUBTYPES = {"mu-law": "ULAW", "a-law": "ALAW"}


def rng(seed: int = 0) -> np.random.Generator:
    """A fresh generator."""
    return np.random.default_rng(seed)


def speechlike(seconds: float = 1.0, seed: int = 1) -> Float32:
    """Noise with the slow ups and downs of syllables."""
    time_s = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return (rng(seed).standard_normal(len(time_s)) * 0.1 * (1.1 + np.sin(2 * np.pi * 4 * time_s))).astype(np.float32)


def schroeder_rt60_s(response_T: Float32) -> float:
    """Reverberation time from -5 to -25 dB of the energy that is still to come (Schroeder 1965), times three."""
    left_db = 10 * np.log10(np.cumsum(np.square(response_T, dtype=np.float64)[::-1])[::-1])
    left_db -= left_db[0]
    inside = (left_db < -5) & (left_db > -25)
    slope = np.polyfit(np.nonzero(inside)[0] / SAMPLE_RATE_HZ, left_db[inside], 1)[0]
    return -60.0 / slope


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 12.5, 30.0])
@pytest.mark.parametrize("length", [0.4, 1.0, 3.0])
def test_noise_is_as_much_weaker_as_was_asked(snr_db: float, length: float) -> None:
    speech_T, noise_T = speechlike(), wave.coloured_noise(round(length * SAMPLE_RATE_HZ), rng(2))
    noisy_T = wave.add_noise(speech_T, noise_T, snr_db, rng(3))
    rest_T = (noisy_T - speech_T).astype(np.float64)
    measured_db = 20 * np.log10(np.linalg.norm(speech_T) / np.linalg.norm(rest_T))
    assert measured_db == pytest.approx(snr_db, abs=0.05)


def test_noise_without_power_is_refused_and_silence_stays() -> None:
    with pytest.raises(UserError, match="no power"):
        wave.add_noise(speechlike(), np.zeros(100, np.float32), 10, rng())
    silent_T = np.zeros(1000, np.float32)
    assert not wave.add_noise(silent_T, wave.coloured_noise(500, rng()), 10, rng()).any()


@pytest.mark.parametrize(("exponent", "db_per_octave"), [(0.0, 0.0), (1.0, -3.01), (2.0, -6.02)])
def test_coloured_noise_falls_with_frequency(exponent: float, db_per_octave: float) -> None:
    spectrum = np.abs(np.fft.rfft(wave.coloured_noise(2**17, rng(4), exponent))) ** 2
    octaves = [10 * np.log10(spectrum[2**k : 2 ** (k + 1)].mean()) for k in range(8, 15)]
    assert np.diff(octaves).mean() == pytest.approx(db_per_octave, abs=0.25)


@pytest.mark.parametrize("rt60_s", [0.2, 0.5, 0.9])
def test_a_decaying_response_has_its_reverberation_time(rt60_s: float) -> None:
    measured = [schroeder_rt60_s(wave.decaying_response(rt60_s, -10, rng(seed))) for seed in range(5)]
    assert np.mean(measured) == pytest.approx(rt60_s, rel=0.06)
    response_T = wave.decaying_response(rt60_s, 7.0, rng(6)).astype(np.float64)
    assert 10 * np.log10(response_T[0] ** 2 / np.sum(response_T[1:] ** 2)) == pytest.approx(7.0, abs=0.01)


def test_a_room_has_its_direct_sound_and_every_image_of_it() -> None:
    size, source, microphone = (6.0, 5.0, 3.0), (2.0, 2.0, 1.5), (5.0, 3.5, 1.5)
    bare_T = wave.room_response(size, source, microphone, 0.0, 0.05)
    away_m = float(np.linalg.norm(np.subtract(source, microphone)))
    place = round(away_m / 343.0 * 16000)
    assert list(np.nonzero(bare_T)[0]) == [place] and bare_T[place] == pytest.approx(1 / away_m)

    images = {source: 0}  # mirrored at every wall again and again, each image with its least number of mirrors
    for order in range(1, 12):
        for place_m in [place_m for place_m, least in images.items() if least == order - 1]:
            for axis, wall_m in itertools.chain(*([(i, 0.0), (i, size[i])] for i in range(3))):
                mirrored = tuple(round(2 * wall_m - x, 6) if i == axis else x for i, x in enumerate(place_m))
                images.setdefault(mirrored, order)
    expected_T = np.zeros(640)
    for place_m, order in images.items():
        away_m = float(np.linalg.norm(np.subtract(place_m, microphone)))
        if round(away_m / 343.0 * 16000) < len(expected_T):
            expected_T[round(away_m / 343.0 * 16000)] += 0.8**order / away_m
    assert np.allclose(wave.room_response(size, source, microphone, 0.8, 0.04), expected_T, rtol=1e-5)

    # Eyring's formula is for sound from all sides; along the walls of a box it dies away more slowly, never faster
    surface = 2 * (30 + 18 + 15)
    eyring_s = 24 * np.log(10) / 343.0 * 90.0 / (-surface * np.log(0.85**2))
    response_T = wave.room_response(size, source, microphone, 0.85, 0.8)
    assert eyring_s < schroeder_rt60_s(response_T[place:]) < 2 * eyring_s
    with pytest.raises(UserError, match="inside"):
        wave.room_response(size, (7.0, 1, 1), microphone, 0.5, 0.1)


def test_reverberation_is_convolution_without_delay() -> None:
    speech_T, response_T = speechlike(0.2), wave.decaying_response(0.1, 3.0, rng(7))
    plain = np.convolve(speech_T.astype(np.float64), response_T)[: len(speech_T)]
    plain *= np.linalg.norm(speech_T) / np.linalg.norm(plain)
    assert np.allclose(wave.reverberate(speech_T, response_T), plain, atol=1e-5)
    late_T = np.concatenate([np.zeros(500, np.float32), response_T])
    assert np.allclose(wave.reverberate(speech_T, late_T), plain, atol=1e-5)


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1, 1.5])
def test_speed_moves_time_and_pitch(factor: float) -> None:
    tone_T = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000).astype(np.float32)
    fast_T = wave.speed(tone_T, factor)
    assert len(fast_T) == pytest.approx(16000 / factor, abs=2)
    peak = np.argmax(np.abs(np.fft.rfft(fast_T[:8000] * np.hanning(8000)))) * 2
    assert peak == pytest.approx(440 * factor, abs=2)


@pytest.mark.parametrize("law", g711.LAWS)
def test_g711_is_that_of_libsndfile(law: str) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, EVERY_INT16, 8000, format="AU", subtype=SUBTYPES[law])
    theirs = np.frombuffer(buffer.getvalue()[-len(EVERY_INT16) :], np.uint8)
    ours = g711.encode(EVERY_INT16, law)
    buffer.seek(0)
    back = soundfile.read(buffer, dtype="int16")[0]
    assert np.array_equal(g711.decode(theirs, law), back), "every code word means what it means to them"
    # encoders may differ where a sample lies on the edge of two steps; none may be further from the sample
    wide = EVERY_INT16.astype(int)
    assert np.all(np.abs(g711.decode(ours, law) - wide) <= np.abs(back.astype(int) - wide))
    assert np.mean(ours != theirs) < 0.01


def test_g711_known_code_words() -> None:
    """Values of the tables of ITU-T G.711: the largest, the smallest, and a sign."""
    assert list(g711.encode(np.array([0, 32767, -32768], np.int16), "mu-law")) == [0xFF, 0x80, 0x00]
    assert list(g711.encode(np.array([0, 32767, -32768], np.int16), "a-law")) == [0xD5, 0xAA, 0x2A]
    assert list(g711.decode(np.array([0x80, 0x00, 0xFF], np.uint8), "mu-law")) == [32124, -32124, 0]
    assert list(g711.decode(np.array([0xD5, 0x55, 0xAA], np.uint8), "a-law")) == [8, -8, 32256]
    with pytest.raises(UserError, match="known: mu-law a-law"):
        g711.encode(EVERY_INT16, "b-law")


def test_a_telephone_keeps_its_band_and_nothing_else() -> None:
    noise_T = wave.coloured_noise(2**15, rng(8), 0.0) * 0.1
    before, after = (np.abs(np.fft.rfft(x)) ** 2 for x in (noise_T, wave.telephone(noise_T)))
    hz = np.fft.rfftfreq(2**15, 1 / 16000)
    gain_db = [
        10 * np.log10(after[(hz > low) & (hz < high)].mean() / before[(hz > low) & (hz < high)].mean())
        for low, high in ((450, 3200), (20, 150), (4200, 7900))
    ]
    assert abs(gain_db[0]) < 0.5 and gain_db[1] < -25 and gain_db[2] < -25
    assert len(wave.telephone(noise_T)) == len(noise_T)


@pytest.mark.parametrize(("name", "kbit_s"), [("mp3", 64), ("opus", 24), ("opus", 8), ("mu-law", 64), ("a-law", 64)])
def test_codecs_change_the_sound_and_not_its_place(name: str, kbit_s: int) -> None:
    time_s = np.arange(12345) / 16000
    sweep_T = (0.3 * np.sin(2 * np.pi * (200 + 800 * time_s) * time_s) * (time_s > 0.2)).astype(np.float32)
    heard_T = wave.codec(sweep_T, name, kbit_s)
    assert len(heard_T) == len(sweep_T) and heard_T.dtype == np.float32
    assert np.abs(heard_T - sweep_T).max() > 1e-6
    correlation = np.correlate(heard_T[3000:11000], sweep_T[3000 + 200 : 11000 - 200], "valid")
    few_bits = name == "opus" and kbit_s < 10  # there Opus changes to another coder, which is late by 5 ms
    assert abs(int(np.argmax(correlation)) - 200) <= (110 if few_bits else 2), "no delay"
    assert np.array_equal(heard_T, wave.codec(sweep_T, name, kbit_s)), "the same each time"


def test_codecs_at_few_bits_lose_more_and_unknown_ones_are_named() -> None:
    speech_T = speechlike(2.0)
    errors = [np.linalg.norm(wave.codec(speech_T, "mp3", kbit_s) - speech_T) for kbit_s in (16, 64)]
    assert errors[0] > errors[1]
    with pytest.raises(UserError, match="'flac' is not known; known: mu-law"):
        wave.codec(speech_T, "flac")


def test_level_and_clipping() -> None:
    speech_T = speechlike()
    assert 20 * np.log10(np.abs(wave.to_peak(speech_T, -6.0)).max()) == pytest.approx(-6.0, abs=1e-4)
    clipped_T = wave.clip_loudest(speech_T, 0.02)
    assert np.mean(np.abs(clipped_T) >= np.abs(clipped_T).max() - 1e-7) == pytest.approx(0.02, abs=0.001)
    untouched = np.abs(speech_T) < np.abs(clipped_T).max()
    assert np.array_equal(clipped_T[untouched], speech_T[untouched])
    assert not wave.to_peak(np.zeros(10, np.float32), -3).any()


def test_the_whole_chain_repeats_with_the_generator() -> None:
    every = wave.WaveConfig(
        speed_share=1, room_share=1, noise_share=1, clip_share=1, telephone_share=0.5, codec_share=1
    )
    speech_T = speechlike()
    for seed in range(4):
        first, second = (wave.augment_wave(speech_T, every, rng(seed)) for _ in range(2))
        assert np.array_equal(first.samples_T, second.samples_T) and first.speed == second.speed != 1.0
        assert len(first.samples_T) == pytest.approx(len(speech_T) / first.speed, abs=2)
    other = wave.augment_wave(speech_T, every, rng(99), noises=[speechlike(0.3, 5)])
    assert not np.array_equal(other.samples_T[:100], first.samples_T[:100])
    nothing = wave.WaveConfig(0, room_share=0, noise_share=0, clip_share=0, telephone_share=0, codec_share=0)
    plain = wave.augment_wave(speech_T, nothing, rng(1)).samples_T
    assert np.corrcoef(plain, speech_T)[0, 1] == pytest.approx(1.0)
