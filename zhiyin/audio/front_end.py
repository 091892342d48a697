"""What a model's encoder wants to see: the kinds of features, by name.

| name | what it is |
|---|---|
| `whisper` | Whisper's log-mel of the signal as long as it is |
| `whisper-30s` | the same of the signal padded with silence to 30 s |
| `whisper-30s-mask` | the same, and a last row that is 1 where there is signal and 0 where there is padding |
| `qwen3-asr` | Whisper's log-mel, of at least half a second |
| `granite` | log-mel on the HTK scale, two frames in a column |
| `kaldi-lfr` | Kaldi's log filter-bank energies, seven frames in a column, every sixth one |

Shapes: `T` samples, `F` frames (columns), `M` rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from zhiyin.audio import kaldi
from zhiyin.audio.features import HOP_SAMPLES, MIN_SAMPLES, SAMPLE_RATE_HZ, WINDOW_SAMPLES, Float32, log_mel
from zhiyin.errors import UserError

FRAMES_PER_S = SAMPLE_RATE_HZ / HOP_SAMPLES
WHISPER_WINDOW_S = 30
_WHISPER_SAMPLES = WHISPER_WINDOW_S * SAMPLE_RATE_HZ
_QWEN3_ASR_SAMPLES = SAMPLE_RATE_HZ // 2
_GRANITE_FFT_SAMPLES = 512
_GRANITE_STACKED = 2


@dataclass(frozen=True)
class FrontEnd:
    """A kind of features.

    Attributes:
        name: as a model's spec names it.
        frames_per_s: columns per second of signal.
        features: waveform in [-1, 1] and number of rows -> features [M, F], at least one column.
    """

    name: str
    frames_per_s: float
    features: Callable[[Float32, int], Float32]


def compute(name: str, samples_T: Float32, *, num_mels: int) -> Float32:
    """Features of a mono 16 kHz signal.

    Args:
        name: of the kind of features.
        samples_T: waveform in [-1, 1]; too few samples for one frame are padded with silence.
        num_mels: rows of the result, thus 160 for 80 mel bins of `granite` and 560 for 80 of `kaldi-lfr`.

    Returns:
        Features [M, F], at least one frame.

    Raises:
        UserError: no such kind of features.
        ValueError: a number of rows this kind cannot have, or more than 30 s where it is padded to that.
    """
    return find(name).features(samples_T, num_mels)


def find(name: str) -> FrontEnd:
    """The kind of features of that name.

    Raises:
        UserError: there is none; those there are are listed.
    """
    if name not in FRONT_ENDS:
        raise UserError(f"features '{name}' are not known to this version; known: {' '.join(FRONT_ENDS)}")
    return FRONT_ENDS[name]


def _whisper(samples_T: Float32, num_mels: int) -> Float32:
    return log_mel(samples_T, num_mels=num_mels)


def _whisper_30s(samples_T: Float32, num_mels: int) -> Float32:
    """Source: OpenAI whisper `audio.pad_or_trim`; nothing is trimmed here, windows are cut before."""
    if len(samples_T) > _WHISPER_SAMPLES:
        seconds = len(samples_T) / SAMPLE_RATE_HZ
        raise ValueError(f"features of {seconds:.2f} s: this model takes at most {WHISPER_WINDOW_S} s at once")
    return log_mel(np.pad(samples_T, (0, _WHISPER_SAMPLES - len(samples_T))), num_mels=num_mels)


def _whisper_30s_mask(samples_T: Float32, num_mels: int) -> Float32:
    """Source of the mask: transformers `WhisperFeatureExtractor`; a frame counts where its first sample does."""
    mel_MF = _whisper_30s(samples_T, num_mels - 1)
    mask = np.arange(mel_MF.shape[1]) * HOP_SAMPLES < max(len(samples_T), 1)
    return np.concatenate([mel_MF, mask[None].astype(np.float32)])


def _qwen3_asr(samples_T: Float32, num_mels: int) -> Float32:
    """Source: transformers `models/qwen3_asr/feature_extraction_qwen3_asr.py`, `min_length`."""
    short = max(0, _QWEN3_ASR_SAMPLES - len(samples_T))
    return log_mel(np.pad(samples_T, (0, short)), num_mels=num_mels)


def _granite(samples_T: Float32, num_rows: int) -> Float32:
    """Rows are two frames one after the other; an odd last frame is dropped.

    Source: transformers `models/granite_speech/feature_extraction_granite_speech.py`, which takes the power
    spectrogram of torchaudio's `MelSpectrogram` (a window of 400 samples in the middle of 512, and a spectrum of
    powers does not know where in the 512 it stands).
    """
    if len(samples_T) < MIN_SAMPLES:
        samples_T = np.pad(samples_T, (0, MIN_SAMPLES - len(samples_T)))
    padded = np.pad(np.asarray(samples_T, np.float32), WINDOW_SAMPLES // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SAMPLES)[::HOP_SAMPLES]
    hann = np.hanning(WINDOW_SAMPLES + 1)[:-1].astype(np.float32)  # periodic
    spectrum = np.fft.rfft(frames * hann, n=_GRANITE_FFT_SAMPLES, axis=1)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
    log_FM = np.log10(np.maximum(power @ htk_filters(num_rows // _GRANITE_STACKED).T, 1e-10))
    log_FM = np.maximum(log_FM, log_FM.max() - 8.0) / 4.0 + 1.0
    columns = len(log_FM) // _GRANITE_STACKED
    return np.ascontiguousarray(log_FM[: columns * _GRANITE_STACKED].reshape(columns, -1).T.astype(np.float32))


@cache
def htk_filters(num_mels: int) -> Float32:
    """Triangular filters [M, 257] on the HTK mel scale, 0 to 8 kHz, each with its peak near 1.

    Source: the HTK book's mel scale, and `torchaudio.functional.melscale_fbanks` with `norm=None`: straight lines in
    hertz between corners that are equally far apart in mel.
    """
    top = 2595.0 * np.log10(1.0 + SAMPLE_RATE_HZ / 2 / 700.0)
    corners_hz = 700.0 * (10.0 ** (np.linspace(0.0, top, num_mels + 2) / 2595.0) - 1.0)
    bins_hz = np.linspace(0.0, SAMPLE_RATE_HZ / 2, _GRANITE_FFT_SAMPLES // 2 + 1)
    rising = (bins_hz - corners_hz[:-2, None]) / np.diff(corners_hz)[:-1, None]
    falling = (corners_hz[2:, None] - bins_hz) / np.diff(corners_hz)[1:, None]
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)


def _kaldi_lfr(samples_T: Float32, num_rows: int) -> Float32:
    return kaldi.low_frame_rate(kaldi.fbank(samples_T, num_mels=num_rows // kaldi.STACKED_FRAMES))


def _stacked(features: Callable[[Float32, int], Float32], frames: int) -> Callable[[Float32, int], Float32]:
    """The same, refusing a number of rows that is not a whole number of frames."""

    def checked(samples_T: Float32, num_rows: int) -> Float32:
        if num_rows < frames or num_rows % frames:
            raise ValueError(f"features of {num_rows} rows: a column holds {frames} frames, so rows are their multiple")
        return features(samples_T, num_rows)

    return checked


FRONT_ENDS = {
    front_end.name: front_end
    for front_end in (
        FrontEnd("whisper", FRAMES_PER_S, _whisper),
        FrontEnd("whisper-30s", FRAMES_PER_S, _whisper_30s),
        FrontEnd("whisper-30s-mask", FRAMES_PER_S, _whisper_30s_mask),
        FrontEnd("qwen3-asr", FRAMES_PER_S, _qwen3_asr),
        FrontEnd("granite", FRAMES_PER_S / _GRANITE_STACKED, _stacked(_granite, _GRANITE_STACKED)),
        FrontEnd("kaldi-lfr", FRAMES_PER_S / kaldi.STRIDE_FRAMES, _stacked(_kaldi_lfr, kaldi.STACKED_FRAMES)),
    )
}
