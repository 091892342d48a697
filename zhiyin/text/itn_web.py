"""Spoken e-mail and web addresses, where they are unmistakable: a name, ``dot`` and a known ending."""

import re
from collections.abc import Iterator, Sequence

from zhiyin.text.itn_en_words import Word, word_set

_ENDINGS = word_set("com org net edu gov io cn co uk ai dev info app")
_JOINTS = {"dot": ".", "underscore": "_", "dash": "-", "hyphen": "-"}
_BEFORE_EMAIL = word_set("email mail address is to contact write me us reach")
_NO_NAME = word_set("""
    us me him her them it you i we they the a an this that these those look looking find found available visit online
    website site more here out details address mail email is was are am be at on in to from of for and or go page check
    see back live based working works work stay new any every my your his our their dot""")
_MAIL_HOSTS = word_set("gmail hotmail outlook yahoo icloud qq foxmail protonmail")
_NO_PART = word_set("at is to the dot slash")
_LONGEST = 12  # words from the beginning of an address to its ending
_NAME = re.compile(r"[a-z0-9]+")


def addresses(text: str, words: Sequence[Word]) -> Iterator[tuple[int, int, str]]:
    """First and one past the last word of each address, and how it is written.

    >>> from zhiyin.text.itn_en_words import words
    >>> said = "mail john dot smith at example dot com"
    >>> list(addresses(said, words(said)))
    [(1, 8, 'john.smith@example.com')]
    """
    at = 0
    while at + 1 < len(words):
        if not _is_ending(words, at):
            at += 1
            continue
        end = at + 2
        while end + 1 < len(words) and _is_ending(words, end):
            end += 2
        start = _name(words, at)
        if start is None:
            at = end
            continue
        domain = _spell(text, words, start, end)
        first = _mailbox(words, start)
        if first is not None:
            yield first, end, f"{_spell(text, words, first, start - 1)}@{domain}"
        else:
            while end + 1 < len(words) and words[end].text == "slash" and words[end].joined and words[end + 1].joined:
                domain += "/" + _spell(text, words, end + 1, end + 2)
                end += 2
            yield start, end, domain
        at = end


def _is_ending(words: Sequence[Word], at: int) -> bool:
    dot, ending = words[at], words[at + 1]
    return dot.text == "dot" and dot.joined and ending.joined and ending.text in _ENDINGS


def _name(words: Sequence[Word], end: int) -> int | None:
    """Where the name begins that ends before `end`: words with joints between them."""
    at = end - 1
    if at < 0 or words[at].text in _NO_NAME or words[at].text in _JOINTS or not _NAME.fullmatch(words[at].text):
        return None
    while at >= 2 and end - at < _LONGEST and words[at].joined and words[at - 1].joined:
        if words[at - 1].text not in _JOINTS or words[at - 2].text in _NO_PART:
            break
        at -= 2
    if [word.text for word in words[max(0, at - 2) : at + 1]] == ["w", "w", "w"]:
        at -= 2
    return at


def _mailbox(words: Sequence[Word], domain: int) -> int | None:
    """Where a mailbox begins before ``at``; a single word is one only after words such as ``email``."""
    if domain < 2 or words[domain - 1].text != "at" or not (words[domain].joined and words[domain - 1].joined):
        return None
    at = _name(words, domain - 1)
    if at is None:
        return None
    before = words[at - 1].text if at else ""
    before_2 = words[at - 2].text if at > 1 else ""
    is_asked = (
        words[domain].text in _MAIL_HOSTS
        or before in _BEFORE_EMAIL
        or (before == "at" and before_2 in ("me", "us", "him", "her", "them"))
    )
    return at if domain - 1 - at > 1 or is_asked else None


def _spell(text: str, words: Sequence[Word], start: int, end: int) -> str:
    spelled = (_JOINTS.get(word.text) or text[word.start : word.end] for word in words[start:end])
    return "".join(spelled)
