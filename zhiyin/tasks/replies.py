"""How replies of model families are read: one reader per way of writing. Nothing is guessed and nothing is lost.

What a reader cannot place stands, as it was said, in `Parsed.unparsed`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from zhiyin.result import Turn
from zhiyin.tasks.dialect import DIALECTS, Dialect
from zhiyin.tasks.parse import Parsed, join_words, parse
from zhiyin.tasks.render import TimedWord
from zhiyin.tasks.table import Task

WRAP_CS = 1000  # Granite plus counts centiseconds and begins again after 10 s
_LATE_S = 0.5  # a last word may seem to end a little after the audio


@dataclass(frozen=True)
class Heard:
    """A reply and what it answers.

    Attributes:
        reply: what the model said, without thoughts and end token.
        tasks: rows that were asked; none for a request in plain language.
        table: rows such a request may be understood as.
        speakers: whether speakers were asked.
        has_language: whether the prompt named the language of the speech.
        duration_s: length of the audio given to the model, if known.
    """

    reply: str
    tasks: tuple[Task, ...]
    table: tuple[Task, ...]
    speakers: bool = False
    has_language: bool = False
    duration_s: float | None = None


def without_thoughts(reply: str, marks: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """A reply without what stands between the two `marks` of thoughts.

    Returns:
        The rest, and thoughts that do not begin or never end, which are shown: no one knows what they hide.
    """
    if not marks:
        return reply, ()
    begin, end = marks
    said = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", "", reply, flags=re.DOTALL)
    early, mark, said = said.rpartition(end)
    said, opened, late = said.partition(begin)
    return said, tuple(loose.strip() for loose in (early + mark, opened + late) if loose)


def _dialect(dialect: Dialect) -> Callable[[Heard], Parsed]:
    """Tags, labels and time marks in angle brackets."""
    return lambda heard: parse(heard.reply, heard.tasks or None, table=heard.table, dialect=dialect)


_LANGUAGE_MARK = re.compile(r"\s*<\|(?P<language>[a-z]{2,3})\|>")  # Qwen2-Audio, e.g. <|zh|>


def _text(heard: Heard) -> Parsed:
    """The whole reply is the one thing that was asked; to a request in plain language it is the answer."""
    mark = _LANGUAGE_MARK.match(heard.reply)
    said = heard.reply[mark.end() if mark else 0 :]
    text = " ".join(said.split())
    language = mark["language"] if mark else ""
    kinds = [task.kind for task in heard.tasks] or ["answer"]
    if kinds == ["text"]:
        return Parsed(heard.tasks, text, language=language)
    if kinds == ["translation"]:
        return Parsed(heard.tasks, translation=text, language=language)
    return Parsed(heard.tasks, answer=said.strip(), language=language)


_ASR_TEXT = "<asr_text>"


def _qwen3_asr(heard: Heard) -> Parsed:
    """``language English<asr_text>turn left``; only the text where the prompt names the language.

    Source: transformers `models/qwen3_asr/processing_qwen3_asr.py`; ``language None`` is said of silence. Unlike there,
    words before the mark that name no language are shown, and a missing mark is pointed out.
    """
    before, mark, text = heard.reply.partition(_ASR_TEXT)
    if not mark:
        missing = () if heard.has_language or not before.strip() else (f"reply: no {_ASR_TEXT}",)
        return Parsed(heard.tasks, " ".join(before.split()), unparsed=missing)
    named = re.fullmatch(r"\s*language\s+(?P<name>\S.*?)\s*", before, re.IGNORECASE | re.DOTALL)
    language = named["name"] if named and named["name"].casefold() != "none" else ""
    odd = (before.strip(),) if not named and before.strip() else ()
    return Parsed(heard.tasks, " ".join(text.split()), language=language, unparsed=odd)


_PLUS = re.compile(
    r"(?P<speaker>\[(?P<who>Speaker [0-9]{1,4})\]:?)|(?P<time>\[T:(?P<cs>[0-9]{1,3})\])"
    r"|(?P<stray>\[(?:T\s*:|Speaker\b)[^\[\]]*\]?:?)|(?P<text>[^\[]+|\[)"
)
_SILENCE = "_"


def _granite_plus(heard: Heard) -> Parsed:
    """``word [T:45]``, the time in centiseconds at which the word ends, or ``[Speaker 1]: text``.

    Source: model card of granite-speech-4.1-2b-plus.
    """
    if any(task.kind == "words" for task in heard.tasks):
        return _plus_words(heard)
    turns: list[tuple[str, list[str]]] = [("", [""])]  # who, and what he said between marks
    odd = []
    for piece in _PLUS.finditer(heard.reply):
        if piece["text"] is not None:
            turns[-1][1][-1] += piece["text"]
        elif piece["who"] is not None and heard.speakers:
            turns.append((piece["who"], [""]))
        else:
            odd.append(piece[0])
            turns[-1][1].append("")  # a mark that was not asked for parts words, too
    texts = [(speaker, _joined(parts)) for speaker, parts in turns]
    said = tuple(Turn(speaker, text) for speaker, text in texts if speaker or text)
    text = join_words(turn.text for turn in said)
    odd += [f"[{turn.speaker}]:" for turn in said if not turn.text]
    odd += ["speakers: no turn"] if heard.speakers and len(turns) == 1 else []
    spoken = tuple(turn for turn in said if turn.text) if len(turns) > 1 else ()
    return Parsed(heard.tasks, text, turns=spoken, unparsed=tuple(odd))


def _plus_words(heard: Heard) -> Parsed:
    """Timed words. A word begins where the word or silence (``_ [T:45]``) before it ended; the model says ends only."""
    words: list[TimedWord] = []
    odd = []
    last_cs, pending = 0, [""]  # text since the last time, between marks
    latest_cs = None if heard.duration_s is None else (heard.duration_s + _LATE_S) * 100
    for piece in _PLUS.finditer(heard.reply):
        if piece["text"] is not None:
            pending[-1] += piece["text"]
            continue
        if piece["cs"] is None:
            odd.append(piece[0])
            pending.append("")
            continue
        word, pending = _joined(pending), [""]
        end_cs = unwrapped(int(piece["cs"]), last_cs)
        if not word or (latest_cs is not None and end_cs > latest_cs):
            odd.append(f"{word} {piece[0]}".strip())
            continue
        if word != _SILENCE:
            words.append(TimedWord(word, last_cs / 100, end_cs / 100))
        last_cs = end_cs
    rest = _joined(pending)
    odd += [rest] if rest not in ("", _SILENCE) else []
    text = join_words(word.text for word in words)
    return Parsed(heard.tasks, text, tuple(words), unparsed=tuple(odd))


def _joined(parts: Sequence[str]) -> str:
    return join_words(" ".join(part.split()) for part in parts)


def unwrapped(wrapped_cs: int, last_cs: int) -> int:
    """The first time at or after `last_cs` that reads `wrapped_cs` on a clock that begins again every `WRAP_CS`.

    Times never go back, and two neighbours lie less than one round apart: a pause of 10 s or more cannot be seen.
    """
    return last_cs + (wrapped_cs - last_cs) % WRAP_CS


READERS: Mapping[str, Callable[[Heard], Parsed]] = {
    **{dialect.name: _dialect(dialect) for dialect in DIALECTS},
    "text": _text,
    "qwen3-asr": _qwen3_asr,
    "granite-plus": _granite_plus,
}
