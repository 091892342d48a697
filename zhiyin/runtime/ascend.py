"""Runs a bundle of OM graphs on an Ascend device through pyACL; no torch is imported.

Every graph has fixed shapes. An utterance is padded to the next larger bucket and its outputs are cut to what is real;
rows of a batch are dealt to the batch sizes there are. Not run on hardware by this project: the tests drive a strict
double of pyACL (docs/ascend.md says what each of them proves).

Shapes: `B` batch, `N` tokens in one call, `M` mel bins, `F` mel frames, `D` decoder width, `V` vocabulary.
"""

import functools
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from zhiyin.errors import UserError
from zhiyin.runtime import bundle
from zhiyin.runtime.ascend_acl import PROCESS, DeviceLost
from zhiyin.runtime.ascend_load import AnyCache, Loaded, Table
from zhiyin.runtime.base import Device, Encoded, Float32, Int64, ModelSpec
from zhiyin.runtime.device import ascend_devices, choose
from zhiyin.runtime.session import PADDING, CachedSession

ENGINE = "pyACL"
SESSIONS = ("acl", "ais_bench")

T = TypeVar("T")


class AscendBackend:
    """The graphs of an OM bundle as a backend. Threads may share it; the device serves one call after the other."""

    name = "om"

    def __init__(self, folder: Path, *, device: str = "auto", session: str = "acl", allow_fallback: bool = False):
        """Open a bundle and load all of its graphs; gigabytes take a minute.

        Args:
            folder: the bundle, written by ``zhiyin atc``.
            device: see `runtime.device.choose`.
            session: ``acl``, or ``ais_bench`` where it is installed (slower: the cache crosses to the host).
            allow_fallback: take another Ascend device if the one asked for is not there; the graphs run nowhere else.

        Raises:
            UserError: no whole OM bundle, no pyACL, another chip, graphs that are not those of the record, or not
                enough memory; `ascend_acl.DeviceError` carries the code of a call that failed.
        """
        if session not in SESSIONS:
            raise UserError(f"session '{session}' is not known; known: {' '.join(SESSIONS)}")
        self.spec: ModelSpec = bundle.read(folder)
        target = bundle.read_target(folder)
        if target is None or target.kind != "om":
            raise UserError(f"bundle {folder}: its graphs are ONNX; run zhiyin atc {folder} --soc NAME first")
        self.table = Table(folder, bundle.read_graphs(folder), self.spec)
        acl = PROCESS.begin()
        self.device = _choose(device, PROCESS.count(), allow_fallback)
        soc = acl.get_soc_name() or ""
        if soc and target.soc and soc != target.soc:
            here = f"device {self.device.name} is {soc}; run zhiyin atc on the ONNX bundle with --soc {soc}"
            raise UserError(f"bundle {folder}: its graphs are for {target.soc}, {here}")
        chip = f"{soc or target.soc}, {target.precision}"
        self.device = Device(self.device.name, f"{self.device.reason}; {chip}")
        self.loaded = Loaded(self.table, session)
        self.card = PROCESS.enter(int(self.device.name.partition(":")[2]), self.loaded)
        try:
            with self.card.turn():
                self.loaded.load(self.card)
        except BaseException:
            PROCESS.leave(self.card, self.loaded)
            raise
        self._dropped = weakref.finalize(self, self.card.dropped.append, self.loaded)
        self._dropped.atexit = False  # the process gives everything back then
        if self.table.decoders:
            self.embeddings_VD = np.load(folder / bundle.EMBEDDINGS, mmap_mode="r")
            self._markers: Float32 = np.load(folder / bundle.MARKERS).astype(np.float32)

    def close(self) -> None:
        """Give the device's memory back; the backend cannot be used any more. Once is enough, twice does no harm."""
        if self._dropped.detach() is not None:
            PROCESS.leave(self.card, self.loaded)

    def reset(self) -> None:
        """Give back all that this process holds on the device and begin anew, with every backend that uses it."""
        self._needs_open()
        with self.card.turn():
            self.card.reset()
            self.loaded.load(self.card)

    def free_bytes(self) -> int | None:
        """Memory that is free on the device."""
        self._needs_open()
        with self.card.turn():
            return self.card.free_bytes()

    def encode(self, mels: Sequence[Float32]) -> list[Encoded]:
        """See `runtime.base.Backend`; each utterance in the smallest bucket that holds it."""
        for mel_MF in mels:
            self.spec.check_mel(mel_MF)
        out: dict[int, Encoded] = {}
        for size, batch, rows in self.table.deal([mel_MF.shape[1] for mel_MF in mels]):
            some = [mels[i] for i in rows]
            heard = self.attempt(functools.partial(self._encode, size, batch, some))
            out.update(zip(rows, heard, strict=True))
        return [out[i] for i in range(len(mels))]

    def embed(self, ids: Sequence[int]) -> Float32:
        """See `runtime.base.Backend`."""
        self._needs_decoder()
        return self.embeddings_VD[np.asarray(ids, np.int64)].astype(np.float32)

    @property
    def markers(self) -> Float32:
        """See `runtime.base.Backend`."""
        self._needs_decoder()
        return self._markers

    def start(self, batch: int) -> "AscendSession":
        """See `runtime.base.Backend`."""
        self._needs_decoder()
        return AscendSession(self, batch)

    def attempt(self, work: Callable[[], T], again: Callable[[], T] | None = None) -> T:
        """Do something on the device; if it is lost meanwhile, reset it and do it once more.

        Args:
            work: called with the device's turn held and the graphs loaded.
            again: instead of `work`, the second time.

        Raises:
            DeviceLost: it failed a second time, or does not come back; the next call tries again from the beginning.
            ValueError: the backend is closed.
        """
        self._needs_open()
        with self.card.turn():
            try:
                self.loaded.load(self.card)
                return work()
            except DeviceLost as error:
                self.card.reset()
                note = f"reset after acl code {error.code}"
                if note not in self.device.reason:
                    self.device = Device(self.device.name, f"{self.device.reason}; {note}")
                self.loaded.load(self.card)
                return (again or work)()

    def _encode(self, size: int, batch: int, mels: Sequence[Float32]) -> list[Encoded]:
        graph = self.loaded.graphs["encoder", size, batch]
        mel_BMF, frames_B = graph.view("mel"), graph.view("frames")
        frames_B[:] = size  # rows that are not used must not become NaN
        for row, mel_MF in enumerate(mels):
            frames_B[row] = mel_MF.shape[1]
            mel_BMF[row, :, : mel_MF.shape[1]] = mel_MF
            mel_BMF[row, :, mel_MF.shape[1] :] = 0
        graph.run()
        counts_B = [int(count) for count in graph.read("counts")]
        lengths_B = [int(count) for count in graph.read("ctc_frames")] if self.table.has_ctc else []
        return [
            Encoded(
                graph.read_finite("vectors", row, counts_B[row]),
                graph.read_finite("ctc", row, lengths_B[row]) if lengths_B else None,
            )
            for row in range(len(mels))
        ]

    def _needs_open(self) -> None:
        if not self._dropped.alive:
            raise ValueError(f"the backend of {self.table.folder} is closed")

    def _needs_decoder(self) -> None:
        if not self.table.decoders:
            raise UserError(f"bundle {self.table.folder}: it holds encoder and projector only; export the decoder too")


class AscendSession(CachedSession):
    """Rows dealt to decoder graphs of fixed batch sizes; their caches stay on the device.

    What was added is also kept on the host, so that a session survives a reset of the device: its rows are added again.
    """

    def __init__(self, backend: AscendBackend, batch: int):
        super().__init__(batch, backend.table.places, backend.table.width)
        self.backend = backend
        self.added: list[list[Float32]] = [[] for _ in range(batch)]
        self.held: list[AnyCache] = []
        self.seats: list[tuple[AnyCache, int]] = []
        self.generation = -1
        weakref.finalize(self, backend.loaded.give_back, self.held).atexit = False
        backend.attempt(self._sit)

    def extend(self, embeds: Sequence[Float32]) -> Float32:
        """See `runtime.base.Session`."""

        def again() -> Float32:
            self._sit()
            self.used_B[:] = 0
            return base([np.concatenate([*row, new]) for row, new in zip(self.added, embeds, strict=True)])

        def work() -> Float32:
            is_lost = self.generation != self.backend.loaded.generation  # another session's trouble
            return again() if is_lost else base(embeds)

        base = super().extend
        logits_BV = self.backend.attempt(work, again)
        for row, new in zip(self.added, embeds, strict=True):
            row.append(np.array(new, np.float32))
        return logits_BV

    def call_size(self, wanted: int) -> int:
        """See `CachedSession`: a launch costs more than its tokens, so as few calls as can be."""
        sizes = self.backend.table.call_sizes
        return min((size for size in sizes if size >= wanted), default=sizes[-1])

    def forward(self, embeds_BND: Float32, positions_BN: Int64, last_B: Int64) -> Float32:
        """See `CachedSession`."""
        logits_BV = np.zeros((len(embeds_BND), self.backend.table.vocabulary), np.float32)
        for cache in dict.fromkeys(cache for cache, _ in self.seats):
            rows = [row for row, (of, _) in enumerate(self.seats) if of is cache]
            if (positions_BN[rows] == PADDING).all():
                continue
            slots = [self.seats[row][1] for row in rows]
            graph: Any = self.backend.loaded.graphs["decoder", embeds_BND.shape[1], cache.batch]
            graph.view("positions")[:] = PADDING
            for name, values in (("embeds", embeds_BND), ("positions", positions_BN), ("last", last_B)):
                graph.view(name)[slots] = values[rows]
            graph.run(cache)
            logits_BV[rows] = graph.read_finite("logits")[slots]
        return logits_BV

    def select(self, rows: Sequence[int]) -> None:
        """See `CachedSession`; nothing moves, rows keep their seats."""
        self.seats = [self.seats[row] for row in rows]
        self.added = [self.added[row] for row in rows]

    def _sit(self) -> None:
        """Take empty caches for the rows there are."""
        loaded, count = self.backend.loaded, len(self.used_B)
        loaded.give_back(self.held)
        self.seats, self.generation = [], loaded.generation
        for batch, rows in self.backend.table.split(count, "decoder"):
            cache = loaded.take(batch, count)
            self.held.append(cache)
            self.seats += [(cache, slot) for slot in range(rows)]


def _choose(asked: str, count: int, allow_fallback: bool) -> Device:
    names = ascend_devices(count)
    if not names:
        raise UserError(f"device '{asked}': {ENGINE} sees none; zhiyin doctor says why")
    chosen = choose(asked, names, engine=ENGINE, allow_fallback=allow_fallback)
    # OM graphs run on no CPU: where another device is allowed, it is the first of these
    return chosen if chosen.name in names else Device(names[0], chosen.reason)
