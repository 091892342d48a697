"""What a live session reports."""

from dataclasses import asdict, dataclass
from typing import Any

from zhiyin.result import Segment


@dataclass(frozen=True)
class SpeechStarted:
    """Somebody began to speak at `start_s`; it was known when the stream had reached `stream_s`."""

    start_s: float
    stream_s: float


@dataclass(frozen=True)
class Partial:
    """The open segment so far. Of one segment, each `committed` begins with the one before; `tail` may still change."""

    start_s: float
    committed: str
    tail: str
    stream_s: float


@dataclass(frozen=True)
class Final:
    """A segment that will not change any more; its text begins with what was committed of it."""

    segment: Segment
    stream_s: float


@dataclass(frozen=True)
class SpeechEnded:
    """The speech that had started ended at `end_s`; its final segment follows."""

    end_s: float
    stream_s: float


Event = SpeechStarted | Partial | Final | SpeechEnded

_NAMES: dict[type, str] = {
    SpeechStarted: "speech_started",
    Partial: "partial",
    Final: "final",
    SpeechEnded: "speech_ended",
}


def to_dict(event: Event) -> dict[str, Any]:
    """Plain dictionary for JSON: the fields, and the kind of event as `event`."""
    return {"event": _NAMES[type(event)], **asdict(event)}
