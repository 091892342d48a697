"""Text as it is scored: the same words written in two ways must not count as errors.

Every step is stated in docs/evaluation.md; reference and hypothesis go through the same ones. What is scored are units:
a Chinese character or kana, a figure, a word of any other script (`units`), or every character (`characters`).
"""

import importlib
import importlib.util
import re
import unicodedata
from functools import cache
from typing import Any

from zhiyin.text import itn
from zhiyin.text.itn_en_words import NUMBERS

# Scripts written without spaces: Han with its extensions, kana, bopomofo.
_WIDE = (
    r"\u3005-\u3007\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
)
# What is spoken although it is no letter.
_SPOKEN = "%°$€£¥"
_HAN = re.compile(rf"[{_WIDE}]")
_UNIT = re.compile(rf"[{_WIDE}]|[0-9]|[.\-{re.escape(_SPOKEN)}]|[^\s0-9.\-{re.escape(_SPOKEN)}{_WIDE}]+")
_NUMBER_WORD = re.compile(rf"\b(?:{'|'.join(NUMBERS)})\b")
_FIGURES = str.maketrans("零〇一二三四五六七八九", "00123456789")
_APOSTROPHES = "'\u2019\u2018\u02bc`\u00b4"
CHINESE = ("zh", "cmn", "yue")


def normalize(text: str, language: str = "") -> str:
    """A text as it is compared: lower case, no punctuation, numbers in figures, units separated by single spaces.

    Args:
        text: transcript, translation or answer, without tags.
        language: code; ``zh`` and ``en`` have rules of their own, in any other language letters keep their accents and
            numbers stay as they are written. Empty: the rules of both, each for its script.

    >>> normalize("价格是百分之三点五。") == normalize("价格是3.5%")
    True
    >>> normalize("It\u2019s John's co-op, isn't it?")
    'its johns co op isnt it'
    """
    code = re.split("[-_]", language.lower())[0]
    text = unicodedata.normalize("NFKC", text).lower()
    if code in ("", *CHINESE):
        text = simplified(text)
    if code in ("", "en", *CHINESE):
        text = _numbers(text, "zh" if code in CHINESE else code)
    text = re.sub(rf"(?<=\w)[{_APOSTROPHES}](?=\w)", "" if code in ("", "en", *CHINESE) else " ", text)
    if code in ("", "en", *CHINESE):
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not _is_latin_accent(c))
        text = unicodedata.normalize("NFC", text)
    return " ".join(_UNIT.findall(_without_punctuation(text)))


def units(text: str, language: str = "") -> list[str]:
    """What the mixed error rate counts: wide characters, figures and spoken signs one by one, else words.

    >>> units("我用 iPhone15 拍照")
    ['我', '用', 'iphone', '1', '5', '拍', '照']
    """
    return normalize(text, language).split()


def characters(text: str, language: str = "") -> list[str]:
    """What the character error rate counts: every character but spaces."""
    return list("".join(normalize(text, language).split()))


def has_wide(text: str) -> bool:
    """Whether a text holds a character of a script that is written without spaces."""
    return _HAN.search(text) is not None


def simplified(text: str) -> str:
    """Traditional characters as simplified ones by OpenCC (``t2s``), where it is installed; see `can_simplify`."""
    if has_wide(text) and can_simplify():
        return str(_converter().convert(text))
    return text


def can_simplify() -> bool:
    """Whether OpenCC is here (extra ``eval``)."""
    return importlib.util.find_spec("opencc") is not None


def seems_traditional(text: str) -> bool:
    """Whether a text holds a character of Big5 (traditional) that GB 2312 (simplified) lacks."""
    return any(_encodes(c, "big5") and not _encodes(c, "gb2312") for c in text if _HAN.match(c))


@cache
def _converter() -> Any:
    return importlib.import_module("opencc").OpenCC("t2s")


def _encodes(char: str, codec: str) -> bool:
    try:
        return bool(char.encode(codec))
    except UnicodeEncodeError:
        return False


def _numbers(text: str, code: str) -> str:
    """Numbers in figures, also the small ones that people write as words.

    A figure is a unit of its own later, so that one wrong figure in a long number is one error.
    """
    written = itn.write(text, code or None).text.lower()
    if code in ("", "zh"):
        written = written.translate(_FIGURES)
    if code in ("", "en"):
        written = _NUMBER_WORD.sub(lambda match: str(NUMBERS[match[0]]), written)
        # what stands in figures with a word after it, as `text.itn` writes it where all was words
        written = re.sub(r"(?<=[0-9])\s*per\s?cent\b", "%", written)
        for name, sign in (("dollars?", "$"), ("euros?", "€")):
            written = re.sub(rf"([0-9][0-9,.]*)\s+{name}\b", rf"{sign}\1", written)
    return re.sub(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", "", written)


def _is_latin_accent(char: str) -> bool:
    return "\u0300" <= char <= "\u036f"


def _without_punctuation(text: str) -> str:
    """Letters, marks, figures and spoken signs; a point between figures and a minus before one stay."""
    text = re.sub(r"(?<![^\W\d_])((?:[^\W\d_]\.)+)(?![^\W\d_]{2})", lambda match: match[0].replace(".", ""), text)
    text = re.sub(r"(?<![0-9])\.|\.(?![0-9])|(?<=\w)-|-(?![0-9])", " ", text)
    kept = [c if unicodedata.category(c)[0] in "LMN" or c in _SPOKEN or c in ".-" else " " for c in text]
    return "".join(kept)
