"""Augmentation on log-mel features: noise, channel colour, telephone band, masks.

Shapes: `F` frames, `M` mel bins. Noise is added to the mel power, so no waveform is needed while training.
"""

from dataclasses import dataclass

import numpy as np

from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32, hz_to_mel, mel_to_hz

_LOUD = 0.35  # of the way from a recording's quiet frames to its loud ones


@dataclass(frozen=True)
class AugmentConfig:
    """How often and how strongly features are changed.

    SpecAugment: Park et al. 2019; the mask sizes are OSUM's order of magnitude (2 time, 2 frequency masks).
    """

    noise_share: float = 0.5
    snr_db: tuple[float, float] = (3.0, 30.0)
    colour_share: float = 0.5
    colour_db: float = 8.0
    band_share: float = 0.15
    time_masks: int = 2
    time_mask_frames: int = 20
    mel_masks: int = 2
    mel_mask_bins: int = 12
    trim_share: float = 0.0  # quiet at both ends is cut off, as the speech detector does before the model listens
    trim_frames: tuple[int, int] = (20, 45)  # but for so much: a weak "s" at the edge is not loud
    pad_frames: int = 40  # up to this much quiet before and after
    warp_share: float = 0.0
    warp: tuple[float, float] = (0.85, 1.15)  # the frequency axis is stretched by this: another vocal tract length


def augment(
    features_FM: Float32, config: AugmentConfig, rng: np.random.Generator, *, keep_voice: bool = True
) -> tuple[Float32, int]:
    """One random variant of Whisper log-mel features.

    Args:
        features_FM: what was recorded.
        config: how often and how strongly it is changed.
        rng: source of the choices.
        keep_voice: do not warp the frequency axis, because something about the speaker is asked.

    Returns:
        Features and how many frames were put in front (word times move by that; below 0 where more were cut off).
    """
    cut = 0
    if config.trim_share and rng.random() < config.trim_share:
        features_FM, cut = _trim(features_FM, config.trim_frames, rng)
    if not keep_voice and rng.random() < config.warp_share:
        features_FM = warped(features_FM, rng.uniform(*config.warp))
    features_FM, front = _pad(features_FM, config, rng)
    power = 10.0 ** (features_FM * 4.0 - 4.0)  # Whisper stores (log10 + 4) / 4
    if rng.random() < config.colour_share:
        power = power * _colour(power.shape[1], config.colour_db, rng)
    if rng.random() < config.noise_share:
        power = power + _noise(power, config, rng)
    if rng.random() < config.band_share:
        power[:, int(power.shape[1] * rng.uniform(0.6, 0.75)) :] *= 1e-3  # telephone: little above 3.4 kHz
    log = np.log10(np.maximum(power, 1e-10))
    features_FM = ((np.maximum(log, log.max() - 8.0) + 4.0) / 4.0).astype(np.float32)
    return _mask(features_FM, config, rng), front - cut


def warped(features_FM: Float32, factor: float) -> Float32:
    """Features of a voice whose formants lie `factor` times as high; same shape.

    Vocal tract length perturbation, Jaitly and Hinton 2013, with the factor constant over frequency and the highest
    bin repeated where the band ends.
    """
    bins = features_FM.shape[1]
    mel = np.linspace(0.0, hz_to_mel(np.array(SAMPLE_RATE_HZ / 2)), bins + 2)[1:-1]
    source = hz_to_mel(mel_to_hz(mel) / factor)
    place = np.clip(np.interp(source, mel, np.arange(bins)), 0, bins - 1)
    low = np.minimum(place.astype(int), bins - 2)
    share = (place - low).astype(np.float32)
    return features_FM[:, low] * (1 - share) + features_FM[:, low + 1] * share


def _trim(features_FM: Float32, margin: tuple[int, int], rng: np.random.Generator) -> tuple[Float32, int]:
    """What lies around the loud frames, and how many frames were cut off in front."""
    level_F = features_FM.mean(axis=1)
    quiet, loud = np.quantile(level_F, (0.05, 0.95))
    above = np.flatnonzero(level_F > quiet + _LOUD * (loud - quiet))
    if not len(above):
        return features_FM, 0
    before, after = rng.integers(margin[0], margin[1] + 1, 2)
    start = max(0, int(above[0]) - int(before))
    return features_FM[start : int(above[-1]) + 1 + int(after)], start


def _pad(features_FM: Float32, config: AugmentConfig, rng: np.random.Generator) -> tuple[Float32, int]:
    front, back = rng.integers(0, config.pad_frames + 1, 2)
    floor = features_FM.min()
    return np.pad(features_FM, ((front, back), (0, 0)), constant_values=floor), int(front)


def _colour(num_mels: int, strength_db: float, rng: np.random.Generator) -> Float32:
    # a smooth random curve over frequency: microphones and rooms differ like this
    knots = rng.uniform(-strength_db, strength_db, 5)
    curve_db = np.interp(np.linspace(0, 4, num_mels), np.arange(5), knots)
    return (10.0 ** (curve_db / 10.0)).astype(np.float32)


def _noise(power_FM: Float32, config: AugmentConfig, rng: np.random.Generator) -> Float32:
    tilt_db = np.linspace(0, rng.uniform(-25, 5), power_FM.shape[1])
    shape = 10.0 ** (tilt_db / 10.0) * rng.gamma(4.0, 0.25, power_FM.shape)  # power of band noise fluctuates
    snr = 10.0 ** (rng.uniform(*config.snr_db) / 10.0)
    return (shape * (power_FM.mean() / shape.mean() / snr)).astype(np.float32)


def _mask(features_FM: Float32, config: AugmentConfig, rng: np.random.Generator) -> Float32:
    frames, mels = features_FM.shape
    fill = features_FM.mean()
    for _ in range(config.time_masks):
        size = int(rng.integers(0, min(config.time_mask_frames, frames // 8) + 1))
        start = int(rng.integers(0, frames - size + 1))
        features_FM[start : start + size] = fill
    for _ in range(config.mel_masks):
        size = int(rng.integers(0, config.mel_mask_bins + 1))
        start = int(rng.integers(0, mels - size + 1))
        features_FM[:, start : start + size] = fill
    return features_FM
