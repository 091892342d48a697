"""Runs a bundle with onnxruntime; no torch is imported.

A bundle of fixed sizes runs as well as one that takes any length: audio is padded to the next larger bucket and what
comes of the padding is cut off; rows go through the decoder in groups of the size its graphs have.

Shapes: `B` batch, `N` tokens in one call, `M` mel bins, `F` mel frames, `S` speech vectors, `D` decoder width,
`V` vocabulary, `L` layers, `G` key/value heads, `C` places in the cache, `K` head width.
"""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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
MAX_TOGETHER = 8  # utterances in the encoder: pocket, 2 s, one thread: 6.5 ms alone, 4.9 of 2, 4.3 of 8, 5.2 of 32
MAX_PADDING = 1.3  # longer than the shortest: what is padded is computed for nothing
_ERRORS_ONLY = 3
_GROWTH = {"float32": 1, "float16": 2, "int8": 4, "int8-dynamic": 1}  # most stored weights become float32 in memory

Calls = Mapping[int, onnxruntime.InferenceSession]


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
        self._graphs = _runnable(folder)
        stored_bytes = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        for _ in self.buckets[1:]:  # each has its own copy in memory of what is one file
            stored_bytes += (folder / bundle.ENCODER_WEIGHTS).stat().st_size
        check_memory(stored_bytes * _GROWTH.get(self.spec.precision, 1), "cpu", f"bundle {folder}")
        found = of_providers(onnxruntime.get_available_providers())
        self.device = choose(device, found, engine=ENGINE)
        self._folder, self._threads = folder, threads or min(MAX_DEFAULT_THREADS, _cores())
        try:
            self._open()
        except _NotOpened as error:
            if device != "auto" or self.device.name == "cpu":
                raise
            self.device = Device("cpu", f"auto: {error}")
            self._open()
        self.embeddings_VD = np.load(folder / bundle.EMBEDDINGS, mmap_mode="r")
        self._markers: Float32 = np.load(folder / bundle.MARKERS).astype(np.float32)

    def encode(self, mels: Sequence[Float32]) -> list[Encoded]:
        """See `runtime.base.Backend`. Utterances of nearly the same length go through the graph together."""
        found: dict[int, Encoded] = {}
        for rows in _alike([mel_MF.shape[1] for mel_MF in mels], most=self._together):
            found.update(zip(rows, self._encode([mels[row] for row in rows]), strict=True))
        return [found[row] for row in range(len(mels))]

    def embed(self, ids: Sequence[int]) -> Float32:
        """See `runtime.base.Backend`."""
        return self.embeddings_VD[np.asarray(ids, np.int64)].astype(np.float32)

    @property
    def markers(self) -> Float32:
        """See `runtime.base.Backend`."""
        return self._markers

    @property
    def buckets(self) -> tuple[int, ...]:
        """Feature frames of the encoder graphs, smaller first; none where one graph takes any length."""
        return tuple(graph.size for graph in self._graphs if graph.component == "encoder")

    def start(self, batch: int) -> "OnnxSession":
        """See `runtime.base.Backend`. Of graphs for several batch sizes, the largest that is filled is used."""
        sizes = sorted(self._decoders)
        rows = max((size for size in sizes if size <= batch), default=sizes[0])
        return OnnxSession(self._decoders[rows], batch, rows or batch)

    def _encode(self, mels: Sequence[Float32]) -> list[Encoded]:
        frames = [mel_MF.shape[1] for mel_MF in mels]
        encoder = self._encoder(max(frames))
        for mel_MF in mels:
            self.spec.check_mel(mel_MF)
        size = next((size for size in self.buckets if size >= max(frames)), max(frames))
        mels_BMF = np.zeros((len(mels), len(mels[0]), size), np.float32)
        for row, mel_MF in enumerate(mels):
            mels_BMF[row, :, : frames[row]] = mel_MF
        lengths_B = np.array(frames, np.int32 if self.buckets else np.int64)
        vectors_BSD, counts_B, *ctc = encoder.run(None, {"mel": mels_BMF, "frames": lengths_B})
        return [
            Encoded(vectors_BSD[row, : counts_B[row]], ctc[0][row, : ctc[1][row]] if ctc else None)
            for row in range(len(mels))
        ]

    def _encoder(self, frames: int) -> onnxruntime.InferenceSession:
        """The encoder for so many frames; those of buckets are opened when they are first needed: each brings its own
        copy of the weights."""
        graph = next((g for g in self._graphs if g.component == "encoder" and g.size >= frames), None)
        if graph is None and self._graphs:
            raise ValueError(f"features of {frames} frames: model '{self.spec.name}' has buckets for {self.buckets}")
        file = graph.file if graph else bundle.ENCODER
        if file not in self._encoders:
            self._encoders[file] = _session(self._folder / file, self.device, self._threads)
        return self._encoders[file]

    def _open(self) -> None:
        self._encoders: dict[str, onnxruntime.InferenceSession] = {}
        batch = _shape(self._encoder(1), "mel")[0]
        # dynamic quantisation has one scale for a whole batch: what stands beside an utterance would change it
        takes_many = not self.buckets and isinstance(batch, str) and self.spec.precision != "int8-dynamic"
        self._together = MAX_TOGETHER if takes_many else 1
        decoders = [(g.batch, g.size, g.file) for g in self._graphs if g.component == "decoder"]
        self._decoders: dict[int, dict[int, onnxruntime.InferenceSession]] = {}  # rows (0: any) -> tokens -> graph
        for batch, size, file in decoders or [(0, 0, bundle.PREFILL), (0, 1, bundle.STEP)]:
            session = _session(self._folder / file, self.device, self._threads, pack=size != 1)
            self._decoders.setdefault(batch, {})[size or _shape(session, "embeds")[1]] = session


def _alike(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Rows in groups of at most `most`, none longer than the shortest of its group by more than `MAX_PADDING`."""
    rows: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if rows and (len(rows) == most or lengths[row] > lengths[rows[0]] * MAX_PADDING):
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows


class OnnxSession(CachedSession):
    """Plain arrays go in and out at each call: measured as fast as bound buffers, the cache being small."""

    def __init__(self, calls: Calls, batch: int, rows: int):
        """Begin.

        Args:
            calls: tokens per call -> graph.
            batch: sequences.
            rows: how many of them a graph takes at once; the last group is filled with padding.
        """
        graph = calls[1]
        layers, _, heads, places, head_width = _shape(graph, "keys")
        super().__init__(batch, places, _shape(graph, "embeds")[2])
        self.calls, self.rows = calls, rows
        self._is_fixed = isinstance(_shape(graph, "keys")[1], int)
        self._integers = np.int32 if self._is_fixed else np.int64
        shape = (layers, rows, heads, places, head_width)
        self.caches = [(np.zeros(shape, np.float32), np.zeros(shape, np.float32)) for _ in range(-(-batch // rows))]

    def call_size(self, wanted: int) -> int:
        """See `CachedSession`."""
        return 1 if wanted <= MAX_SINGLE_STEPS else max(self.calls)

    def forward(self, embeds_BND: Float32, positions_BN: Int64, last_B: Int64) -> Float32:
        """See `CachedSession`."""
        batch, call = len(last_B), self.calls[embeds_BND.shape[1]]
        missing = len(self.caches) * self.rows - batch
        embeds_BND = np.pad(embeds_BND, ((0, missing), (0, 0), (0, 0)))
        positions_BN = np.pad(positions_BN, ((0, missing), (0, 0)), constant_values=-1).astype(self._integers)
        last_B = np.pad(last_B, (0, missing)).astype(self._integers)
        parts: list[Float32] = []
        for i, (keys, values) in enumerate(self.caches):
            group = slice(i * self.rows, (i + 1) * self.rows)
            feeds = {"embeds": embeds_BND[group], "positions": positions_BN[group], "last": last_B[group]}
            logits_BV, *cache = call.run(None, {**feeds, "keys": keys, "values": values})
            self.caches[i] = (cache[0], cache[1])
            parts.append(logits_BV)
        return np.concatenate(parts)[:batch] if len(parts) > 1 or missing else parts[0]

    def select(self, rows: Sequence[int]) -> None:
        """See `CachedSession`."""
        if self.rows == 1:
            self.caches = [self.caches[row] for row in rows]
            return
        whole = [np.concatenate([cache[side] for cache in self.caches], 1)[:, list(rows)] for side in (0, 1)]
        if not self._is_fixed:
            self.rows = len(rows)
        missing = -len(rows) % self.rows
        keys, values = (np.pad(part, ((0, 0), (0, missing), (0, 0), (0, 0), (0, 0))) for part in whole)
        starts = range(0, keys.shape[1], self.rows)
        self.caches = [(keys[:, i : i + self.rows], values[:, i : i + self.rows]) for i in starts]


class _NotOpened(UserError):
    """A graph did not open on a device that onnxruntime lists."""


def _runnable(folder: Path) -> tuple[bundle.Graph, ...]:
    """Graphs of a bundle of fixed sizes that onnxruntime can run; none of one that takes any length."""
    target, graphs = bundle.read_target(folder), bundle.read_graphs(folder)
    if target is not None and target.kind != "onnx":
        raise UserError(f"bundle {folder}: its graphs are compiled for {target.soc}; run it there with --backend om")
    if graphs and not {"encoder", "decoder"} <= {graph.component for graph in graphs}:
        raise UserError(
            f"bundle {folder}: it holds encoder and projector only, for comparing and timing; the whole model runs "
            "from its own folder"
        )
    return graphs


def _session(path: Path, device: Device, threads: int, *, pack: bool = True) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False  # a plan would be kept for every length of audio ever heard, 7 KB each
    options.enable_cpu_mem_arena = False  # nor are the largest buffers ever needed; measured as fast without it
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


def _shape(session: onnxruntime.InferenceSession, name: str) -> list[Any]:
    """Of an input; a size that is open is a word."""
    return next(list(item.shape) for item in session.get_inputs() if item.name == name)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
