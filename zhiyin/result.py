"""What comes back: words, segments and the result of a recording. The one schema of CLI, Python and server."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Word:
    """A word with its times in the recording; `source` says where the times come from (`model`, `ctc`, `vad`)."""

    text: str
    start_s: float
    end_s: float
    source: str = "model"


@dataclass(frozen=True)
class Turn:
    """What one speaker said without a break; `speaker` is a name within its segment, or empty where none was given.

    `written` is `text` with its numbers in written form, where that was asked.
    """

    speaker: str
    text: str
    written: str = ""


@dataclass(frozen=True)
class Rewrite:
    """A piece of a text that is written otherwise than it was spoken, as ranges of characters; the ends are outside."""

    spoken_start: int
    spoken_end: int
    written_start: int
    written_end: int


@dataclass(frozen=True)
class Correction:
    """A hotword put right: characters `start` to `end` of the text (the end is outside) were something else.

    `heard` is what the model said and `became` what stands there now; `by` is ``sound`` or ``pair`` (of a pair
    ``wrong => right``), `score` how alike both sound, 0 to 1.
    """

    start: int
    end: int
    heard: str
    became: str
    by: str
    score: float


@dataclass(frozen=True)
class Segment:
    """A timed piece of the recording and all that was understood of it.

    `unparsed` holds pieces of the model's reply that fit no task asked; they are shown, never guessed at.
    `guards` names what a guard did to the text (e.g. ``repetition cut``).
    `turns` divides `text` by speakers, where they were asked.
    `language` is what the model says it heard, where it says so.
    `written` is `text` with its numbers in written form, where that was asked; `written_spans` say which pieces of
    `text` became which pieces of `written`. Words keep what was spoken.
    `corrections` are the hotwords put right in `text`, in order.
    `channel` is the channel of the recording, the first being 0, where channels were kept apart.
    `confidence` is the mean probability of the tokens that say it, of the CTC head where the transcript is from there.
    """

    start_s: float
    end_s: float
    text: str = ""
    words: tuple[Word, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    answer: str = ""
    translation: str = ""
    tasks: tuple[str, ...] = ()
    unparsed: tuple[str, ...] = ()
    guards: tuple[str, ...] = ()
    turns: tuple[Turn, ...] = ()
    language: str = ""
    written: str = ""
    written_spans: tuple[Rewrite, ...] = ()
    corrections: tuple[Correction, ...] = ()
    channel: int | None = None
    confidence: float | None = None


@dataclass(frozen=True)
class Result:
    """Everything understood of one recording, and what really ran.

    Attributes:
        source: file name or ``<bytes>``, ``<array>``, ``<stdin>``.
        duration_s: length of the decoded audio.
        tasks: task ids that were asked or, for a plain-language instruction, understood.
        text: transcript of all segments joined, in order of time also where channels were kept apart.
        labels: task id -> label of the whole recording, by speech time; segments keep their own.
        answer: text answers of all segments joined.
        translation: translations of all segments joined.
        segments: timed pieces, in order.
        unparsed: all segments' unparsed pieces.
        instruction: the plain-language request, if any.
        into: the language that was asked to translate into, if any.
        model: name of the model that answered.
        family: family of the model, which decides how it is asked.
        template: the prompt template, where the family has several.
        backend: how it was executed (``onnx``, ``eager``).
        device: where it really ran, with the reason, e.g. ``cpu (auto: no other device)``.
        precision: of the weights, e.g. ``float32``.
        processing_s: wall time spent on this recording.
        notes: anything the user should know (a cut, a clipped channel, an unreadable tail).
        written: `text` with numbers in written form, where that was asked; segments map one to the other.
    """

    source: str
    duration_s: float
    tasks: tuple[str, ...]
    text: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    answer: str = ""
    translation: str = ""
    segments: tuple[Segment, ...] = ()
    unparsed: tuple[str, ...] = ()
    instruction: str = ""
    into: str = ""
    model: str = ""
    family: str = ""
    template: str = ""
    backend: str = ""
    device: str = ""
    precision: str = ""
    processing_s: float = 0.0
    notes: tuple[str, ...] = ()
    written: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return asdict(self)
