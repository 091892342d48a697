"""Inverse text normalisation: spoken words to the form people write, with a map from one to the other.

Rules and their sources: docs/itn.md. Chinese is `itn_zh`, English `itn_en`; both only name what they would change, and
all else stays one to one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from zhiyin.result import Rewrite
from zhiyin.text import itn_en, itn_zh

_HAN = re.compile(r"[\u3400-\u9fff〇]")
_KANA = re.compile(r"[\u3040-\u30ff]")
# What English rules may see of a mixed text: stretches without Chinese characters.
_STRETCH = re.compile(r"[^\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]+")


@dataclass(frozen=True)
class Written:
    """A text in written form; `spans` are its pieces that differ from what was spoken, in order."""

    text: str
    spans: tuple[Rewrite, ...] = ()

    def written_range(self, start: int, end: int) -> tuple[int, int]:
        """Where the spoken characters from `start` to `end` stand now; a piece that was replaced is taken whole.

        >>> write("it is twenty one today").written_range(6, 12)
        (6, 8)
        """
        return _range([(s.spoken_start, s.spoken_end, s.written_start, s.written_end) for s in self.spans], start, end)

    def spoken_range(self, start: int, end: int) -> tuple[int, int]:
        """Where the written characters from `start` to `end` stood in what was spoken.

        >>> write("it is twenty one today").spoken_range(7, 8)
        (6, 16)
        """
        return _range([(s.written_start, s.written_end, s.spoken_start, s.spoken_end) for s in self.spans], start, end)


def write(text: str, language: str | None = None) -> Written:
    """A spoken text in written form.

    Args:
        text: transcript of any length; the time is linear in it.
        language: ``zh`` or ``en`` for the rules of one language, another code for none (nothing changes). None: by
            script, and each stretch of a mixed text by its own rules; a text with kana is Japanese and stays.

    >>> write("二零二六年十一月二十一日下午三点二十").text
    '2026年11月21日下午3点20'
    """
    parts = []
    spans = []
    read = size = 0
    for start, end, written in sorted(_edits(text, language)):
        parts += [text[read:start], written]
        size += start - read
        spans.append(Rewrite(start, end, size, size + len(written)))
        read = end
        size += len(written)
    return Written("".join([*parts, text[read:]]), tuple(spans))


def _edits(text: str, language: str | None) -> Iterator[tuple[int, int, str]]:
    code = "" if language is None else re.split("[-_]", language.lower())[0]
    if code in ("zh", "yue", "cmn", "") and _HAN.search(text) and not (code == "" and _KANA.search(text)):
        yield from itn_zh.edits(text)
    if code == "en":
        yield from itn_en.edits(text)
    elif not code:
        for stretch in _STRETCH.finditer(text):
            for start, end, written in itn_en.edits(stretch.group()):
                yield stretch.start() + start, stretch.start() + end, written


def _range(spans: list[tuple[int, int, int, int]], start: int, end: int) -> tuple[int, int]:
    """A range carried from one side of the spans to the other; a span it touches is taken whole."""
    shift = 0
    new_start = new_end = None
    for from_start, from_end, to_start, to_end in spans:
        if new_start is None and start < from_end:
            new_start = to_start if start >= from_start else start + shift
        if new_end is None and end <= from_end:
            new_end = to_end if end > from_start else end + shift
        if new_start is not None and new_end is not None:
            break
        shift = to_end - from_end
    new_start = start + shift if new_start is None else new_start
    return new_start, max(new_start, end + shift if new_end is None else new_end)
