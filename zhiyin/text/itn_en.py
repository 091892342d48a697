"""English numbers as they are written: spoken words to figures, after the Chicago Manual of Style and the AP Stylebook.

Words are read once, from left to right; at each number word the rules are tried from the most special to the plainest,
and each looks only a bounded way ahead. Numbers below ten stay words unless something beside them asks for a figure.
"""

from collections.abc import Iterator

from zhiyin.text import itn_en_words as en
from zhiyin.text.itn_web import addresses

Edit = tuple[int, int, str]  # start and end in the spoken text, what is written there
Read = tuple[int, str | None]  # how many words were read, and what is written for them; None: as spoken

_MONTHS = en.word_set("january february march april may june july august september october november december")
_BEFORE_DAY = en.word_set("on of since until till by before after from to through this next last every in")
_BEFORE_YEAR = en.word_set("in since by of from until till year during after before around circa")
_MONEY = {"dollar": "$", "dollars": "$", "euro": "€", "euros": "€"}
_UNITS = en.word_set("""
    kilometer kilometers kilometre kilometres km meter meters metre metres centimeter centimeters millimeter
    millimeters cm mm mile miles foot feet inch inches yards acre acres kilogram kilograms kilo kilos kg gram grams
    milligram milligrams mg pound pounds ounces ton tons tonnes liter liters litre litres milliliter milliliters ml
    gallon gallons degree degrees volt volts watt watts kilowatt kilowatts megawatts hertz kilohertz megahertz gigahertz
    byte bytes kilobyte kilobytes megabyte megabytes gigabyte gigabytes terabyte terabytes megabits gigabits decibels
    calories horsepower yuan yen cents bucks rupees pixels knots percentage""")
_LABELS = en.word_set("""
    page pages chapter room gate flight platform figure section exit route highway terminal apartment channel
    version boeing interstate extension""")
_AFTER_LABEL = en.word_set("of on to and at in from is was for has will by please")
_OWN = en.word_set("my your his her its our their both own these those the")
_LINKS = en.word_set("to or through")
_SUMS = en.word_set("plus minus times equals over")
_NOT_COUNTED = en.word_set("no any every each some the this that another which")  # before one: a pronoun
_ONE_PART = {"half": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8, "quarter": 4, "tenth": 10}
_AFTER_PART = en.word_set("of the more less as and or to")  # one third party is no fraction
_KEPT = (
    "forty winks|ten commandments|twelve apostles|twelve angry men|eleventh hour|twenty questions|fifty shades"
    "|fifty fifty"
    "|ocean's eleven|seven eleven|thousand and one nights|one thousand and one nights|twelve days of christmas"
    "|nineteen to the dozen|twenty twenty vision|one two three|three two one|one two three four|ten to one"
    "|nine times out of ten|one in a million|eight hundred pound gorilla"
    "|hundred years war|hundred years' war|thirty years war|seven eleven store|ten out of ten|hang ten|big ten"
)
_KEPT_BY_FIRST: dict[str, list[list[str]]] = {}
for _words in sorted((one.split() for one in _KEPT.split("|")), key=len, reverse=True):
    _KEPT_BY_FIRST.setdefault(_words[0], []).append(_words)
_STARTS = frozenset([*en.NUMBERS, *en.ORDINALS, *_MONTHS, *_LABELS, *_KEPT_BY_FIRST])
_STARTS |= {"a", "hundred", "double", "triple", "minus", "negative", "oh", "o", "point", "hundredth", "thousandth"}


def edits(text: str) -> Iterator[Edit]:
    """What is written otherwise than spoken, from left to right, none overlapping another.

    >>> list(edits("the two of us paid twenty five dollars"))
    [(19, 38, '$25')]
    """
    words = en.words(text)
    reader = _Reader(text, words)
    webs = {first: (end, written) for first, end, written in addresses(text, words)}
    at = 0
    while at < len(words):
        if at in webs:
            end, written = webs[at]
            size: int = end - at
            yield words[at].start, words[end - 1].end, written
        else:
            size, new = reader.read(at) if words[at].text in _STARTS else (1, None)
            start, stop = words[at].start, words[at + size - 1].end
            if new is not None and new != text[start:stop]:
                yield start, stop, new
        at += size


class _Reader:
    """The words of a text, and the rules; each rule gives None where it does not apply."""

    def __init__(self, text: str, words: list[en.Word]) -> None:
        self.text = text
        self.words = words
        self.forced = -1  # the word where a number begins that must match the one before it: five to ten

    def read(self, at: int) -> Read:
        """What is written for the words from `at` on."""
        said = en.phrase(self.words, at)
        for kept in _KEPT_BY_FIRST.get(said[0], ()):
            counts_on = len(said) > len(kept) and said[len(kept)] in en.DIGITS
            counts_on |= at > 0 and self.words[at - 1].text in en.DIGITS
            if said[: len(kept)] == kept and not counts_on:
                return len(kept), None
        if said[0] in _MONTHS:
            return self._date(at, said) or (1, None)
        if said[0] in _LABELS:
            return self._label(at, said) or (1, None)
        if said[0] in ("minus", "negative"):
            return self._negative(at, said) or (1, None)
        if said[0] == "point":
            return self._bare_point(said) or (1, None)
        for rule in (self._day_of_month, self._ordinal, self._clock, self._fraction, self._decimal):
            found = rule(at, said)
            if found:
                return found
        return self._year(at, said) or self._digits(said) or self._plain(at, said)

    def _before(self, at: int) -> str:
        return self.words[at - 1].text if at and self.words[at].joined else ""

    def _as_said(self, at: int) -> str:
        return self.text[self.words[at].start : self.words[at].end]

    def _date(self, at: int, said: list[str]) -> Read | None:
        """november twenty first [twenty twenty six], november twenty twenty six."""
        month = self._as_said(at)
        size, day = en.ordinal(said[1:])
        is_ordinal = size > 0
        if not size:
            size, day = en.below_hundred(said[1:])
        if not 1 <= day <= 31:
            size = 0
        years, year = _full_year(said[1 + size :])
        sure = said[0] not in ("march", "may") or (month[0].isupper() and is_ordinal) or self._before(at) in _BEFORE_DAY
        if size and years and len(year) == 4:
            return 1 + size + years, f"{month} {day}, {year}"
        years, year = _full_year(said[1:])
        if years and len(year) == 4:
            return 1 + years, f"{month} {year}"
        after = said[1 + size : 2 + size]
        if not size or not sure or (not is_ordinal and ((day < 10 and self._before(at) not in _BEFORE_DAY) or after)):
            return None
        return 1 + size, f"{month} {day}"

    def _day_of_month(self, at: int, said: list[str]) -> Read | None:
        size, day = en.ordinal(said)
        if not size or not 1 <= day <= 31 or said[size : size + 1] != ["of"] or len(said) < size + 2:
            return None
        if said[size + 1] not in _MONTHS:
            return None
        years, year = _full_year(said[size + 2 :])
        of_month = f"of {self._as_said(at + size + 1)}"
        tail = f" {year}" if years and len(year) == 4 else ""
        return size + 2 + (years if tail else 0), f"{day}{_suffix(day)} {of_month}{tail}"

    def _ordinal(self, at: int, said: list[str]) -> Read | None:
        """From tenth on in figures; a fraction (one tenth) and the first nine are no matter of this rule."""
        size, value = en.ordinal(said)
        if not size or said[0] == "a":
            return None
        if value < 10 or (said[0] == "one" and size == 2 and value < 100):
            return (size, None) if value < 10 else None
        if said[size - 1] == "second" and self._before(at) not in _OWN:
            return size, None  # sixty second timeout
        return size, f"{_grouped(value)}{_suffix(value)}"

    def _label(self, at: int, said: list[str]) -> Read | None:
        """page five, room two twelve, flight nine oh one."""
        label = self._as_said(at)
        size, figures = en.digits(said[1:])
        tens, value = en.below_hundred(said[1 + size :])
        if size == 1 and tens and value >= 10:
            return 2 + tens, f"{label} {figures}{value}"
        if size > 1 and not tens:
            return 1 + size, f"{label} {figures}"
        after = said[2:3]
        if size == 1 and said[1] in en.ONES and (not after or after[0] in _AFTER_LABEL):
            if said[1] == "one" and after:
                return None
            if after and after[0] in _SUMS | {"to", "and"}:
                self.forced = at + 3
            return 2, f"{label} {figures}"
        return None

    def _negative(self, at: int, said: list[str]) -> Read | None:
        if self._before(at) in en.NUMBERS or self._before(at) in en.LARGE or len(said) < 2 or said[1] not in en.NUMBERS:
            return None
        size, written = self._decimal(at + 1, said[1:]) or self._plain(at + 1, said[1:], alone=True)
        return None if written is None or not written[0].isdigit() else (1 + size, f"-{written}")

    def _bare_point(self, said: list[str]) -> Read | None:
        size, figures = en.digits(said[1:], in_decimal=True)
        if not size or not _counts(said[1 + size : 3 + size]):
            return 1 + size, None
        return self._finish(1 + size, said, f"0.{figures}")

    def _clock(self, at: int, said: list[str]) -> Read | None:
        """three thirty pm, ten o'clock, at seven fifteen."""
        size, hour = en.below_hundred(said)
        if not size or not 1 <= hour <= 24 or self._before(at) == "point":
            return None
        if said[size : size + 1] == ["o'clock"] or said[size : size + 2] == ["o", "clock"]:
            return size, str(hour)
        size = 1
        hour = en.NUMBERS[said[0]]
        minutes, minute = _minute(said[size:])
        half, mark = self._half_day(at + size + minutes, said[size + minutes :])
        after = said[size + minutes : size + minutes + 3]
        day = (after[:2] in (["in", "the"], ["this", "morning"]) and after[2:] != ["year"]) or after[:1] == ["tonight"]
        at_hour = self._before(at) in ("at", "until", "till", "by") and hour <= 12 and not _counts(after)
        if hour > 12 or not (half or (minutes and (at_hour or day))):
            return None
        return size + minutes + half, f"{hour}{f':{minute:02}' if minutes else ''}{mark}"

    def _half_day(self, at: int, said: list[str]) -> tuple[int, str]:
        if said[:1] in (["am"], ["pm"]) and said[1:2] != ["i"]:
            return 1, f" {self._as_said(at)}"
        if said[:2] in (["a", "m"], ["p", "m"]):
            return 2, f" {said[0]}m"
        if at + 1 < len(self.words) and self.text[self.words[at].start : self.words[at + 1].end].lower() in (
            "a.m",
            "p.m",
        ):
            return 2, f" {said[0]}.m"
        return 0, ""

    def _fraction(self, at: int, said: list[str]) -> Read | None:
        """two thirds, one third, two and a half, two and three quarters."""
        size, value = en.below_hundred(said)
        after = said[size:]
        if not size or not value or not after:
            return None
        if after[0] in en.DENOMINATORS and value > 1:
            return size + 1, f"{value}/{en.DENOMINATORS[after[0]]}"
        if value == 1 and size == 1 and self._before(at) not in _NOT_COUNTED:
            sure = not after[1:] or after[1] in _AFTER_PART if after[0] in ("half", "third") else after[1:2] == ["of"]
            if after[0] in _ONE_PART and sure:
                return 2, f"1/{_ONE_PART[after[0]]}"
        if after[:3] == ["and", "a", "half"]:
            if after[3:4] and after[3] in en.LARGE:
                return self._finish(size + 3, said, f"{value}.5")
            if percent := _percent(after[3:]):
                return size + 3 + percent, f"{value}.5%"
            return size + 3, f"{value} 1/2"
        parts, count = en.below_hundred(after[1:]) if after[0] == "and" else (0, 0)
        if parts and count and after[1 + parts : 2 + parts] and after[1 + parts] in en.DENOMINATORS:
            return size + 2 + parts, f"{value} {count}/{en.DENOMINATORS[after[1 + parts]]}"
        return None

    def _decimal(self, at: int, said: list[str]) -> Read | None:
        size, value = en.cardinal(said)
        if not size or said[size : size + 1] != ["point"]:
            return None
        if value == 1 and self._before(at) in ("at", *_NOT_COUNTED):
            return None
        tail, figures = en.digits(said[size + 1 :], in_decimal=True)
        if not tail:
            tail, two = en.below_hundred(said[size + 1 :])
            figures = str(two)
        if not tail:
            return None
        return self._finish(size + 1 + tail, said, f"{_grouped(value)}.{figures}")

    def _year(self, at: int, said: list[str]) -> Read | None:
        size, figures = en.year(said)
        if not size or _counts(said[size:]) or (said[size : size + 1] and said[size] in en.NUMBERS):
            return None
        if figures == "2020" and self._before(at) not in _BEFORE_YEAR:
            return size, None
        if figures.endswith("00") and self._before(at) not in _BEFORE_YEAR:
            return None
        return size, figures

    def _digits(self, said: list[str]) -> Read | None:
        """Three figures or more said one by one; ``oh`` alone begins none of so few."""
        size, figures = en.digits(said)
        if len(figures) < (4 if said[0] in ("oh", "o") else 3):
            return None
        if said[size : size + 1] and (said[size] in en.NUMBERS or said[size] in ("point", "dot")):
            return size, None
        return size, figures

    def _plain(self, at: int, said: list[str], *, alone: bool = False) -> Read:
        """A cardinal by itself, or with its unit."""
        size, value = en.cardinal(said)
        if not size:
            return 1, None
        if said[:3] == ["twenty", "four", "seven"] and not _counts(said[3:]):
            return 3, "24/7"
        after = said[size : size + 1]
        if after and (after[0] in en.NUMBERS or after[0] == "hundred"):  # two numbers side by side: none is sure
            return self._all_numbers(said), None
        if after[:1] in (["past"], ["till"]) and said[size + 1 : size + 2] and said[size + 1] in en.NUMBERS:
            return size + 2, None  # ten past four
        if self._before(at) == "past" and value <= 12:
            return size, None
        power = en.LARGE.get(said[size - 1], 1)
        is_large = power >= 10**6 and value < 1000 * power and value % power == 0
        written = f"{value // power} {said[size - 1]}" if is_large else _grouped(value)
        special = self._finish(size, said, written, only_special=True)
        if special:
            return special
        if said[0] == "a" and size == 2 and value != 101:
            return size, None
        if after and after[0] in ("foot", "feet") and en.below_hundred(said[size + 1 :])[1] in range(1, 12):
            self.forced = at + size + 1  # six foot two
        linked = self._links(at, size, value, said)
        is_figure = value >= 10 or alone or linked or self._has_unit(at, said, size)
        return size, written if is_figure else None

    def _finish(self, size: int, said: list[str], written: str, *, only_special: bool = False) -> Read | None:
        """A number with its percent or money; `written` may hold million already."""
        rest = said[size:]
        if rest[:1] and rest[0] in en.LARGE and not only_special:
            written += f" {rest[0]}"
            size += 1
            rest = said[size:]
        if percent := _percent(rest):
            return size + percent, f"{written}%"
        if rest[:1] and rest[0] in _MONEY:
            sign = _MONEY[rest[0]]
            skip = 2 if rest[1:2] == ["and"] else 1
            cents, value = en.below_hundred(rest[skip:])
            if value and rest[skip + cents : skip + cents + 1] in (["cents"], ["cent"]) and written.isdigit():
                return size + skip + cents + 1, f"{sign}{written}.{value:02}"
            if value >= 10 and len(rest) == skip + cents and skip == 1 and written.isdigit():
                return size + 1 + cents, f"{sign}{written}.{value}"  # five dollars fifty
            return size + 1, f"{sign}{written}"
        return None if only_special else (size, written)

    def _has_unit(self, at: int, said: list[str], size: int) -> bool:
        if said[size : size + 1] in (["year"], ["years"]) and said[size + 1 : size + 2] == ["old"]:
            return True
        if said[size : size + 1] and said[size] in ("square", "cubic", "nautical"):
            size += 1
        is_unit = bool(said[size:]) and said[size] in _UNITS
        return is_unit and said[0] != "one" and (at < 0 or self._before(at) not in _OWN)

    def _links(self, at: int, size: int, value: int, said: list[str]) -> bool:
        """Whether it is in figures for its neighbour's sake: five to fifteen, two plus three, two to five miles."""
        is_forced = self.forced == at
        rest = said[size:]
        skip = 2 if rest[:2] in (["out", "of"], ["divided", "by"]) else 1
        link = rest[0] if rest else ""
        more, other = en.cardinal(rest[skip:])
        if not more or (other < 10 and value >= 10 and link not in _SUMS) or self._before(at) in ("no", "any", "every"):
            return is_forced
        counted = other >= 10 or _percent(rest[skip + more :]) or self._has_unit(-1, rest[skip:], more)
        between = link == "and" and self._before(at) == "between"
        ranged = bool(counted) and (link in _LINKS or between or skip == 2 or (link == "in" and value == 1))
        if link in _SUMS or (skip == 2 and link == "divided") or ranged:
            self.forced = at + size + skip
            return True
        return is_forced

    def _all_numbers(self, said: list[str]) -> int:
        size = 0
        while size < len(said) and (
            said[size] in en.NUMBERS or said[size] in en.LARGE or said[size] in ("hundred", "oh", "a")
        ):
            size += 1
        return max(1, size)


def _percent(said: list[str]) -> int:
    """How many words say percent here."""
    return 1 if said[:1] == ["percent"] else 2 if said[:2] == ["per", "cent"] else 0


def _counts(said: list[str]) -> bool:
    """Whether a unit or money follows, so that the number before it is a count."""
    return bool(said) and bool(_percent(said) or said[0] in _UNITS or said[0] in _MONEY or said[0] in en.LARGE)


def _minute(said: list[str]) -> tuple[int, int]:
    if said[:1] in (["oh"], ["o"]) and said[1:2] and en.ONES.get(said[1], 0):
        return 2, en.ONES[said[1]]
    size, value = en.below_hundred(said)
    return (size, value) if 10 <= value < 60 else (0, 0)


def _full_year(said: list[str]) -> tuple[int, str]:
    """A year after a date: in pairs, or two thousand (and) so many."""
    size, figures = en.year(said)
    if size:
        return size, figures
    size, value = en.cardinal(said)
    return (size, str(value)) if 2000 <= value <= 2099 and said[1:2] == ["thousand"] else (0, "")


def _grouped(value: int) -> str:
    """Groups of three from five figures on; four figures stand together (SI Brochure 5.4.4)."""
    return f"{value:,}" if value >= 10_000 else str(value)


def _suffix(value: int) -> str:
    if value % 100 in (11, 12, 13):
        return "th"
    return {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")
