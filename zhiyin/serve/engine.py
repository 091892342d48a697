"""Windows of many recordings and live streams, through one model together.

Recordings are worked on in threads of their own (`pipeline.understand` with `Recording.hear`), streams too
(`live.session` with `Engine.compute`). What they want heard waits here; the computing threads take what waits in
batches: live streams first, then the recording whose owner, and of his recordings the one that, has been served least.
A batch holds equal requests and windows of similar length. Results are those of `hear.hear`.
"""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from zhiyin import hear
from zhiyin.ask import fit, request
from zhiyin.audio.features import SAMPLE_RATE_HZ
from zhiyin.audio.windows import Window
from zhiyin.live import work as live_work
from zhiyin.live.work import Work
from zhiyin.result import Segment
from zhiyin.runtime.load import Loaded
from zhiyin.tasks.families import Asked

MAX_WINDOWS = 16  # of a batch
MAX_BATCH_S = 60.0  # audio of a batch; a live stream that comes while one is computed waits for its end
LIKE_LENGTHS = 2.0  # no window of a batch is longer than the first one by this factor, nor shorter


class Cancelled(Exception):
    """The recording is not wanted any more."""


class NotHeard(Exception):
    """The model failed on a window; what it raised is the cause. The window may be at fault, or the device."""


@dataclass(eq=False)
class _Call:
    """Windows somebody waits for. `taken` of them were given to the model, `left` of them are not heard yet."""

    recording: "Recording"
    windows: Sequence[Window]
    asked: Asked
    hints: hear.Hints | None
    heard: list[Segment | None] = field(default_factory=list)
    taken: int = 0
    left: int = 0
    error: Exception | None = None
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def next_s(self) -> float:
        """Length of the next window."""
        window = self.windows[self.taken]
        return window.end_s - window.start_s


@dataclass(eq=False)
class _LiveCall:
    """A work a stream waits for."""

    work: Work
    heard: Segment | None = None
    error: Exception | None = None
    done: threading.Event = field(default_factory=threading.Event)


@dataclass(eq=False)
class _Owner:
    """Somebody with open recordings; `served_s` is the audio heard for him.

    Who comes later begins where the one who was served least stands, not at 0: nobody has to catch up with the past.
    """

    served_s: float
    recordings: list["Recording"] = field(default_factory=list)


class Recording:
    """One recording's place in the queue; `hear` is what `pipeline.understand` wants."""

    def __init__(self, engine: "Engine", owner: str, served_s: float) -> None:
        self.owner = owner
        self.served_s = served_s
        self.is_cancelled = False
        self._engine = engine

    def hear(
        self, windows: Sequence[Window], asked: Asked, model: Loaded, hints: hear.Hints | None = None
    ) -> list[Segment]:
        """See `hear.hear`; waits until the engine has heard them.

        Raises:
            Cancelled: by `Engine.cancel`.
            NotHeard: the model failed.
        """
        return self._engine.hear(self, windows, asked, hints)


class Engine:
    """Owns the model and the computing threads.

    Half of these hear recordings: the others would compete with the threads that read them, and fewer threads make
    larger batches (measured with two cores, tasks `asr,sgc`, CPU time of a recording: 25 ms with one, 36 ms with two).
    All of them hear live streams, whose audio comes slowly.

    The model is loaded and first used in the first of them: some drivers bind what they open to the thread.
    """

    def __init__(self, load: Callable[[], Loaded], *, threads: int, on_batch: Callable[[int], None]) -> None:
        """Load the model.

        Args:
            load: loads it.
            threads: that compute at the same time; only onnxruntime on the CPU gets more than one.
            on_batch: called with the number of windows of each batch, from a computing thread.

        Raises:
            UserError: from `load`.
        """
        self._threads, self._on_batch = threads, on_batch
        self._recording_threads = max(1, threads // 2)
        self._changed = threading.Condition()
        self._calls: list[_Call] = []
        self._live: list[_LiveCall] = []
        self._owners: dict[str, _Owner] = {}
        self._is_closed = False
        self._loaded = threading.Event()
        self._model: Loaded | None = None
        self._error: BaseException | None = None
        self._running = [threading.Thread(target=self._first, args=(load,), name="compute-0", daemon=True)]
        self._running[0].start()
        self._loaded.wait()
        if self._error is not None:
            raise self._error

    @property
    def model(self) -> Loaded:
        """The model; not to be computed with outside."""
        assert self._model is not None
        return self._model

    def open(self, owner: str) -> Recording:
        """A place for a recording of somebody; `close` it."""
        with self._changed:
            if owner not in self._owners:
                self._owners[owner] = _Owner(min((one.served_s for one in self._owners.values()), default=0.0))
            others = self._owners[owner].recordings
            recording = Recording(self, owner, min((one.served_s for one in others), default=0.0))
            others.append(recording)
        return recording

    def close_recording(self, recording: Recording) -> None:
        """It is finished, or given up."""
        with self._changed:
            owner = self._owners[recording.owner]
            owner.recordings.remove(recording)
            if not owner.recordings:
                del self._owners[recording.owner]

    def cancel(self, recording: Recording) -> None:
        """Whoever waits for it gets `Cancelled` at once, and so does who asks again."""
        with self._changed:
            recording.is_cancelled = True
            for call in [call for call in self._calls if call.recording is recording]:
                self._calls.remove(call)
                call.done.set()

    def hear(
        self, recording: Recording, windows: Sequence[Window], asked: Asked, hints: hear.Hints | None
    ) -> list[Segment]:
        """See `Recording.hear`."""
        call = _Call(recording, windows, asked, hints, [None] * len(windows), left=len(windows))
        with self._changed:
            self._refuse_closed()
            if recording.is_cancelled:
                raise Cancelled
            self._calls.append(call)
            self._changed.notify_all()
        call.done.wait()
        if call.error is not None:
            raise NotHeard from call.error
        if recording.is_cancelled or None in call.heard:
            raise Cancelled
        return [segment for segment in call.heard if segment is not None]

    def compute(self, works: Sequence[Work]) -> list[Segment]:
        """What a live session calls instead of `live.work.compute`.

        Raises:
            Cancelled: the engine was closed.
            NotHeard: the model failed.
        """
        calls = [_LiveCall(work) for work in works]
        with self._changed:
            self._refuse_closed()
            self._live += calls
            self._changed.notify_all()
        for call in calls:
            call.done.wait()
            if call.error is not None:
                raise NotHeard from call.error
            if call.heard is None:
                raise Cancelled
        return [call.heard for call in calls if call.heard is not None]

    def is_sound(self) -> bool:
        """Whether the model answers at all: a second of noise through it."""
        noise_T = np.random.default_rng(0).normal(0.0, 0.05, SAMPLE_RATE_HZ).astype(np.float32)
        spec = self.model.backend.spec
        recording = self.open("")
        try:
            self.hear(recording, [Window(0.0, noise_T)], fit(request(spec.tasks[:1]), spec), None)
        except NotHeard:
            return False
        finally:
            self.close_recording(recording)
        return True

    def close(self) -> None:
        """Give up what waits, end the threads, let go of the model."""
        with self._changed:
            self._is_closed = True
            waiting: list[_Call | _LiveCall] = [*self._calls, *self._live]
            self._calls, self._live = [], []
            for call in waiting:
                call.done.set()
            self._changed.notify_all()
        for thread in self._running:
            thread.join()
        self._model = None

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise Cancelled

    def _first(self, load: Callable[[], Loaded]) -> None:
        try:
            self._model = load()
        except BaseException as error:  # raised in the thread that waits
            self._error = error
            return
        finally:
            self._loaded.set()
        backend = self._model.backend
        if backend.name != "onnx" or backend.device.name != "cpu":
            self._threads = self._recording_threads = 1
        for number in range(1, self._threads):
            self._running.append(
                threading.Thread(target=self._work, args=(number,), name=f"compute-{number}", daemon=True)
            )
            self._running[-1].start()
        self._work(0)
        if hasattr(backend, "close"):  # where it is not enough to forget it
            backend.close()

    def _work(self, number: int) -> None:
        hears_recordings = number < self._recording_threads
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._live or (hears_recordings and self._calls) or self._is_closed)
                if self._is_closed:
                    return
                live = self._take_live()
                batch = [] if live else self._take()
            if live:
                self._compute_live(live)
            else:
                self._compute(batch)

    def _take_live(self) -> list[_LiveCall]:
        """The first that came, finals before what may still change; no more than this thread's share."""
        self._live.sort(key=lambda call: not call.work.is_final)
        count = min(MAX_WINDOWS, math.ceil(len(self._live) / self._threads))
        taken, self._live = self._live[:count], self._live[count:]
        return taken

    def _take(self) -> list[tuple[_Call, int]]:
        """Windows of a batch: whose turn it is first, and what fits to that one."""
        waiting = sum(len(call.windows) - call.taken for call in self._calls)
        most = min(MAX_WINDOWS, math.ceil(waiting / self._recording_threads))
        batch: list[tuple[_Call, int]] = []
        total_s = first_s = 0.0
        while len(batch) < most:
            fitting = [call for call in self._calls if not batch or _fits(call, batch[0][0], first_s)]
            call = min(fitting, key=self._served, default=None)
            if call is None or (batch and total_s + call.next_s > MAX_BATCH_S):
                break
            took_s = call.next_s
            first_s = first_s or took_s
            total_s += took_s
            batch.append((call, call.taken))
            call.taken += 1
            call.recording.served_s += took_s
            self._owners[call.recording.owner].served_s += took_s
            if call.taken == len(call.windows):
                self._calls.remove(call)
        return batch

    def _served(self, call: _Call) -> tuple[float, float, float]:
        return self._owners[call.recording.owner].served_s, call.recording.served_s, call.next_s

    def _compute(self, batch: Sequence[tuple[_Call, int]]) -> None:
        """All at once; where that fails, each by itself, so that nobody pays for another's recording."""
        self._on_batch(len(batch))
        first = batch[0][0]
        try:
            heard = hear.hear([call.windows[i] for call, i in batch], first.asked, self.model, first.hints)
        except Exception as error:
            if len(batch) > 1:
                for one in batch:
                    self._compute([one])
                return
            with self._changed:
                self._fail(first, error)
                if first in self._calls:
                    self._calls.remove(first)
            return
        with self._changed:
            for (call, i), segment in zip(batch, heard, strict=True):
                call.heard[i] = segment
                call.left -= 1
                if not call.left:
                    call.done.set()

    def _compute_live(self, calls: Sequence[_LiveCall]) -> None:
        self._on_batch(len(calls))
        try:
            heard = live_work.compute([call.work for call in calls], self.model)
        except Exception as error:
            if len(calls) > 1:
                for call in calls:
                    self._compute_live([call])
            else:
                self._fail(calls[0], error)
            return
        for call, segment in zip(calls, heard, strict=True):
            call.heard = segment
            call.done.set()

    def _fail(self, call: _Call | _LiveCall, error: Exception) -> None:
        call.error = error
        call.done.set()


def _fits(call: _Call, first: _Call, first_s: float) -> bool:
    """Whether its next window can be heard together with the first one's."""
    is_alike = first_s / LIKE_LENGTHS <= call.next_s <= first_s * LIKE_LENGTHS
    return is_alike and call.asked == first.asked and call.hints is first.hints
