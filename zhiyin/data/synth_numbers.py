"""Whole numbers as they are spoken, in English, Chinese and German."""

from zhiyin.errors import UserError

LARGEST = 9999
_EN = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_EN_TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_ZH = "零一二三四五六七八九"
_DE = (
    *("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn", "elf", "zwölf"),
    *("dreizehn", "vierzehn", "fünfzehn", "sechzehn", "siebzehn", "achtzehn", "neunzehn"),
)
_DE_TENS = ["", "", "zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig"]


def spoken(number: int, language: str, *, counting: bool = False) -> str:
    """A number from 0 to 9999 in words, lower case.

    Args:
        number: what is meant.
        language: ``en``, ``zh`` or ``de``.
        counting: before a noun: 两 instead of 二, ``ein`` instead of ``eins``.

    >>> spoken(1205, "en"), spoken(1205, "zh"), spoken(21, "de")
    ('one thousand two hundred five', '一千二百零五', 'einundzwanzig')

    Raises:
        UserError: the number is out of range, or the language is not known.
    """
    if not 0 <= number <= LARGEST:
        raise UserError(f"number {number} cannot be spoken here; 0 to {LARGEST} can")
    if language == "zh":
        return "两" if number == 2 and counting else _chinese(number)
    if language == "de":
        return "ein" if number == 1 and counting else _german(number)
    if language == "en":
        return _english(number)
    raise UserError(f"numbers are not known in language '{language}'; known: en zh de")


def digit(value: int, language: str) -> str:
    """One digit, 0 to 9, as it is spoken in a string of digits."""
    return spoken(value, language)


def _english(number: int) -> str:
    if number < 20:
        return _EN[number]
    if number < 100:
        return " ".join([_EN_TENS[number // 10], *([_EN[number % 10]] if number % 10 else [])])
    size, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    rest = [_english(number % size)] if number % size else []
    return " ".join([_EN[number // size], name, *rest])


def _chinese(number: int) -> str:
    if number < 10:
        return _ZH[number]
    if number < 20:
        return "十" + (_ZH[number % 10] if number % 10 else "")
    out, gap = "", False
    for size, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        value = number // size % 10
        if value:
            out += ("零" if gap and out else "") + _ZH[value] + name
        gap = value == 0
    return out


def _german(number: int) -> str:
    if number < 20:
        return _DE[number]
    if number < 100:
        one = "ein" if number % 10 == 1 else _DE[number % 10]
        return (f"{one}und" if number % 10 else "") + _DE_TENS[number // 10]
    size, name = (1000, "tausend") if number >= 1000 else (100, "hundert")
    head = "ein" if number // size == 1 else _DE[number // size]
    return head + name + (_german(number % size) if number % size else "")
