"""Results in the shapes of OpenAI's audio API. What is not known is null or left out; nothing is made up.

Field names: https://platform.openai.com/docs/api-reference/audio; `compression_ratio` is that of Whisper
(`whisper/utils.py`: bytes by bytes deflated).
"""

import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from zhiyin.result import Result, Segment
from zhiyin.serve.views import View
from zhiyin.subtitles import timed


class Usage(View):
    """What was used: seconds of audio."""

    type: Literal["duration"] = Field(default="duration", description="Always duration.")
    seconds: float = Field(description="Length of the recording in seconds.")


class Transcription(View):
    """A transcript: response_format json."""

    text: str = Field(description="The transcript, in written form.")
    usage: Usage = Field(description="What was used.")
    notes: list[str] = Field(
        default=[], description="Not OpenAI's: what the user should know, e.g. what became of the prompt."
    )


class TimedWord(View):
    """A word with its times."""

    word: str = Field(description="The word, in written form.")
    start: float = Field(description="Where it begins, in seconds.")
    end: float = Field(description="Where it ends.")
    source: str = Field(description="Not OpenAI's: where the times come from: model, ctc or vad.")


class VerboseSegment(View):
    """A timed piece of the transcript."""

    id: int = Field(description="Its number, from 0.")
    seek: int | None = Field(default=None, description="Not known here.")
    start: float = Field(description="Where it begins, in seconds, from the speech detector.")
    end: float = Field(description="Where it ends.")
    text: str = Field(description="What was said.")
    tokens: list[int] | None = Field(default=None, description="Not known here.")
    temperature: float = Field(default=0.0, description="Decoding is greedy: 0.")
    avg_logprob: float | None = Field(description="Logarithm of the mean probability of its tokens; null: not known.")
    compression_ratio: float | None = Field(description="Bytes of the text by bytes deflated; null: no text.")
    no_speech_prob: float | None = Field(default=None, description="Not known here.")
    guards: list[str] = Field(default=[], description="Not OpenAI's: what guards did to the text.")


class Verbose(View):
    """A transcript with times: response_format verbose_json."""

    task: Literal["transcribe", "translate"] = Field(description="What was done.")
    language: str | None = Field(description="The language heard or asked for; null: not known.")
    duration: float = Field(description="Length of the recording in seconds.")
    text: str = Field(description="The transcript, in written form.")
    words: list[TimedWord] | None = Field(default=None, description="Words with times, where they were asked.")
    segments: list[VerboseSegment] | None = Field(default=None, description="Timed pieces, where they were asked.")
    usage: Usage = Field(description="What was used.")
    notes: list[str] = Field(default=[], description="Not OpenAI's: what the user should know.")


class DiarizedSegment(View):
    """What one speaker said."""

    type: Literal["transcript.text.segment"] = Field(default="transcript.text.segment", description="Always this.")
    id: str = Field(description="Its name, seg_0 and so on.")
    start: float = Field(description="Where it begins, in seconds.")
    end: float = Field(description="Where it ends.")
    text: str = Field(description="What was said.")
    speaker: str = Field(description="A for the first channel, B for the second; or the model's name of the speaker.")


class Diarized(View):
    """A transcript by speakers: response_format diarized_json."""

    task: Literal["transcribe"] = Field(default="transcribe", description="Always transcribe.")
    duration: float = Field(description="Length of the recording in seconds.")
    text: str = Field(description="The transcript, in written form.")
    segments: list[DiarizedSegment] = Field(description="Who said what.")
    usage: Usage = Field(description="What was used.")
    notes: list[str] = Field(default=[], description="Not OpenAI's: what the user should know.")


def said(segment: Segment) -> str:
    """Its transcript, in written form where there is one."""
    return segment.written or segment.text


def transcription(result: Result, notes: Sequence[str]) -> Transcription:
    """The text alone."""
    return Transcription(text=result.written or result.text, usage=usage(result), notes=[*notes, *result.notes])


def verbose(result: Result, granularities: Sequence[str], language: str, notes: Sequence[str], task: str) -> Verbose:
    """The text with times.

    Args:
        result: of the pipeline.
        granularities: ``word`` and ``segment``, whichever were asked; none is ``segment``.
        language: that was asked for, if any.
        notes: what is to be said beside the result's own notes.
        task: ``transcribe`` or ``translate``.
    """
    wanted = granularities or ("segment",)
    heard = next((segment.language for segment in result.segments if segment.language), "")
    return Verbose(
        task="translate" if task == "translate" else "transcribe",
        language=heard or language or None,
        duration=result.duration_s,
        text=result.written or result.text,
        words=list(_words(result.segments)) if "word" in wanted else None,
        segments=list(_segments(result.segments)) if "segment" in wanted else None,
        usage=usage(result),
        notes=[*notes, *result.notes],
    )


def diarized(result: Result, notes: Sequence[str]) -> Diarized:
    """Who said what."""
    shared = any(len(segment.turns) > 1 for segment in result.segments)
    more = ["turns within a segment have the times of the segment"] if shared else []
    return Diarized(
        duration=result.duration_s,
        text=result.written or result.text,
        segments=list(by_speaker(result.segments)),
        usage=usage(result),
        notes=[*notes, *more, *result.notes],
    )


def by_speaker(segments: Iterable[Segment]) -> Iterator[DiarizedSegment]:
    """Segments, or their turns, with who said them."""
    number = 0
    for segment in segments:
        for speaker, text in _turns(segment):
            if text:
                yield DiarizedSegment(
                    id=f"seg_{number}", start=segment.start_s, end=segment.end_s, text=text, speaker=speaker
                )
                number += 1


def as_translation(result: Result) -> Result:
    """The translation in the place of the transcript."""
    segments = tuple(
        Segment(one.start_s, one.end_s, text=one.translation, guards=one.guards, confidence=one.confidence)
        for one in result.segments
    )
    return replace(result, text=result.translation, written="", translation="", labels={}, answer="", segments=segments)


def usage(result: Result) -> Usage:
    """Seconds of audio."""
    return Usage(seconds=result.duration_s)


def dumped(view: View) -> dict[str, Any]:
    """As JSON; `words` and `segments` that were not asked are left out, as OpenAI does."""
    record = view.model_dump()
    return {name: value for name, value in record.items() if value is not None or name == "language"}


def _turns(segment: Segment) -> Iterator[tuple[str, str]]:
    if segment.turns:
        for turn in segment.turns:
            yield turn.speaker or "unknown", turn.written or turn.text
    else:
        yield letter(segment.channel) if segment.channel is not None else "unknown", said(segment)


def letter(channel: int) -> str:
    """A, B and so on, as OpenAI labels speakers."""
    return chr(ord("A") + channel) if channel < 26 else f"channel {channel}"


def _words(segments: Iterable[Segment]) -> Iterator[TimedWord]:
    """Words of the written form where their times can be told, else as they were spoken."""
    for segment in segments:
        for word in timed(segment) or segment.words:
            if word.text.strip():
                yield TimedWord(word=word.text.strip(), start=word.start_s, end=word.end_s, source=word.source)


def _segments(segments: Iterable[Segment]) -> Iterator[VerboseSegment]:
    for number, segment in enumerate(segments):
        text = said(segment)
        data = text.encode("utf-8", "backslashreplace")
        yield VerboseSegment(
            id=number,
            start=segment.start_s,
            end=segment.end_s,
            text=text,
            avg_logprob=round(math.log(segment.confidence), 4) if segment.confidence else None,
            compression_ratio=round(len(data) / len(zlib.compress(data)), 4) if data else None,
            guards=list(segment.guards),
        )
