"""One connection's audio: decoded, understood by a worker, and kept for the history, whatever the connection speaks.

A listening may use several streams of the dispatcher one after the other (other wishes need a new one); times are
always those of the whole connection. Shapes: `T` samples.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from zhiyin.audio.decode import PcmFormat
from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.config import build
from zhiyin.errors import UserError
from zhiyin.live.session import Settings
from zhiyin.live.source import PcmReader
from zhiyin.result import Segment
from zhiyin.segments import rounded
from zhiyin.serve import asking
from zhiyin.serve.child import WorkerState
from zhiyin.serve.database import Unavailable
from zhiyin.serve.dispatch import Busy
from zhiyin.serve.job import Job, Wish, new_id, now
from zhiyin.serve.live_record import MODE, Kept, Owner, Recorder, result
from zhiyin.serve.live_stream import LiveStream
from zhiyin.serve.refusal import Refusal
from zhiyin.serve.service import Service

LAST_WORDS_S = 20.0  # how long the end of a stream is waited for
RETRY_S = 5.0  # what a client is told to wait
RETRY_STORE_S = (1.0, 3.0)  # a database that is locked is asked again
_ARRIVALS = 1024  # a minute in blocks of 64 ms
FLUSHED = "flushed"  # the event after everything that was open before `flush` has been told
FAILED = "failed"  # the stream broke; its field `message` is for the person, and nothing more comes of it

Tell = Callable[[dict[str, Any]], Awaitable[None]]
Made = TypeVar("Made")

# Decoding and writing wait here for the disk, apart from the threads that wait for the database.
_threads = ThreadPoolExecutor(4, thread_name_prefix="zhiyin-live")


class Listening:
    """What one connection has sent and what was understood of it.

    Attributes:
        heard_s: seconds of audio taken.
        is_open: whether somebody speaks, or spoke and the final segment is still to come.
    """

    def __init__(self, service: Service, user: str, name: str, pcm: PcmFormat, tell: Tell) -> None:
        """Nothing heard, and no stream open yet.

        Args:
            service: of the application.
            user: whose it is.
            name: of the session in the history.
            pcm: how the bytes of the client are to be read.
            tell: called with every event, in order: those of `live.events.to_dict`, `FLUSHED` and `FAILED`.
        """
        self._service, self._user, self._name, self._tell = service, user, name, tell
        self._id = new_id()
        self._began_at = now()
        self._pcm, self._reader = pcm, PcmReader(pcm)
        self._wish, self._settings = Wish(), Settings()
        self._recorder: Recorder | None = None
        self._stream: LiveStream | None = None
        self._pump: asyncio.Task[None] | None = None
        self._worker: WorkerState | None = None
        self._segments: list[Segment] = []
        self._notes: list[str] = []
        self._processing_s = 0.0
        self._samples = 0
        self._arrived: deque[tuple[float, float]] = deque(maxlen=_ARRIVALS)  # audio up to here, and when it came
        self._spoke_at_s: float | None = None  # when the speech that has no text yet had come
        self.is_open = False

    @property
    def heard_s(self) -> float:
        """See the class."""
        return self._samples / SAMPLE_RATE_HZ

    async def open(self, wish: Wish, settings: Settings) -> None:
        """Listen with these wishes from here on; what was open before ends.

        Raises:
            UserError: no stream is free, or the model cannot do what is asked; then nothing is open.
        """
        await self.end()
        self._wish, self._settings = wish, settings
        await self._opened()
        service = self._service
        if self._recorder is None and service.settings.keep_audio:
            owner = Owner(self._user, self._name, wish)
            self._recorder = Recorder(self._id, owner, service.folders, service.settings.limits.free_bytes)

    def read_as(self, pcm: PcmFormat) -> None:
        """The next bytes are of this format."""
        if pcm != self._pcm:
            self._pcm, self._reader = pcm, PcmReader(pcm)

    async def hear(self, data: bytes) -> None:
        """Take the next bytes, cut anywhere; waits while the model is behind.

        Raises:
            UserError: a stream was to be opened and could not be, they are no such audio, or the session is too long.
        """
        stream = await self._opened()
        limit_s = self._service.settings.limits.audio_s
        piece = 2 * self._pcm.sample_rate_hz  # bytes: longer messages are understood second by second
        for start in range(0, len(data), piece):
            if self.heard_s >= limit_s:
                message = f"the session has lasted {limit_s:g} s of audio, the longest there is; begin a new one"
                raise Refusal(413, "session_too_long", message)
            await self._send(stream, await self._taken(data[start : start + piece]))

    async def flush(self) -> None:
        """End what is open here; `FLUSHED` is told when it is. The next bytes go on."""
        if self._stream is None:
            await self._tell({"event": FLUSHED})
            return
        await self._rest(self._stream)
        await self._stream.flush()

    async def drop(self) -> None:
        """Forget what is open: nothing more is told of the audio up to here."""
        stream, self._stream = self._stream, None
        pump, self._pump = self._pump, None
        self.is_open = False
        self._reader = PcmReader(self._pcm)
        if pump is not None:
            pump.cancel()
            with suppress(asyncio.CancelledError):
                await pump
        if stream is not None:
            await stream.close()

    async def end(self) -> None:
        """End the stream; its last events have been told when this returns."""
        if self._stream is None or self._pump is None:
            return
        try:
            await self._rest(self._stream)
            await self._stream.finish()
            await asyncio.wait_for(self._pump, LAST_WORDS_S)
        except asyncio.TimeoutError:
            self._notes.append(f"the last words did not come within {LAST_WORDS_S:g} s")
        except UserError as error:  # the stream is lost; the pump has told so
            self._notes.append(str(error))
        finally:
            await self.drop()

    async def store(self) -> Job | None:
        """Put the session into the history; None where nothing was heard. Nothing may be called after it."""
        await self.end()
        if not self._samples:
            return None
        kept = Kept() if self._recorder is None else await _in_thread(self._recorder.finish)
        for wait_s in (*RETRY_STORE_S, None):
            try:
                job = await _in_thread(lambda: self._stored(kept))
            except Unavailable:
                if wait_s is None:
                    raise
                await asyncio.sleep(wait_s)
            else:
                break
        self._service.metrics.job_done(job)
        return job

    async def _opened(self) -> LiveStream:
        if self._stream is None:
            service, dispatcher = self._service, self._service.dispatcher
            await asking.in_thread(service.limits.check_day, self._user)
            try:
                stream = await dispatcher.open_live(self._wish, self._settings)
            except Busy as error:
                raise Refusal(503, "streams_full", str(error), retry_after_s=RETRY_S) from None
            except UserError as error:
                if dispatcher.is_ready:
                    raise
                raise Refusal(503, "not_ready", str(error), retry_after_s=RETRY_S) from None
            self._stream, self._worker = stream, stream.worker
            self._pump = asyncio.create_task(self._follow(stream, self.heard_s))
        return self._stream

    async def _taken(self, data: bytes) -> Float32:
        return await _in_thread(lambda: self._recorded(self._reader.push(data)))

    async def _send(self, stream: LiveStream, samples_T: Float32) -> None:
        if len(samples_T):
            self._samples += len(samples_T)
            self._arrived.append((self.heard_s, time.monotonic()))
            await stream.send(samples_T.astype("<f4", copy=False).tobytes())

    async def _rest(self, stream: LiveStream) -> None:
        """What the resampler still holds; the next bytes begin anew."""
        reader, self._reader = self._reader, PcmReader(self._pcm)
        rest_T = await _in_thread(lambda: self._recorded(reader.finish()))
        await self._send(stream, rest_T)

    def _recorded(self, samples_T: Float32) -> Float32:
        if self._recorder is not None:
            self._recorder.write(samples_T)
        return samples_T

    async def _follow(self, stream: LiveStream, offset_s: float) -> None:
        """Tell what a stream says, with the times of the connection, until it ends."""
        try:
            async for event in stream.events():
                if (kind := event["event"]) == "closed":
                    self._processing_s += float(event.get("processing_s", 0.0))
                elif kind == "error":
                    await self._failed(str(event["message"]))
                    return
                else:
                    await self._heard(shifted(event, offset_s))
        except UserError as error:
            await self._failed(str(error))

    async def _heard(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "final":
            self._segments.append(build(Segment, event["segment"], "live segment"))
        if kind in ("speech_started", "speech_ended"):
            self.is_open = kind == "speech_started"
        self._measure(event)
        await self._tell(event)

    def _measure(self, event: dict[str, Any]) -> None:
        """How long after it had come the first text of speech was there."""
        if event["event"] == "speech_started":
            self._spoke_at_s = next((at_s for until_s, at_s in self._arrived if until_s > event["start_s"]), None)
        elif event["event"] in ("partial", "final") and self._spoke_at_s is not None:
            if event.get("committed") or event.get("tail") or event.get("segment", {}).get("text"):
                self._service.metrics.first_text(MODE, time.monotonic() - self._spoke_at_s)
            self._spoke_at_s = None

    async def _failed(self, message: str) -> None:
        self._notes.append(f"broken after {self.heard_s:.2f} s ({message})")
        await self._tell({"event": FAILED, "message": message})

    def _stored(self, kept: Kept) -> Job:
        notes = list(self._notes)
        if self._recorder is not None and self._recorder.note:
            notes.append(self._recorder.note)
        if not any(one.text for one in self._segments):
            notes.append("no words found")
        made = result(
            self._segments,
            self._wish,
            self._worker,
            source=self._name,
            duration_s=self.heard_s,
            processing_s=self._processing_s,
            notes=notes,
        )
        job = self._service.jobs.add_done(
            id=self._id,
            user=self._user,
            mode=MODE,
            file_name=self._name,
            audio=kept.path,
            sha256=kept.sha256,
            bytes=kept.bytes,
            wish=self._wish,
            started_at=self._began_at,
            result=made,
            model_hash="" if self._worker is None else self._worker.model_hash,
        )
        if self._recorder is not None:
            with suppress(OSError):  # the next start of the service puts it into its place
                self._recorder.keep()
        return job


def shifted(event: dict[str, Any], by_s: float) -> dict[str, Any]:
    """An event with times of the connection instead of the stream."""
    if not by_s:
        return event
    moved = {**event, **{name: rounded(event[name] + by_s) for name in _TIMES if name in event}}
    if "segment" in event:
        segment = event["segment"]
        moved["segment"] = {
            **segment,
            **{name: rounded(segment[name] + by_s) for name in _TIMES if name in segment},
            "words": [
                {**word, "start_s": rounded(word["start_s"] + by_s), "end_s": rounded(word["end_s"] + by_s)}
                for word in segment["words"]
            ],
        }
    return moved


_TIMES = ("start_s", "end_s", "stream_s")


async def _in_thread(work: Callable[[], Made]) -> Made:
    return await asyncio.get_running_loop().run_in_executor(_threads, work)
