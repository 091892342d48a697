"""The language that something is translated into, and whether a request must name it."""

from zhiyin.text.normalize import has_wide


def language_of(text: str, spoken: str) -> str:
    """Code of the language of a translation, of those that a request can name (`tasks.instructions`).

    Han characters show Chinese. Latin letters are English, or German where English is spoken. Empty with kana, or
    where there is nothing to see.

    Args:
        text: the translation.
        spoken: code of the language of the speech.
    """
    if not text.strip() or any("\u3040" <= char <= "\u30ff" for char in text):
        return ""
    if has_wide(text):
        return "zh"
    return "de" if spoken == "en" else "en"


def usual(spoken: str) -> str:
    """Code of the language that is meant where a request for a translation names none."""
    return "zh" if spoken == "en" else "en"


def to_name(text: str, spoken: str) -> str:
    """Code of the language of a translation where a request must name it, as it is not the usual one; else nothing."""
    into = language_of(text, spoken)
    return "" if into == usual(spoken) else into
