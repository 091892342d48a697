"""Runs a bundle with onnxruntime; no torch is imported.

Shapes: `B` batch, `N` tokens in one call, `M` mel bins, `F` mel frames, `S` speech vectors, `D` decoder width,
`V` vocabulary, `L` layers, `G` key/value heads, `C` places in the cache, `K` head width.
"""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from zhiyin.errors import UserError
from zhiyin.runtime import bundle
from zhiyin.runtime.base import Device, Encoded, Float32, Int64, ModelSpec
from zhiyin.runtime.device import check_memory, choose, of_providers, provider
from zhiyin.runtime.session import CachedSession

ENGINE = "onnxruntime"
MAX_DEFAULT_THREADS = 4  # small graphs gain nothing from more, and lose on machines with many cores
MAX_SINGLE_STEPS = 4  # up to here single steps are faster: a call of 64 tokens costs about as much as six of one
_ERRORS_ONLY = 3
_GROWTH = {"float32": 1, "float16": 2, "int8": 4}  # stored weights become float32 in memory


class OnnxBackend:
    """The graphs of a bundle as a backend."""

    name = "onnx"

    def __init__(self, folder: Path, *, device: str = "auto", threads: int | None = None):
        """Open a bundle.

        Args:
            folder: the bundle.
            device: see `runtime.device.choose`.
            threads: of each graph; by default the cores this process may use, at most four.

        Raises:
            UserError: no whole bundle, too large for the memory, or the device is not there or does not open.
        """
        self.spec: ModelSpec = bundle.read(folder)
        stored_bytes = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        check_memory(stored_bytes * _GROWTH.get(self.spec.precision, 1), "cpu", f"bundle {folder}")
        found = of_providers(onnxruntime.get_available_providers())
        self.device = choose(device, found, engine=ENGINE)
        threads = threads or min(MAX_DEFAULT_THREADS, _cores())
        try:
            self._open(folder, threads)
        except _NotOpened as error:
            if device != "auto" or self.device.name == "cpu":
                raise
            self.device = Device("cpu", f"auto: {error}")
            self._open(folder, threads)
        self.embeddings_VD = np.load(folder / bundle.EMBEDDINGS, mmap_mode="r")
        self._markers: Float32 = np.load(folder / bundle.MARKERS).astype(np.float32)

    def encode(self, mels: Sequence[Float32]) -> list[Encoded]:
        """See `runtime.base.Backend`. One by one: measured as fast as a batch, and no padding is computed."""
        return [self._encode(mel_MF) for mel_MF in mels]

    def embed(self, ids: Sequence[int]) -> Float32:
        """See `runtime.base.Backend`."""
        return self.embeddings_VD[np.asarray(ids, np.int64)].astype(np.float32)

    @property
    def markers(self) -> Float32:
        """See `runtime.base.Backend`."""
        return self._markers

    def start(self, batch: int) -> "OnnxSession":
        """See `runtime.base.Backend`."""
        return OnnxSession(self.prefill, self.step, batch)

    def _encode(self, mel_MF: Float32) -> Encoded:
        self.spec.check_mel(mel_MF)
        feeds = {"mel": mel_MF[None].astype(np.float32), "frames": np.array([mel_MF.shape[1]])}
        vectors_BSD, _, *ctc = self.encoder.run(None, feeds)
        return Encoded(vectors_BSD[0], ctc[0][0] if ctc else None)

    def _open(self, folder: Path, threads: int) -> None:
        self.encoder, self.prefill, self.step = (
            _session(folder / name, self.device, threads, pack=name != bundle.STEP)
            for name in (bundle.ENCODER, bundle.PREFILL, bundle.STEP)
        )


class OnnxSession(CachedSession):
    """Plain arrays go in and out at each call: measured as fast as bound buffers, the cache being small."""

    def __init__(self, prefill: onnxruntime.InferenceSession, step: onnxruntime.InferenceSession, batch: int):
        shapes = {item.name: item.shape for item in prefill.get_inputs()}
        layers, _, heads, places, head_width = shapes["keys"]
        super().__init__(batch, places, shapes["embeds"][2])
        self.calls = {1: step, shapes["embeds"][1]: prefill}
        self.keys_LBGCK = np.zeros((layers, batch, heads, places, head_width), np.float32)
        self.values_LBGCK = np.zeros_like(self.keys_LBGCK)

    def call_size(self, wanted: int) -> int:
        """See `CachedSession`."""
        return 1 if wanted <= MAX_SINGLE_STEPS else max(self.calls)

    def forward(self, embeds_BND: Float32, positions_BN: Int64, last_B: Int64) -> Float32:
        """See `CachedSession`."""
        feeds = {"embeds": embeds_BND, "positions": positions_BN, "last": last_B}
        feeds |= {"keys": self.keys_LBGCK, "values": self.values_LBGCK}
        logits_BV, self.keys_LBGCK, self.values_LBGCK = self.calls[embeds_BND.shape[1]].run(None, feeds)
        return logits_BV

    def select(self, rows: Sequence[int]) -> None:
        """See `CachedSession`."""
        self.keys_LBGCK, self.values_LBGCK = self.keys_LBGCK[:, list(rows)], self.values_LBGCK[:, list(rows)]


class _NotOpened(UserError):
    """A graph did not open on a device that onnxruntime lists."""


def _session(path: Path, device: Device, threads: int, *, pack: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # threads that spin while waiting took four times the CPU time, and three times the wall time on a busy machine
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not pack:  # one token at a time gains nothing from packed weights, and the copy made loading 1.5 times the file
        options.add_session_config_entry("session.disable_prepacking", "1")
    options.log_severity_level = _ERRORS_ONLY
    wanted = provider(device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a provider that fails is seen below
            session = onnxruntime.InferenceSession(str(path), options, providers=[wanted])
    except Exception as error:  # onnxruntime has no base class of its errors
        line = str(error).strip().split("\n")[0]
        raise _NotOpened(f"bundle {path.parent}: {path.name} does not open on {device.name} ({line})") from error
    if session.get_providers()[0] != wanted[0]:  # onnxruntime falls back to the CPU by itself
        raise _NotOpened(f"device '{device.name}': {ENGINE} lists it but cannot open it; check its driver, or use cpu")
    return session


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
