"""What all corpora need: transcripts and ages as our records have them, files that must be there."""

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from zhiyin.errors import UserError
from zhiyin.tasks.table import TASKS

ADULT_YEARS, OLD_YEARS = 18, 60


def plain(text: str) -> str:
    """A transcript in lower case without punctuation; apostrophes inside words stay.

    >>> plain("Don't stop, Mr. O’Neil!")
    "don't stop mr o'neil"
    """
    text = unicodedata.normalize("NFC", text).replace("’", "'").lower()
    out = []
    for place, sign in enumerate(text):
        inside = 0 < place < len(text) - 1 and text[place - 1].isalnum() and text[place + 1].isalnum()
        keep = unicodedata.category(sign)[0] not in "PSC" or (sign == "'" and inside)
        out.append(sign if keep else " ")
    return " ".join("".join(out).split())


def age_label(years: float) -> str:
    """child (under 18), adult, or old (60 and over)."""
    return "child" if years < ADULT_YEARS else "old" if years >= OLD_YEARS else "adult"


def ordered(tasks: Iterable[str]) -> tuple[str, ...]:
    """Task ids in table order."""
    wanted = set(tasks)
    return tuple(task.id for task in TASKS if task.id in wanted)


def need(path: Path, corpus: str, about: str) -> Path:
    """The path, which must be there.

    Raises:
        UserError: it is not; says which folder to give.
    """
    if not path.exists():
        raise UserError(f"{corpus}: no {path}; give {about}")
    return path


def lines(path: Path) -> list[tuple[int, str]]:
    """Line numbers and lines of a text file, without empty ones.

    Raises:
        UserError: it is missing or not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
