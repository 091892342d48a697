"""Sounds in which nobody says a word, made with numpy: what a guard against invented text is tested on.

Every maker takes a random generator and gives mono 16 kHz float32 [T], at most full scale. Nothing is recorded but the
voices of our own samples, which `babble` takes apart until no word is left.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Maker = Callable[[np.random.Generator], Float32]

RATE_HZ = 16_000
SAMPLES = Path(__file__).resolve().parent.parent / "samples"
_SECONDS = 6.0


@cache
def sounds() -> tuple[tuple[str, Float32], ...]:
    """Every sound with its name, each from its own seed, so that adding one changes no other."""
    return tuple((name, make(np.random.default_rng([ord(char) for char in name]))) for name, make in MAKERS.items())


def at_db(samples_T: NDArray[np.floating], level_db: float) -> Float32:
    """The sound with this root mean square against full scale; peaks are clipped as a converter would."""
    rms = np.sqrt(np.mean(np.square(samples_T))) or 1.0
    return np.clip(samples_T / rms * 10 ** (level_db / 20), -1, 1).astype(np.float32)


def coloured(rng: np.random.Generator, slope: float, seconds: float = _SECONDS) -> NDArray[np.float64]:
    """Noise whose power falls with frequency to the power `slope`: 0 white, 1 pink, 2 brown."""
    count = round(seconds * RATE_HZ)
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency_hz = np.fft.rfftfreq(count, 1 / RATE_HZ)
    return np.fft.irfft(spectrum / np.maximum(frequency_hz, 20.0) ** (slope / 2), count)


def band(rng: np.random.Generator, low_hz: float, high_hz: float, seconds: float) -> NDArray[np.float64]:
    """Noise between two frequencies, with soft edges."""
    count = round(seconds * RATE_HZ)
    frequency_hz = np.fft.rfftfreq(count, 1 / RATE_HZ)
    centre_hz, width_hz = (low_hz + high_hz) / 2, (high_hz - low_hz) / 2
    shape = np.exp(-(((frequency_hz - centre_hz) / width_hz) ** 4))
    return np.fft.irfft(np.fft.rfft(rng.standard_normal(count)) * shape, count)


def seconds_of(seconds: float) -> NDArray[np.float64]:
    """The time of every sample."""
    return np.arange(round(seconds * RATE_HZ)) / RATE_HZ


def silence(rng: np.random.Generator) -> Float32:
    """Digital silence."""
    return np.zeros(round(_SECONDS * RATE_HZ), np.float32)


def offset(rng: np.random.Generator) -> Float32:
    """A constant offset with the dither of a 16-bit converter."""
    return (0.1 + coloured(rng, 0) / 32768).astype(np.float32)


def noise(slope: float, level_db: float) -> Maker:
    """White, pink or brown noise."""
    return lambda rng: at_db(coloured(rng, slope), level_db)


def tone(frequency_hz: float, level_db: float) -> Maker:
    """A pure tone that begins and ends softly."""
    t = seconds_of(_SECONDS)
    return lambda rng: at_db(
        np.sin(2 * np.pi * frequency_hz * t) * np.minimum(1, 20 * np.minimum(t, t[::-1])), level_db
    )


def sweep(rng: np.random.Generator) -> Float32:
    """50 Hz to 7 kHz and back, logarithmic."""
    t = seconds_of(_SECONDS)
    octaves = np.log2(7000 / 50) * (1 - np.abs(2 * t / _SECONDS - 1))
    return at_db(np.sin(2 * np.pi * np.cumsum(50 * 2**octaves) / RATE_HZ), -20)


def siren(rng: np.random.Generator) -> Float32:
    """Two tones in turn and a vibrato, with harmonics: nearest to a voice of all that is no voice."""
    t = seconds_of(_SECONDS)
    pitch_hz = np.where((t * 1.5) % 1 < 0.5, 435, 580) * (1 + 0.01 * np.sin(2 * np.pi * 5 * t))
    phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
    return at_db(sum(np.sin(n * phase) / n for n in range(1, 6)), -20)


def ringing(rng: np.random.Generator) -> Float32:
    """A telephone that rings: 425 Hz, one second on, two off, at 8 kHz quality."""
    t = seconds_of(_SECONDS)
    return at_db(np.sin(2 * np.pi * 425 * t) * (t % 3 < 1) + 0.001 * rng.standard_normal(len(t)), -25)


def dtmf(rng: np.random.Generator) -> Float32:
    """Twenty keys of a telephone, 80 ms each with pauses of 80 ms (ITU-T Q.23 frequencies)."""
    rows_hz, columns_hz = (697, 770, 852, 941), (1209, 1336, 1477, 1633)
    t = seconds_of(0.08)
    keys = []
    for _ in range(20):
        keys += [sum(np.sin(2 * np.pi * rng.choice(hz) * t) for hz in (rows_hz, columns_hz)), np.zeros(len(t))]
    return at_db(np.concatenate(keys), -20)


def hum(frequency_hz: float) -> Maker:
    """Mains hum with its harmonics over a noise floor."""

    def make(rng: np.random.Generator) -> Float32:
        t = seconds_of(_SECONDS)
        tones = sum(np.sin(2 * np.pi * n * frequency_hz * t + rng.uniform(0, 6)) / n**0.7 for n in range(1, 24))
        return at_db(tones + 0.02 * coloured(rng, 0), -30)

    return make


def chord(t: NDArray[np.float64], root_hz: float, steps: tuple[int, ...]) -> NDArray[np.float64]:
    """Plucked notes of a chord with harmonics that fade, higher ones sooner."""
    out = np.zeros(len(t))
    for step in steps:
        note_hz = root_hz * 2 ** (step / 12)
        for n in range(1, 7):
            out += np.sin(2 * np.pi * n * note_hz * t) * np.exp(-t * (1.5 + n)) / n
    return out


def music(beat_s: float, root_hz: float) -> Maker:
    """Four chords in turn over drums: a bass drum on each beat, a hat between."""

    def make(rng: np.random.Generator) -> Float32:
        t = seconds_of(beat_s)
        drum = np.sin(2 * np.pi * 55 * t * np.exp(-8 * t)) * np.exp(-12 * t)
        hat = band(rng, 4000, 7500, beat_s) * np.exp(-60 * ((t - beat_s / 2) % beat_s))
        beats = []
        for number in range(round(2 * _SECONDS / beat_s)):
            up, steps = ((0, (0, 4, 7)), (9, (0, 3, 7)), (5, (0, 4, 7)), (7, (0, 4, 7, 10)))[number // 2 % 4]
            beats.append(chord(t, root_hz * 2 ** (up / 12), steps) + 2 * drum + 0.5 * hat / np.abs(hat).max())
        return at_db(np.concatenate(beats), -20)

    return make


def melody(rng: np.random.Generator) -> Float32:
    """A flute-like tune: one note after another with breath and vibrato."""
    notes = []
    for _ in range(16):
        t = seconds_of(rng.uniform(0.2, 0.6))
        pitch_hz = 440 * 2 ** (rng.choice([0, 2, 4, 5, 7, 9, 11, 12]) / 12) * (1 + 0.006 * np.sin(2 * np.pi * 5.5 * t))
        phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
        swell = np.minimum(1, 12 * np.minimum(t, t[::-1]))
        notes.append(swell * (np.sin(phase) + 0.3 * np.sin(2 * phase) + 0.05 * rng.standard_normal(len(t))))
    return at_db(np.concatenate(notes), -22)


def clicks(rng: np.random.Generator) -> Float32:
    """Single clicks of a few samples, two a second."""
    out = np.zeros(round(_SECONDS * RATE_HZ))
    out[rng.integers(0, len(out), 12)] = rng.choice([-1, 1], 12)
    return np.convolve(out, np.exp(-np.arange(40) / 6) * 0.8, "same").astype(np.float32)


def crackle(rng: np.random.Generator) -> Float32:
    """An old record: hundreds of clicks of all sizes over faint noise."""
    out = rng.standard_normal(round(_SECONDS * RATE_HZ)) * (rng.random(round(_SECONDS * RATE_HZ)) < 0.01)
    ring = np.exp(-np.arange(60) / 8) * np.sin(np.arange(60))
    return at_db(np.convolve(out**3, ring, "same") + 0.02 * coloured(rng, 1), -28)


def keyboard(rng: np.random.Generator) -> Float32:
    """Somebody types: keys go down and up, each with its own sound."""
    out = 0.001 * rng.standard_normal(round(_SECONDS * RATE_HZ))
    at_s = 0.2
    while at_s < _SECONDS - 0.3:
        for later_s, loud in ((0.0, 1.0), (rng.uniform(0.07, 0.12), 0.5)):
            t = seconds_of(0.05)
            key = band(rng, 800, 6000, 0.05) * np.exp(-t * 180) + 0.02 * np.sin(2 * np.pi * 180 * t) * np.exp(-t * 60)
            start = round((at_s + later_s) * RATE_HZ)
            out[start : start + len(key)] += loud * rng.uniform(0.5, 1) * key
        at_s += rng.exponential(0.15) + 0.06
    return at_db(out, -35)


def knocks(rng: np.random.Generator) -> Float32:
    """Knocks on wood in groups of three, as at a door."""
    out = 0.0005 * rng.standard_normal(round(_SECONDS * RATE_HZ))
    t = seconds_of(0.15)
    for group_s in (0.5, 2.5, 4.5):
        for number in range(3):
            start = round((group_s + 0.25 * number) * RATE_HZ)
            knock = sum(np.sin(2 * np.pi * f * t) * np.exp(-t * d) for f, d in ((170, 40), (420, 60), (900, 90)))
            out[start : start + len(t)] += rng.uniform(0.6, 1) * knock
    return at_db(out, -25)


def breathing(loud_db: float) -> Maker:
    """In through the nose, out through the mouth: shaped noise that swells and fades, every three seconds."""

    def make(rng: np.random.Generator) -> Float32:
        breaths = []
        for _ in range(3):
            for low_hz, high_hz, length_s, pause_s in ((600, 3500, 1.0, 0.3), (200, 1800, 1.3, 0.6)):
                t = seconds_of(length_s)
                breaths += [band(rng, low_hz, high_hz, length_s) * np.sin(np.pi * t / length_s) ** 2]
                breaths += [np.zeros(round(pause_s * RATE_HZ))]
        out = np.concatenate(breaths)
        return at_db(out / np.abs(out).max() + 0.002 * rng.standard_normal(len(out)), loud_db)

    return make


def rain(rng: np.random.Generator) -> Float32:
    """Thousands of drops over a hiss, louder and softer."""
    count = round(_SECONDS * RATE_HZ)
    drops = rng.standard_normal(count) * (rng.random(count) < 0.03)
    hiss = band(rng, 1000, 7800, _SECONDS)
    swell = 1 + 0.3 * np.sin(2 * np.pi * 0.3 * seconds_of(_SECONDS))
    return at_db(swell * (np.convolve(drops, np.exp(-np.arange(30) / 5), "same") + hiss / hiss.std()), -28)


def wind(rng: np.random.Generator) -> Float32:
    """Gusts in a microphone: low noise whose strength and colour wander."""
    gusts = 0.2 + np.abs(np.interp(seconds_of(_SECONDS), np.linspace(0, _SECONDS, 24), rng.standard_normal(24)))
    return at_db(coloured(rng, 2) / coloured(rng, 2).std() * gusts + 0.05 * coloured(rng, 1), -22)


def engine(rng: np.random.Generator) -> Float32:
    """A motor that speeds up: pulses with resonances and road noise."""
    t = seconds_of(_SECONDS)
    phase = np.cumsum(28 + 30 * t / _SECONDS) / RATE_HZ
    pulses = np.diff(np.floor(phase), prepend=0) * (1 + 0.2 * rng.standard_normal(len(t)))
    body_t = seconds_of(0.06)
    body = sum(np.sin(2 * np.pi * f * body_t) * np.exp(-body_t * d) for f, d in ((95, 60), (240, 90), (610, 150)))
    return at_db(np.convolve(pulses, body)[: len(t)] + 0.4 * coloured(rng, 1.5) / coloured(rng, 1.5).std(), -22)


def _voices() -> list[Float32]:
    truth = [json.loads(line) for line in (SAMPLES / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
    return [soundfile.read(SAMPLES / row["file"], dtype="float32")[0] for row in truth]


def babble(voices: int, grain_s: float) -> Maker:
    """A crowd: voices cut into grains, each played backwards, shuffled and laid over each other.

    A grain is shorter than a syllable, so that no word survives in one voice, and the sum hides what is left of sounds.
    """

    def make(rng: np.random.Generator) -> Float32:
        count = round(_SECONDS * RATE_HZ)
        size = round(grain_s * RATE_HZ)
        fade = np.minimum(1, 8 * np.minimum(np.arange(size), np.arange(size)[::-1]) / size)
        spoken = np.concatenate(_voices())
        out = np.zeros(count)
        for _ in range(voices):
            for start in range(int(rng.integers(size)), count - size, size):
                place = int(rng.integers(len(spoken) - size))
                out[start : start + size] += spoken[place : place + size][::-1] * fade
        return at_db(out, -25)

    return make


def crowd(rng: np.random.Generator) -> Float32:
    """Forty whole voices backwards, each at its own speed: no grain was cut, and nobody can be followed."""
    count = round(_SECONDS * RATE_HZ)
    spoken = np.concatenate(_voices())[::-1]
    out = np.zeros(count)
    for _ in range(40):
        speed = rng.uniform(0.8, 1.25)
        places = (rng.uniform(0, len(spoken)) + speed * np.arange(count)) % (len(spoken) - 1)
        out += np.interp(places, np.arange(len(spoken)), spoken)
    return at_db(out, -25)


# What a detector of speech may take for speech: a knock, and crowds, which are made of voices.
LIKE_SPEECH = ("knocks", "babble of 8", "babble of 30", "babble of 8, long grains", "crowd")

MAKERS: dict[str, Maker] = {
    "silence": silence,
    "offset and dither": offset,
    "noise floor -80 dB": noise(0, -80),
    "noise floor -65 dB": noise(0.5, -65),
    **{
        f"{colour} noise {level_db} dB": noise(slope, level_db)
        for slope, colour in enumerate(("white", "pink", "brown"))
        for level_db in (-50, -30, -15)
    },
    **{f"tone {hz} Hz": tone(hz, -20) for hz in (120, 440, 1000, 3000)},
    "loud tone 250 Hz": tone(250, -6),
    "sweep": sweep,
    "siren": siren,
    "ringing": ringing,
    "dtmf": dtmf,
    "hum 50 Hz": hum(50),
    "hum 60 Hz": hum(60),
    "music slow": music(0.6, 196),
    "music fast": music(0.3, 262),
    "melody": melody,
    "clicks": clicks,
    "crackle": crackle,
    "keyboard": keyboard,
    "knocks": knocks,
    "breathing": breathing(-30),
    "breathing close": breathing(-18),
    "rain": rain,
    "wind": wind,
    "engine": engine,
    "babble of 8": babble(8, 0.1),
    "babble of 30": babble(30, 0.1),
    "babble of 8, long grains": babble(8, 0.2),
    "crowd": crowd,
}
