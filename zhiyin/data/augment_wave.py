"""Augmentation on samples: noise, rooms, speed, level, clipping, telephone and lossy codecs.

Every function is pure: the same samples, settings and state of the generator give the same result. `T` is samples,
mono at 16 kHz in [-1, 1]. What happens to features instead (masks, vocal tract) is in `augment.py`.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.data import g711
from zhiyin.errors import UserError

SPEED_OF_SOUND_M_S = 343.0  # in air of 20 degrees Celsius
TELEPHONE_HZ = (300.0, 3400.0)  # ITU-T G.712
CODECS = ("mu-law", "a-law", "mp3", "opus")
_KBIT_S = {"mp3": (16, 64), "opus": (6, 32)}
_FORMATS = {"mp3": ("mp3", "libmp3lame", "s16p"), "opus": ("ogg", "libopus", "s16")}
_OPUS_RATE_HZ = 48_000  # what Opus decodes to, RFC 7845


@dataclass(frozen=True)
class WaveConfig:
    """How often and how strongly samples are changed; shares are probabilities, pairs are ranges drawn uniformly."""

    speed_share: float = 0.3
    speed: tuple[float, float] = (0.9, 1.1)  # Ko et al. 2015
    room_share: float = 0.3
    rt60_s: tuple[float, float] = (0.1, 0.7)
    direct_db: tuple[float, float] = (0.0, 15.0)
    noise_share: float = 0.4
    snr_db: tuple[float, float] = (0.0, 30.0)
    clip_share: float = 0.05
    clip_fraction: tuple[float, float] = (0.002, 0.03)
    telephone_share: float = 0.1
    codec_share: float = 0.1
    peak_db: tuple[float, float] = (-30.0, -1.0)


@dataclass(frozen=True)
class Changed:
    """Samples after augmentation. Times of words are divided by `speed`; nothing else moves them."""

    samples_T: Float32
    speed: float = 1.0


def augment_wave(
    samples_T: Float32, config: WaveConfig, rng: np.random.Generator, noises: Sequence[Float32] = ()
) -> Changed:
    """One random variant: speed, then room, noise, level and clipping, and at last the line it came over.

    Args:
        samples_T: what was recorded.
        config: how often and how strongly it is changed.
        rng: source of the choices.
        noises: recordings of background; without any, coloured noise is made.
    """
    factor = 1.0
    if rng.random() < config.speed_share:
        factor = float(rng.uniform(*config.speed))
        samples_T = speed(samples_T, factor)
    if rng.random() < config.room_share:
        response_T = decaying_response(rng.uniform(*config.rt60_s), rng.uniform(*config.direct_db), rng)
        samples_T = reverberate(samples_T, response_T)
    if rng.random() < config.noise_share:
        noise_T = noises[int(rng.integers(len(noises)))] if len(noises) else coloured_noise(len(samples_T), rng)
        samples_T = add_noise(samples_T, noise_T, rng.uniform(*config.snr_db), rng)
    if rng.random() < config.clip_share:
        samples_T = clip_loudest(samples_T, rng.uniform(*config.clip_fraction))
    samples_T = to_peak(samples_T, rng.uniform(*config.peak_db))
    if rng.random() < config.telephone_share:
        samples_T = telephone(samples_T, "a-law" if rng.random() < 0.5 else "mu-law")
    elif rng.random() < config.codec_share:
        name = CODECS[rng.integers(len(CODECS))]
        samples_T = codec(samples_T, name, int(rng.integers(*_KBIT_S[name])) if name in _KBIT_S else 64)
    return Changed(samples_T, factor)


def power(samples_T: Float32) -> float:
    """Mean square of the samples."""
    return float(np.mean(np.square(samples_T, dtype=np.float64))) if len(samples_T) else 0.0


def add_noise(samples_T: Float32, noise_T: Float32, snr_db: float, rng: np.random.Generator) -> Float32:
    """Speech with noise behind it, `snr_db` weaker in power over the whole recording; silence stays silence.

    A noise that is too short is repeated from a random place on, one that is too long is cut at a random place.

    Raises:
        UserError: the noise has no samples or is silent.
    """
    level = power(noise_T)
    if level == 0:
        raise UserError(f"adding noise: a noise of {len(noise_T)} samples has no power; give another recording")
    start = int(rng.integers(len(noise_T)))
    cut_T = np.take(noise_T, np.arange(start, start + len(samples_T)), mode="wrap")
    level = power(cut_T) or level
    gain = np.sqrt(power(samples_T) / level / 10.0 ** (snr_db / 10.0))
    return (samples_T + gain * cut_T).astype(np.float32)


def coloured_noise(num_samples: int, rng: np.random.Generator, exponent: float | None = None) -> Float32:
    """Gaussian noise whose power falls with frequency to the power of `exponent` (0 white, 1 pink, 2 brown).

    Without `exponent`, one between 0 and 2. Variance 1.
    """
    exponent = float(rng.uniform(0.0, 2.0)) if exponent is None else exponent
    size = 1 << max(8, num_samples - 1).bit_length()  # a transform of any other length can take ten times as long
    spectrum = np.fft.rfft(rng.standard_normal(size))
    bins = np.maximum(1.0, np.arange(len(spectrum)))
    noise_T = np.fft.irfft(spectrum * bins ** (-exponent / 2), size)[:num_samples]
    return (noise_T / (noise_T.std() or 1.0)).astype(np.float32)


def decaying_response(rt60_s: float, direct_db: float, rng: np.random.Generator) -> Float32:
    """Impulse response [T] of a room: the direct sound, then Gaussian noise that falls by 60 dB in `rt60_s` seconds.

    The model of late reverberation of Moorer 1979 and Polack 1988: h(t) = n(t) exp(-t ln(10^6) / (2 rt60)).

    Args:
        rt60_s: reverberation time.
        direct_db: power of the direct sound over that of all the rest.
        rng: source of the noise.
    """
    num_samples = max(2, round(rt60_s * SAMPLE_RATE_HZ))
    time_s = np.arange(1, num_samples + 1) / SAMPLE_RATE_HZ
    tail_T = rng.standard_normal(num_samples) * 10.0 ** (-3.0 * time_s / rt60_s)
    tail_T *= np.sqrt(10.0 ** (-direct_db / 10.0) / np.sum(tail_T**2))
    return np.concatenate([[1.0], tail_T]).astype(np.float32)


def room_response(
    size_m: Sequence[float],
    source_m: Sequence[float],
    microphone_m: Sequence[float],
    reflection: float,
    length_s: float,
) -> Float32:
    """Impulse response [T] of a box-shaped room by its image sources, the direct sound at the true delay.

    Allen and Berkley 1979, "Image method for efficiently simulating small-room acoustics": every wall reflects the
    share `reflection` of the sound pressure; each image adds reflection^(number of walls) / distance at its delay,
    here rounded to a sample.

    Args:
        size_m: length, width, height of the room.
        source_m: where it sounds, inside the room.
        microphone_m: where it is heard, inside the room.
        reflection: of pressure, 0 to below 1.
        length_s: length of the response.

    Raises:
        UserError: a point lies outside the room, both are the same, or `reflection` is out of range.
    """
    size, source, microphone = (np.asarray(place, np.float64) for place in (size_m, source_m, microphone_m))
    inside = all(np.all((place > 0) & (place < size)) for place in (source, microphone))
    if not inside or np.allclose(source, microphone) or not 0 <= reflection < 1:
        raise UserError(
            f"room of {tuple(size_m)} m: source {tuple(source_m)} and microphone {tuple(microphone_m)} must be two "
            f"places inside, reflection {reflection} at least 0 and below 1"
        )
    reach_m = length_s * SPEED_OF_SOUND_M_S
    axes = []  # of each dimension: squared distances and numbers of reflections of its images
    for dimension in range(3):
        rooms = np.arange(-int(reach_m / size[dimension] / 2) - 1, int(reach_m / size[dimension] / 2) + 2)
        near_m = 2 * rooms * size[dimension] + source[dimension] - microphone[dimension]
        far_m = 2 * rooms * size[dimension] - source[dimension] - microphone[dimension]
        reflections = np.concatenate([np.abs(2 * rooms), np.abs(2 * rooms - 1)])
        axes.append((np.concatenate([near_m, far_m]) ** 2, reflections))
    (x, nx), (y, ny), (z, nz) = axes
    distance_m = np.sqrt(x[:, None, None] + y[None, :, None] + z[None, None, :])
    walls = nx[:, None, None] + ny[None, :, None] + nz[None, None, :]
    place = np.round(distance_m / SPEED_OF_SOUND_M_S * SAMPLE_RATE_HZ).astype(int)
    heard = place < round(length_s * SAMPLE_RATE_HZ)
    response_T = np.zeros(round(length_s * SAMPLE_RATE_HZ))
    np.add.at(response_T, place[heard], reflection ** walls[heard] / distance_m[heard])
    return response_T.astype(np.float32)


def reverberate(samples_T: Float32, response_T: Float32) -> Float32:
    """Samples as heard in a room, as long as before and as loud; the loudest tap of the response is time 0."""
    size = 1 << (len(samples_T) + len(response_T) - 1).bit_length()
    wet_T = np.fft.irfft(np.fft.rfft(samples_T, size) * np.fft.rfft(response_T, size), size)
    start = int(np.argmax(np.abs(response_T)))
    wet_T = wet_T[start : start + len(samples_T)]
    level = np.mean(wet_T**2)
    return (wet_T * (np.sqrt(power(samples_T) / level) if level > 0 else 1.0)).astype(np.float32)


def speed(samples_T: Float32, factor: float) -> Float32:
    """Samples played `factor` times as fast: shorter and higher. Times are divided by `factor`."""
    return np.asarray(soxr.resample(samples_T, SAMPLE_RATE_HZ * factor, SAMPLE_RATE_HZ), np.float32)


def to_peak(samples_T: Float32, peak_db: float) -> Float32:
    """Samples whose largest one is `peak_db` below full scale; silence stays silence."""
    peak = float(np.abs(samples_T).max(initial=0.0))
    return samples_T if peak == 0 else (samples_T * (10.0 ** (peak_db / 20.0) / peak)).astype(np.float32)


def clip_loudest(samples_T: Float32, fraction: float) -> Float32:
    """Samples with the loudest `fraction` of them cut to one height, as by a microphone that is driven too hard."""
    if not len(samples_T):
        return samples_T
    height = np.quantile(np.abs(samples_T), 1.0 - fraction)
    return np.clip(samples_T, -height, height).astype(np.float32)


def telephone(samples_T: Float32, law: str = "a-law") -> Float32:
    """Samples as they come over a telephone: 300 to 3400 Hz, 8 kHz, eight bits of G.711; as long as before."""
    narrow_T = soxr.resample(band(samples_T, *TELEPHONE_HZ), SAMPLE_RATE_HZ, 8000)
    wide_T = soxr.resample(_companded(np.asarray(narrow_T, np.float32), law), 8000, SAMPLE_RATE_HZ)
    return _fitted(np.asarray(wide_T, np.float32), len(samples_T))


def band(samples_T: Float32, low_hz: float, high_hz: float) -> Float32:
    """The part between two frequencies: a windowed-sinc filter of 513 taps without delay, 6 dB down at both."""
    taps = np.arange(-256, 257)
    low, high = 2 * low_hz / SAMPLE_RATE_HZ, 2 * high_hz / SAMPLE_RATE_HZ
    filter_T = (high * np.sinc(high * taps) - low * np.sinc(low * taps)) * np.hamming(len(taps))
    size = 1 << (len(samples_T) + len(taps)).bit_length()
    out_T = np.fft.irfft(np.fft.rfft(samples_T, size) * np.fft.rfft(filter_T, size), size)
    return out_T[256 : 256 + len(samples_T)].astype(np.float32)


def codec(samples_T: Float32, name: str, kbit_s: int = 64) -> Float32:
    """Samples encoded and decoded again; as long as before, not late (Opus below 10 kbit/s: 5 ms late).

    Args:
        samples_T: what is sent.
        name: ``mu-law`` or ``a-law`` (at 16 kHz, 128 kbit/s; see `telephone`), ``mp3`` or ``opus``.
        kbit_s: bit rate of the latter two.

    Raises:
        UserError: the name is not known.
    """
    if name not in CODECS:
        raise UserError(f"codec '{name}' is not known; known: {' '.join(CODECS)}")
    if name not in _FORMATS:
        return _companded(samples_T, name)
    rate_hz = _OPUS_RATE_HZ if name == "opus" else SAMPLE_RATE_HZ
    decoded_T = _decoded(_encoded(samples_T, name, kbit_s))
    if rate_hz != SAMPLE_RATE_HZ:
        decoded_T = np.asarray(soxr.resample(decoded_T, rate_hz, SAMPLE_RATE_HZ), np.float32)
    return _fitted(decoded_T, len(samples_T))


def _companded(samples_T: Float32, law: str) -> Float32:
    linear_T: NDArray[np.int16] = np.round(np.clip(samples_T, -1, 1) * 32767).astype(np.int16)
    return (g711.decode(g711.encode(linear_T, law), law) / 32768.0).astype(np.float32)


def _encoded(samples_T: Float32, name: str, kbit_s: int) -> io.BytesIO:
    form, encoder, sample_format = _FORMATS[name]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form, options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream(encoder, rate=SAMPLE_RATE_HZ, layout="mono")
        stream.bit_rate, stream.codec_context.format = kbit_s * 1000, sample_format
        linear = np.round(np.clip(samples_T, -1, 1) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(linear[None, :], format=sample_format, layout="mono")
        frame.sample_rate = SAMPLE_RATE_HZ
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    buffer.seek(0)
    return buffer


def _decoded(buffer: io.BytesIO) -> Float32:
    with av.open(buffer, "r") as container:
        resampler = av.AudioResampler(format="flt", layout="mono")
        parts = [part.to_ndarray()[0] for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _fitted(samples_T: Float32, num_samples: int) -> Float32:
    return np.pad(samples_T[:num_samples], (0, max(0, num_samples - len(samples_T))))
