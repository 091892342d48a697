"""What a grammar of synthetic speech consists of; how it is written: `docs/data.md`."""

import re
from dataclasses import dataclass, field

SOURCE = "synthetic"  # of every record that is made
SPLITS = ("train", "dev", "test")
LANGUAGES = ("en", "zh", "de")
HELD_OUT = ("sentence", "values", "never")
STYLES = ("normal", "slow", "fast", "whisper", "shout")
_ID = re.compile(r"(?:^|_)syn_(.+?)_(?:[0-9a-f]{6}_)?[0-9]{7}$")


@dataclass(frozen=True)
class Slot:
    """What can stand in a place: whole numbers, strings of digits, or forms that say the same in several languages.

    Attributes:
        numbers: lowest and highest.
        digits: shortest and longest.
        en: forms in English.
        zh: the same in Chinese, in the same order.
        de: the same in German.
        spoken: language -> how the forms are given to the voice, where that differs (pinyin, names of letters).
        more: other columns of the same rows, e.g. `capital` of a country: name -> language -> forms.
    """

    numbers: tuple[int, int] | None = None
    digits: tuple[int, int] | None = None
    en: tuple[str, ...] = ()
    zh: tuple[str, ...] = ()
    de: tuple[str, ...] = ()
    spoken: dict[str, tuple[str, ...]] = field(default_factory=dict)
    more: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Rule:
    """Sentences of one kind.

    Attributes:
        id: unique in the grammar.
        text: language -> ways to say it. `{a}` is a slot, `{a.capital}` another column of its row, `{a:count}` a number
            before a noun, `{a + 2 * b}` a sum.
        answer: language -> the reply to it (task `sttc`).
        topic: what is asked of it where the text itself asks nothing, one of `tasks.instructions.TOPICS`; the record's
            instruction is worded from there.
        translate: pairs such as ``en>zh``: spoken in the first language, translated into the second (task `ast`).
        where: what must hold of the values, e.g. ``a >= b``.
        weight: how often, beside the other rules.
        held_out: what a split has for itself: ``sentence`` (this wording with these values, in all languages),
            ``values`` (these values in any wording), ``never`` (closed lists: all splits say the same).
    """

    id: str
    text: dict[str, tuple[str, ...]]
    answer: dict[str, str] = field(default_factory=dict)
    topic: str = ""
    translate: tuple[str, ...] = ()
    where: str = ""
    weight: float = 1.0
    held_out: str = "sentence"


@dataclass(frozen=True)
class Include:
    """Another grammar, and its share."""

    name: str
    weight: float = 1.0


@dataclass(frozen=True)
class Scene:
    """What is done to the voice and put around it; shares are probabilities.

    Attributes:
        styles: share of each style: normal, slow, fast, whisper, shout. With more than one they are labels of `ssr`.
        words_per_minute: range of the normal rate.
        noise_share: how many recordings have noise.
        snr_db: range of its level.
        event_share: how many recordings have a sound event beside the speech; the label of `ved`.
        alone_share: of those, how many are the event without speech.
        no_event: label of `ved` where there is none; empty: then there is no label.
        pause_s: range of the quiet before and after.
    """

    styles: dict[str, float] = field(default_factory=lambda: {"normal": 1.0})
    words_per_minute: tuple[float, float] = (125.0, 190.0)
    noise_share: float = 0.3
    snr_db: tuple[float, float] = (10.0, 40.0)
    event_share: float = 0.0
    alone_share: float = 0.3
    no_event: str = ""
    pause_s: tuple[float, float] = (0.02, 0.4)


@dataclass(frozen=True)
class Grammar:
    """A file, as it is written."""

    about: str = ""
    include: tuple[Include, ...] = ()
    slots: dict[str, Slot] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    scene: Scene = field(default_factory=Scene)


@dataclass(frozen=True)
class Source:
    """A grammar that was read and checked.

    Attributes:
        name: of the file, without its ending.
        weight: its share in what is made.
        grammar: the file.
        used: id of a rule -> names of the slots in its texts.
    """

    name: str
    weight: float
    grammar: Grammar
    used: dict[str, tuple[str, ...]]


def id_of(name: str, run: str, number: int) -> str:
    """Id of a recording: its grammar, what tells the run from others (six hexadecimal digits), its number there."""
    return f"syn_{name}_{run}_{number:07d}"


def grammar_of(record_id: str) -> str:
    """The grammar that `id_of` made an id with, also behind a prefix or in older ids without a run; else nothing."""
    found = _ID.search(record_id)
    return found[1] if found else ""
