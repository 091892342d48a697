"""Chinese numbers: what numerals are worth, how a number looks in figures, and the words that hold no number."""

import re
from functools import lru_cache
from pathlib import Path

FIGURES = {char: str(value) for value, chars in enumerate("零一二三四五六七八九") for char in chars}
FIGURES |= {"〇": "0", "幺": "1", "两": "2"}
NUMERALS = "零〇一二三四五六七八九十百千万亿两幺"
DIGITS = "零〇一二三四五六七八九"
_LONGEST = 40  # characters of a cardinal; more are noise

_KEPT_FILE = Path(__file__).parent / "data" / "kept_zh.txt"
_NAMED = (
    r"(?:星期|礼拜|(?<![一两二三四五六七八九十几])周)[一二三四五六](?:[到至][一二三四五六])?(?!十[^点\d零一二三四五六七八九])",
    r"[一二三四五六七八九十]{1,2}月[初廿][一二三四五六七八九十]{1,2}",
    r"初[一二三四五六七八九十](?!中)",
    r"(?:正|腊|冬|闰[一二三四五六七八九十])月[初廿]?[一二三四五六七八九十]{1,3}",
    r"(?:农历|阴历|旧历)[一二三四五六七八九十]{1,2}月[初廿]?[一二三四五六七八九十]{1,3}",
    r"(?<![一二三四五六七八九])(?:二十|十)[一二三四五六七八九]?大(?=[^一-龥]|精神|报告|代表|召开|胜利|以来|后|前|上|的|开幕|闭幕|$)",
    r"(?:党的|学习|喜迎|迎接|贯彻)[一二]?十[一二三四五六七八九]?大",
    r"第?二?十[一二三四五六七八九]?届(?=[一二三四五六七]中全会|中央)",
    rf"(?<![点时{NUMERALS}])十分(?![钟之])",
)


def cardinal(spoken: str) -> int | None:
    """The value of a well-formed cardinal, also with a spoken tail (``一百五`` is 150); None of anything else.

    >>> cardinal("一万两千零五"), cardinal("三万五"), cardinal("七八"), cardinal("百")
    (12005, 35000, None, None)
    """
    if len(spoken) > _LONGEST:
        return None
    for unit, power in (("亿", 10**8), ("万", 10**4)):
        before, found, after = spoken.rpartition(unit)
        if not found:
            continue
        high = _below(before) if unit == "万" else cardinal(before)
        if high is None or not high:
            return None
        if not after:
            return high * power
        if len(after) == 1 and after in DIGITS[2:]:
            return high * power + int(FIGURES[after]) * power // 10
        low = cardinal(after.lstrip("零〇")) if after[0] in "零〇" else _long(after, power)
        return None if low is None or low >= power else high * power + low
    return _below(spoken)


def _long(after: str, power: int) -> int | None:
    """What follows 万 or 亿 without 零 must fill the places below it: 一万两千, not 一万五十."""
    low = cardinal(after)
    return low if low is not None and low * 10 >= power else None


_SECTION = re.compile(
    r"(?:([一二三四五六七八九两])千)?(零)?(?:([一二三四五六七八九两])百)?(零)?(?:([一二三四五六七八九]?)(十))?(零)?([一二三四五六七八九])?"
)


def _below(spoken: str) -> int | None:
    """A cardinal below 10,000; of its figures 两 alone stands by itself."""
    if spoken in ("零", "〇", "两"):
        return int(FIGURES[spoken])
    match = _SECTION.fullmatch(spoken.replace("〇", "零"))
    if not match or not spoken or spoken[0] in "零〇":
        return None
    thousands, zero, hundreds, zero_2, tens, ten, zero_3, ones = match.groups()
    if ((zero or zero_2 or zero_3) and not (ones or ten)) or (zero and hundreds is None and not (ten or ones)):
        return None
    value = 1000 * _value(thousands) + 100 * _value(hundreds) + (10 * (_value(tens) or 1) if ten else 0)
    if ones and not ten and not (zero or zero_2 or zero_3) and (thousands or hundreds):
        return value + _value(ones) * (10 if hundreds else 100)  # 一百五, 两千三
    return value + _value(ones)


def _value(figure: str | None) -> int:
    return int(FIGURES[figure]) if figure else 0


def figures(spoken: str) -> str | None:
    """A number in figures: whole 万 and 亿 stay as units, digit by digit stays so, None if neither.

    >>> figures("一百二十万"), figures("三亿五千万"), figures("幺三八零零"), figures("一万二千三百")
    ('120万', '3.5亿', '13800', '12300')
    """
    if len(spoken) > 1 and all(char in FIGURES for char in spoken):
        return "".join(FIGURES[char] for char in spoken) if "两" not in spoken or len(spoken) > 6 else None
    value = cardinal(spoken)
    if value is None or (spoken[-1] not in "万亿" and spoken[-2:-1] not in ("万", "亿")):
        return None if value is None else str(value)
    for unit, power in (("万亿", 10**12), ("亿", 10**8), ("万", 10**4)):
        if value >= power and (unit == "万" or value % (power // 10**4) == 0):
            return f"{_decimal(value, power)}{unit}"
    return str(value)


def _decimal(value: int, power: int) -> str:
    whole, rest = divmod(value, power)
    tail = f"{rest:0{len(str(power)) - 1}}".rstrip("0")
    return f"{whole}.{tail}" if tail else str(whole)


def exact(spoken: str) -> str | None:
    """A number with an optional decimal part, in figures."""
    whole, point, tail = spoken.partition("点")
    if not point:
        return figures(whole) if not is_rough(whole) else None
    value = cardinal(whole)
    return None if value is None else f"{value}.{''.join(FIGURES[char] for char in tail)}"


def is_rough(run: str) -> bool:
    """七八, 三五 and 两三 name no exact number; with tens or more around them they are no cardinal anyway."""
    if len(run) != 2 or not all(char in FIGURES for char in run):
        return False
    first, second = (int(FIGURES[char]) for char in run)
    return first > 0 and (second == first + 1 or (first, second) == (3, 5))


@lru_cache(maxsize=1)
def kept_words() -> tuple[str, ...]:
    """Words that stay as they are, as they stand in the file (``+``: kept after a numeral too)."""
    lines = _KEPT_FILE.read_text(encoding="utf-8").splitlines()
    return tuple(dict.fromkeys(word for line in lines if not line.startswith("#") for word in line.split()))


@lru_cache(maxsize=1)
def kept() -> re.Pattern[str]:
    """One pattern, branched by first character so that a place is tried against few words; the longest wins."""
    tails: dict[str, list[str]] = {}
    for word in kept_words():
        bare = word.lstrip("+")
        is_weak = word == bare and len(bare) < 4 and bare[0] in NUMERALS
        guard = f"(?![{NUMERALS}])" if bare[-1] in NUMERALS and len(bare) < 4 else ""
        tails.setdefault(f"(?<![{NUMERALS}点]){bare[0]}" if is_weak else bare[0], []).append(bare[1:] + guard)
    branches = [rf"{head}(?:{'|'.join(sorted(words, key=len, reverse=True))})" for head, words in tails.items()]
    branches.sort(key=len)  # words kept only after no numeral come after idioms with the same first character
    branches.sort(key=lambda branch: branch.startswith("(?<!"))
    return re.compile("|".join((*_NAMED, *branches)))
