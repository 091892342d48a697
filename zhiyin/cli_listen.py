"""`zhiyin listen`: a stream understood while it is spoken, from standard input, a recording or a microphone."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

import zhiyin
from zhiyin import ask
from zhiyin.audio.decode import Chunk, PcmFormat, good_samples
from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.audio.io import open_recording
from zhiyin.errors import UserError
from zhiyin.live.events import Event, Final, Partial, to_dict
from zhiyin.live.session import LiveSession, Settings
from zhiyin.live.source import Microphone, PcmReader, arriving
from zhiyin.result import Segment
from zhiyin.tasks.families import NO_ITN
from zhiyin.text import hotword_list

if TYPE_CHECKING:
    import rich.live

FORMATS = ("txt", "json")
INTERRUPTED = 130  # 128 + SIGINT, as shells count
BLOCK_S = 0.1
_READ_BYTES = 1 << 16

Show = Callable[[Event], None]


@dataclass(frozen=True)
class Options:
    """What stands on the command line."""

    source: str
    mic: bool
    pcm: str | None
    paced: bool
    pause_s: float
    stall_s: float
    timeout_s: float
    task: str | None
    language: str | None
    hotwords: str | None
    itn: bool | None
    format: str
    model: str | None
    device: str
    backend: str
    threads: int | None
    allow_fallback: bool


def run(options: Options) -> int:
    """Listen until the stream ends or the person presses Ctrl-C; returns the exit code.

    Raises:
        UserError: a wrong option, a source that cannot be opened, or a stream that is no audio; what was said before
            has been shown.
    """
    _check(options)
    wishes = ask.Options(
        language=options.language,
        hotwords=() if options.hotwords is None else hotword_list.read(options.hotwords),
        written=options.itn is not False,
    )
    ask.request(options.task, wishes)
    model = zhiyin.load(
        options.model,
        options.device,
        options.backend,
        threads=options.threads,
        allow_fallback=options.allow_fallback,
    )
    if options.itn is False and NO_ITN in ask.family_of(model.spec).options:
        wishes = replace(wishes, itn=False)
    settings = Settings(hangover_s=options.pause_s)
    session = LiveSession(model.loaded, options.task, options=wishes, settings=settings)
    with _Screen(options.format) as screen:
        return _listen(session, _pieces(options, screen), screen)


def _check(options: Options) -> None:
    if options.format not in FORMATS:
        raise UserError(f"format '{options.format}' is not known; known: {' '.join(FORMATS)}")
    if options.paced and (options.mic or options.source == "-"):
        raise UserError("--paced plays a recording as if it were live; give its file, or leave it out")
    if options.mic and options.pcm is not None:
        raise UserError("--pcm describes standard input or a file; a microphone says itself what it sends")


def _listen(session: LiveSession, pieces: Iterator[Float32], screen: "_Screen") -> int:
    """Every piece through the session; an empty one is a stall, which ends what is open."""
    try:
        for samples_T in pieces:
            good = good_samples(Chunk(samples_T[:, None], SAMPLE_RATE_HZ))
            screen.show(session.push(samples_T[:good]) if len(samples_T) else session.finish())
            session.push(samples_T[good:])  # says what is wrong with them
    except KeyboardInterrupt:
        screen.show(session.finish())
        return INTERRUPTED
    except UserError:
        screen.show(session.finish())
        raise
    screen.show(session.finish())
    return 0


def _pieces(options: Options, screen: "_Screen") -> Iterator[Float32]:
    if options.mic:
        return _from_microphone(options, screen)
    pcm = None if options.pcm is None else PcmFormat.parse(options.pcm)
    if options.source == "-":
        descriptor = sys.stdin.fileno()
        if os.isatty(descriptor):
            raise UserError("standard input is a terminal; send raw PCM to it, give a file, or use --mic")
        # not through sys.stdin.buffer, whose lock a waiting thread would hold when the program ends
        return _from_bytes(lambda: os.read(descriptor, _READ_BYTES), pcm or PcmFormat(), options, screen)
    return _from_recording(options, pcm, screen)


def _from_bytes(read: Callable[[], bytes], pcm: PcmFormat, options: Options, screen: "_Screen") -> Iterator[Float32]:
    reader = PcmReader(pcm)
    empty = True
    for data in arriving(read, stall_s=options.stall_s, timeout_s=options.timeout_s):
        if not data:
            yield np.zeros(0, np.float32)
            continue
        empty = False
        samples_T = reader.push(data)
        if len(samples_T):
            yield samples_T
    yield reader.finish()
    if empty:
        screen.say("no samples came")
    if reader.left_bytes:
        screen.say(f"the stream ended inside a sample frame of {pcm}; {reader.left_bytes} bytes were left out")


def _from_microphone(options: Options, screen: "_Screen") -> Iterator[Float32]:
    microphone = Microphone("" if options.source == "-" else options.source)
    screen.say(f"listening to {microphone.name} at {microphone.pcm.sample_rate_hz} Hz; Ctrl-C ends")
    try:
        yield from _from_bytes(microphone.read, microphone.pcm, options, screen)
    finally:
        microphone.close()
        if microphone.lost_blocks:
            screen.say(f"this machine was too slow: sound was lost {microphone.lost_blocks} times")


def _from_recording(options: Options, pcm: PcmFormat | None, screen: "_Screen") -> Iterator[Float32]:
    recording = open_recording(options.source, pcm=pcm)
    began_s, done_s = time.monotonic(), 0.0
    for block_T in recording.blocks(BLOCK_S):
        done_s += len(block_T) / SAMPLE_RATE_HZ
        if options.paced:
            time.sleep(max(0.0, began_s + done_s - time.monotonic()))
        yield block_T
    for note in recording.notes:
        screen.say(f"{recording.source}: {note}")


class _Screen:
    """Where events go: JSON lines; or finals as lines, below them on a terminal what is being said, its tail dim."""

    def __init__(self, format: str) -> None:
        self._is_json = format == "json"
        self._live = _live() if format == "txt" and sys.stdout.isatty() else None

    def __enter__(self) -> "_Screen":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, events: list[Event]) -> None:
        """Write what is to be seen of the events."""
        for event in events:
            if self._is_json:
                sys.stdout.write(json.dumps(to_dict(event), ensure_ascii=False, allow_nan=False) + "\n")
            elif isinstance(event, Final):
                self._final(_line(event.segment))
            elif isinstance(event, Partial) and self._live is not None:
                self._partial(event)
        with suppress(BrokenPipeError):
            sys.stdout.flush()

    def say(self, line: str) -> None:
        """A line for the person, on standard error."""
        sys.stderr.write(f"zhiyin: {line}\n")

    def _final(self, line: str) -> None:
        if self._live is not None:
            self._live.update("", refresh=True)
            if line:
                self._live.console.print(line, markup=False, highlight=False)
        elif line:
            sys.stdout.write(f"{line}\n")

    def _partial(self, event: Partial) -> None:
        from rich.text import Text

        assert self._live is not None
        gap = " " if event.committed and event.tail else ""
        self._live.update(Text.assemble(_clean(event.committed), gap, (_clean(event.tail), "dim")), refresh=True)


def _line(segment: Segment) -> str:
    labels = f"[{', '.join(segment.labels.values())}]" if segment.labels else ""
    parts = (segment.written or segment.text, labels, segment.answer, segment.translation)
    return " ".join(_clean(part) for part in parts if part)


def _clean(text: str) -> str:
    """One line whatever the model said, without codes that a terminal would obey."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _live() -> "rich.live.Live":
    from rich.console import Console
    from rich.live import Live

    return Live("", console=Console(), auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False)
