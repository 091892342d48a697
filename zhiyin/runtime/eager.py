"""Runs a checkpoint with PyTorch on any device torch has (extra `train`), in float32, bfloat16 or float16.

Call `runtime.device.before_torch` before this module is imported. Shapes as in `runtime.onnx`.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zhiyin.errors import UserError
from zhiyin.model import checkpoint
from zhiyin.model.config import ModelConfig
from zhiyin.model.speech_lm import SpeechLM
from zhiyin.runtime.base import FRAMES_PER_S, Device, Encoded, Float32, Int64, ModelSpec
from zhiyin.runtime.device import check_memory, chip, choose, choose_dtype, fall_back
from zhiyin.runtime.device_state import release
from zhiyin.runtime.session import CachedSession

ENGINE = "torch"
MAX_CALL_TOKENS = 512  # bounds the memory that a long prompt needs at once


def devices() -> tuple[str, ...]:
    """What torch can run on here, e.g. ``("cpu",)``."""
    if not torch.accelerator.is_available():
        return ("cpu",)
    kind = torch.accelerator.current_accelerator()
    return (*(f"{kind.type}:{i}" for i in range(torch.accelerator.device_count())), "cpu") if kind else ("cpu",)


def open_device(asked: str, *, note: str = "", allow_fallback: bool = False) -> Device:
    """The device for a request, after one number was really put there and fetched again.

    Args:
        asked: see `runtime.device.choose`.
        note: what `runtime.device.before_torch` said.
        allow_fallback: take the CPU where the device is not there or does not open.

    Raises:
        UserError: the device is not known, not there, or does not open (busy, lost, driver gone).
    """
    chosen = choose(asked, devices(), engine=ENGINE, note=note, allow_fallback=allow_fallback)
    if chosen.name == "cpu":
        return chosen
    try:
        torch.zeros(1).to(chosen.name).add_(1).cpu()
    except RuntimeError as error:
        why = f"it does not open ({str(error).strip().splitlines()[0]})"
        if allow_fallback:
            return fall_back(chosen.name, why)
        if asked.strip().lower() == "auto":
            return Device("cpu", f"auto: {chosen.name} is there, but {why}")
        raise UserError(
            f"device '{asked}': {why}; see `zhiyin doctor`, end what holds the device, or use cpu"
        ) from error
    name = chip(chosen.name)
    return dataclasses.replace(chosen, reason=f"{chosen.reason}; {name}") if name else chosen


def spec_of(config: ModelConfig, spec: dict[str, Any], where: str) -> ModelSpec:
    """A checkpoint's spec, with what its sizes already say taken from them.

    Raises:
        UserError: a field is unknown, missing or of another type, or the window is longer than the position tables.
    """
    facts = {
        "family": config.family,
        "eos_id": config.eos_id,
        "num_mels": config.encoder.num_mels,
        "frames_per_vector": config.frames_per_vector,
    }
    known = ModelSpec.from_record({**spec, **facts}, where)
    stride = math.prod(config.encoder.conv_strides)
    most = min(config.encoder.max_positions * stride, config.projector.max_positions * config.frames_per_vector)
    if known.max_frames > most:
        wrong = f"max_window_s {known.max_window_s:g} is more than its positions allow ({most / FRAMES_PER_S:g})"
        raise UserError(f"{where}: {wrong}; lower it")
    return known


class EagerBackend:
    """A checkpoint as a backend. What it takes and gives is float32, whatever its weights are."""

    name = "eager"

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        threads: int | None = None,
        note: str = "",
        allow_fallback: bool = False,
    ):
        """Read a checkpoint.

        Args:
            folder: written by `model.checkpoint.save` or `write`.
            device: see `runtime.device.choose`.
            dtype: of the weights, see `runtime.device.choose_dtype`; the device's reason says what was chosen and why.
            threads: of torch in this process; by default torch's own choice.
            note: what `runtime.device.before_torch` said.
            allow_fallback: see `open_device`.

        Raises:
            UserError: no whole checkpoint, the device is not there, or the weights do not fit into its memory.
        """
        chosen = open_device(device, note=note, allow_fallback=allow_fallback)
        precision, why = choose_dtype(dtype, chosen)
        kept: torch.dtype = getattr(torch, precision)
        self.device = dataclasses.replace(chosen, reason=f"{chosen.reason}; {precision}: {why}")
        check_memory(checkpoint.memory_bytes(folder, dtype=kept), self.device.name, f"checkpoint {folder}: {precision}")
        if threads:
            torch.set_num_threads(threads)
        self.model, spec = checkpoint.load(folder, device=self.device.name, dtype=kept)
        spec["precision"] = precision
        self.spec = spec_of(self.model.config, spec, f"checkpoint {folder}: spec")

    def encode(self, mels: Sequence[Float32]) -> list[Encoded]:
        """See `runtime.base.Backend`. Where all at once do not fit into the device's memory, the halves are tried."""
        for mel_MF in mels:
            self.spec.check_mel(mel_MF)
        if not mels:
            return []
        try:
            return self._encode(mels)
        except torch.OutOfMemoryError as error:
            if len(mels) == 1:
                length_s = mels[0].shape[1] / self.spec.frames_per_s
                raise _full(self.device, f"encoding {length_s:.1f} s", "shorter windows", error) from error
        release(self.device.name)
        middle = len(mels) // 2
        return [*self.encode(mels[:middle]), *self.encode(mels[middle:])]

    @torch.inference_mode()
    def _encode(self, mels: Sequence[Float32]) -> list[Encoded]:
        frames = [mel_MF.shape[1] for mel_MF in mels]
        mel_BMF = np.zeros((len(mels), self.spec.num_mels, max(frames)), np.float32)
        for i, mel_MF in enumerate(mels):
            mel_BMF[i, :, : frames[i]] = mel_MF
        speech = self.model.listen(self._send(mel_BMF).to(self.model.markers.dtype), self._send(np.array(frames)))
        vectors = [row[:count] for row, count in zip(speech.vectors_BSD, speech.vector_counts_B.tolist(), strict=True)]
        if not self.model.config.ctc:
            return [Encoded(_fetch(row_SD)) for row_SD in vectors]
        ctc_BTV, lengths = self.model.ctc(speech.encoded_BTE), speech.encoded_lengths_B.tolist()
        heads = [row[:length] for row, length in zip(ctc_BTV, lengths, strict=True)]
        return [Encoded(_fetch(row_SD), _fetch(ctc_TV)) for row_SD, ctc_TV in zip(vectors, heads, strict=True)]

    @torch.inference_mode()
    def embed(self, ids: Sequence[int]) -> Float32:
        """See `runtime.base.Backend`."""
        return _fetch(self.model.decoder.embed_tokens(self._send(np.asarray(ids, np.int64))))

    @property
    def markers(self) -> Float32:
        """See `runtime.base.Backend`."""
        return _fetch(self.model.markers)

    def start(self, batch: int) -> "EagerSession":
        """See `runtime.base.Backend`."""
        try:
            return EagerSession(self.model, batch, self.spec.max_tokens, self.device)
        except torch.OutOfMemoryError as error:
            cache = f"a cache for {batch} replies of up to {self.spec.max_tokens} tokens"
            raise _full(self.device, cache, "fewer at once", error) from error

    def _send(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device.name)


class EagerSession(CachedSession):
    """The cache as tensors on the model's device."""

    def __init__(self, model: SpeechLM, batch: int, places: int, device: Device):
        super().__init__(batch, places, model.config.decoder.width)
        self.device = device
        self.decoder = model.decoder
        self.keys_LBGCK, self.values_LBGCK = self.decoder.empty_cache(batch, places)

    def call_size(self, wanted: int) -> int:
        """See `CachedSession`."""
        return min(wanted, MAX_CALL_TOKENS)

    def forward(self, embeds_BND: Float32, positions_BN: Int64, last_B: Int64) -> Float32:
        """See `CachedSession`."""
        try:
            return self._forward(embeds_BND, positions_BN, last_B)
        except torch.OutOfMemoryError as error:
            batch, tokens = positions_BN.shape
            raise _full(self.device, f"{tokens} tokens of {batch} replies", "fewer at once", error) from error

    @torch.inference_mode()
    def _forward(self, embeds_BND: Float32, positions_BN: Int64, last_B: Int64) -> Float32:
        place = self.keys_LBGCK.device
        embeds, positions, last = (torch.from_numpy(array).to(place) for array in (embeds_BND, positions_BN, last_B))
        hidden = self.decoder.append(embeds.to(self.keys_LBGCK.dtype), positions, self.keys_LBGCK, self.values_LBGCK)
        return _fetch(self.decoder.logits(hidden[torch.arange(len(last), device=place), last]))

    def select(self, rows: Sequence[int]) -> None:
        """See `CachedSession`."""
        self.keys_LBGCK, self.values_LBGCK = self.keys_LBGCK[:, list(rows)], self.values_LBGCK[:, list(rows)]


def _full(device: Device, what: str, instead: str, error: torch.OutOfMemoryError) -> UserError:
    line = str(error).strip().splitlines()[0]
    return UserError(
        f"{device.name}: {what} do not fit into its memory ({line}); use {instead}, a smaller dtype or another device"
    )


def _fetch(tensor: Tensor) -> Float32:
    return tensor.detach().float().cpu().numpy()
