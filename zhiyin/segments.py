"""From what a model said of a window to a segment of the recording: guarded, shifted in time, merged with the next."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from zhiyin.audio.merge import merge_text, merge_words
from zhiyin.audio.vad import Span
from zhiyin.audio.windows import Window
from zhiyin.result import Correction, Segment, Turn, Word
from zhiyin.tasks.parse import Parsed, join_words
from zhiyin.text import hotwords, itn
from zhiyin.text.guard import guard_pieces, guard_text
from zhiyin.text.hotword_list import HotwordList

NOT_SPEECH = "text without speech cut"


@dataclass(frozen=True)
class Heard:
    """A window and what was understood of it, times already those of the recording."""

    window: Window
    segment: Segment


def make(window: Window, parsed: Parsed, cut: tuple[str, ...]) -> Segment:
    """Guarded values with times of the recording.

    Args:
        window: what the model was given.
        parsed: what it said.
        cut: guards that already cut something.
    """
    spans = window.spans or (Span(window.start_s, window.end_s),)
    if not window.spans:
        return _without_speech(spans[0], parsed)
    duration_s = window.end_s - window.start_s
    kept, flags = guard_pieces([word.text for word in parsed.words], duration_s=duration_s)
    words = tuple(
        Word(word.text, rounded(window.start_s + word.start_s), rounded(window.start_s + word.end_s))
        for word in (parsed.words[i] for i in kept)
    )
    text, text_flags = guard_text(join_words(word.text for word in words) or parsed.text, duration_s=duration_s)
    answer, answer_flags = guard_text(parsed.answer)
    translation, translation_flags = guard_text(parsed.translation)
    guards = (*flags, *text_flags, *answer_flags, *translation_flags, *cut)
    return Segment(
        rounded(spans[0].start_s),
        rounded(spans[-1].end_s),
        text,
        words,
        parsed.labels,
        answer,
        translation,
        tuple(task.id for task in parsed.tasks),
        parsed.unparsed,
        tuple(dict.fromkeys(guards)),
        cut_turns(parsed.turns, text),
        parsed.language,
    )


def _without_speech(span: Span, parsed: Parsed) -> Segment:
    """Of a sound that is no speech only labels are believed, and only when a vocal event was asked."""
    ids = tuple(task.id for task in parsed.tasks)
    labels = parsed.labels if "ved" in ids else {}
    is_cut = parsed.text or parsed.answer or parsed.translation or labels != parsed.labels
    return Segment(
        rounded(span.start_s),
        rounded(span.end_s),
        labels=labels,
        tasks=ids,
        unparsed=parsed.unparsed,
        guards=(NOT_SPEECH,) if is_cut else (),
    )


def merge(left: Heard, right: Heard) -> tuple[Heard, Heard]:
    """Share out what two windows heard of the same second, so that no word is lost or comes twice."""
    overlap = Span(right.window.start_s, right.window.start_s + right.window.overlap_s)
    seam_s = (overlap.start_s + overlap.end_s) / 2
    if left.segment.words and right.segment.words:
        words = merge_words(left.segment.words, right.segment.words, overlap=overlap)
        early = tuple(word for word in words if (word.start_s + word.end_s) / 2 < seam_s)
        late = words[len(early) :]
        texts = join_words(word.text for word in early), join_words(word.text for word in late)
    else:
        early, late = left.segment.words, right.segment.words
        share = right.window.overlap_s / (left.window.end_s - left.window.start_s)
        merged = merge_text(left.segment.text, right.segment.text, overlap_share=share)
        texts = split(merged, right.segment.text)
    turns = (cut_turns(left.segment.turns, texts[0]), cut_turns(right.segment.turns, texts[1], from_end=True))
    return (
        replace(left, segment=replace(left.segment, text=texts[0], words=early, turns=turns[0])),
        replace(right, segment=replace(right.segment, text=texts[1], words=late, turns=turns[1])),
    )


def split(merged: str, right: str) -> tuple[str, str]:
    """Divide a merged text where its right part begins, between two words."""
    size = 0
    while size < min(len(merged), len(right)) and merged[-size - 1] == right[-size - 1]:
        size += 1
    at = len(merged) - size
    while at < len(merged) and join_words([merged[:at].rstrip(), merged[at:].lstrip()]) != merged:
        at += 1
    return merged[:at].rstrip(), merged[at:].lstrip()


def cut_turns(turns: Sequence[Turn], text: str, *, from_end: bool = False) -> tuple[Turn, ...]:
    """Turns that hold what a guard or a merge left of their text, and no more.

    Args:
        turns: what was said by whom.
        text: what is left of their joined texts: they, with some characters taken away.
        from_end: whether to look for it from the end, as after a cut at the beginning.
    """
    if not turns or join_words(turn.text for turn in turns) == text:
        return tuple(turns)
    step = -1 if from_end else 1
    wanted = [char for char in text if not char.isspace()][::step]
    kept = []
    at = 0
    for turn in turns[::step]:
        chars = []
        for char in turn.text[::step]:
            if char.isspace():
                chars.append(" ")
            elif at < len(wanted) and char == wanted[at]:
                chars.append(char)
                at += 1
        kept.append(Turn(turn.speaker, " ".join("".join(chars[::step]).split())))
    return tuple(turn for turn in kept[::step] if turn.text)


def with_hotwords(segment: Segment, words: HotwordList, language: str | None = None) -> Segment:
    """The segment with its hotwords put right by their sound, and what was changed; word times move along.

    Call it when the segment is final, before `with_written`: figures are not looked at by sound.

    Args:
        segment: merged with its neighbours.
        words: from `hotword_list.read`.
        language: code of the language spoken, where the segment does not say it.
    """
    right, changes = hotwords.correct_segment(segment, words, language=language)
    found = tuple(Correction(one.new_start, one.new_end, one.old, one.new, one.by, one.score) for one in changes)
    return replace(right, corrections=found)


def with_written(segment: Segment) -> Segment:
    """The segment with its transcript in written form beside the spoken one; words, their times and `text` stay.

    Call it when the segment is final: a merge changes `text`. The rules are chosen by script; where the model says that
    it heard a language without rules, the text stays as it is.
    """
    code = segment.language.lower().split("-")[0]
    language = code if len(code) in (2, 3) and code not in ("zh", "yue", "en") else None
    done = itn.write(segment.text, language)
    turns = tuple(replace(turn, written=itn.write(turn.text, language).text) for turn in segment.turns)
    return replace(segment, written=done.text, written_spans=done.spans, turns=turns)


def rounded(seconds: float) -> float:
    """A time as results show it, in whole milliseconds."""
    return round(seconds, 3)
