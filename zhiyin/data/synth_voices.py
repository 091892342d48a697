"""Who speaks in synthetic recordings: voices of espeak-ng, flite and festival, and their splits.

A voice is in one split only, whatever its language or accent. A gender is given where the voice itself names one (the
file of an espeak-ng variant, the person recorded for flite or festival), an age only where the voice was made for one.
"""

import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from zhiyin.errors import UserError

ENGINES = ("espeak-ng", "flite", "festival")
DEFAULT_ENGINES = ENGINES[:2]

ACCENTS = {
    "en": (
        "en-us",
        "en",  # British; `en-gb` is no file, so variants cannot be added to it
        "en-gb-scotland",
        "en-gb-x-rp",
        "en-gb-x-gbclan",
        "en-gb-x-gbcwmd",
        "en-029",
        "en-us-nyc",
    ),
    "zh": ("cmn-latn-pinyin",),  # the voice `cmn` of espeak-ng 1.51 reads its own pinyin as English
    "de": ("de",),
}
FLITE_SHARE = 0.2  # of what flite can speak: it has few voices and takes several times as long
FESTIVAL_SHARE = 0.2  # of what flite leaves, likewise
# Variants of espeak-ng 1.51, by the gender in their files; those of `_UNNAMED` have none there. Left out: robots, and
# files that say the same as another (belinda is linda).
_FEMALE = {
    "train": ("f1", "f2", "f5", "Alicia", "Andrea", "Annie", "aunty", "steph", "steph2", "grandma"),
    "dev": ("f3", "anika"),
    "test": ("f4", "linda"),
}
_MALE = {
    "train": (
        *("m1", "m2", "m4", "m6", "m7", "m8", "Andy", "AnxiousAndy", "Denis", "Diogo", "Henrique", "Marco", "antonio"),
        *("michel", "miguel", "sandro", "travis", "victor"),
    ),
    "dev": ("m3", "Lee"),
    "test": ("m5", "Hugo"),
}
_UNNAMED = {
    "train": (
        *("Gene", "Gene2", "Jacky", "Mario", "Michael", "Mike", "adam", "benjamin", "boris", "caleb", "david", "ed"),
        *("edward", "iven", "john", "kaukovalta", "klatt", "klatt2", "klatt3", "klatt4", "marcelo", "max", "norbert"),
        *("pablo", "pedro", "quincy", "rob", "shelby", "zac", "gustave"),
    ),
    "dev": ("paul", "klatt5", "Nguyen"),
    "test": ("robert", "klatt6", "grandpa"),
}
_WHISPERING: dict[str, tuple[tuple[str, str], ...]] = {
    "train": (("whisper", "male"),),
    "dev": (),
    "test": (("whisperf", "female"),),
}
_OLD = ("grandma", "grandpa")
_FLITE = {
    "train": (("slt", "female"), ("rms", "male")),
    "dev": (("kal16", "male"),),
    "test": (("awb", "male"),),
}
# Where flite has the same person (slt, kal), the split is that of flite's voice.
_FESTIVAL = {
    "train": (("cmu_us_slt_arctic_hts", "female"),),
    "dev": (("kal_diphone", "male"),),
    "test": (("ked_diphone", "male"),),
}
# A change of all frequencies that leaves a gender alone, and one that makes another person. Our choice.
_SAME_PERSON, _ANY_PERSON = (0.97, 1.0, 1.03), (0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.18)


@dataclass(frozen=True)
class Voice:
    """Somebody who speaks.

    Attributes:
        engine: one of `ENGINES`.
        name: as the engine knows it.
        speaker: key; the same in every language.
        gender: ``female``, ``male``, or empty where none is named.
        age: ``old``, ``adult`` or empty, likewise.
        tract: see `synth_engines.say`.
        whispers: the voice itself whispers.
    """

    engine: str
    name: str
    speaker: str
    gender: str = ""
    age: str = ""
    tract: float = 1.0
    whispers: bool = False


def variants(split: str) -> tuple[str, ...]:
    """Names of the espeak-ng variants of a split, whispering ones too."""
    return (*_FEMALE[split], *_MALE[split], *_UNNAMED[split], *(name for name, _ in _WHISPERING[split]))


def flite_voices(split: str) -> tuple[str, ...]:
    """Names of the flite voices of a split; all are English."""
    return tuple(name for name, _ in _FLITE[split])


def festival_voices(split: str) -> tuple[str, ...]:
    """Names of the festival voices of a split; all are English."""
    return tuple(name for name, _ in _FESTIVAL[split])


def engines_of(names: Iterable[str]) -> tuple[str, ...]:
    """Engines by name, each once and in the order of `ENGINES`.

    Raises:
        UserError: there is no such engine, or espeak-ng is not among them.
    """
    given = [name.strip() for name in names]
    wrong = [name for name in given if name not in ENGINES]
    if wrong:
        raise UserError(f"synthesis: there is no engine '{wrong[0]}'; there are {', '.join(ENGINES)}")
    if ENGINES[0] not in given:
        raise UserError("synthesis: espeak-ng must be among the engines; it alone speaks Chinese and German")
    return tuple(name for name in ENGINES if name in given)


def draw(
    language: str,
    split: str,
    rng: random.Random,
    *,
    whispers: bool = False,
    engines: Collection[str] = DEFAULT_ENGINES,
) -> Voice:
    """A voice of a split that speaks a language.

    Args:
        language: ``en``, ``zh`` or ``de``.
        split: ``train``, ``dev`` or ``test``.
        rng: source of the choice; genders come up equally often, and voices without one as often as each.
        whispers: one that whispers by itself, if the split has any; `Voice.whispers` says so.
        engines: those that may speak; espeak-ng always may.
    """
    if language == "en" and not whispers:
        for engine, share, voices in (("flite", FLITE_SHARE, _FLITE), ("festival", FESTIVAL_SHARE, _FESTIVAL)):
            if engine in engines and rng.random() < share:
                name, gender = rng.choice(voices[split])
                tract = rng.choice(_SAME_PERSON)
                return Voice(engine, name, _key(engine, name, tract), gender, "adult", tract)
    accent = rng.choice(ACCENTS[language])
    whispers = whispers and bool(_WHISPERING[split])
    if whispers:
        variant, gender = rng.choice(_WHISPERING[split])
    else:
        gender = rng.choice(("female", "male", ""))
        variant = rng.choice({"female": _FEMALE, "male": _MALE, "": _UNNAMED}[gender][split])
    old = variant in _OLD
    tract = rng.choice(_SAME_PERSON if gender or old else _ANY_PERSON)
    age = "old" if old else ""
    key = _key("espeak", variant, tract)
    return Voice("espeak-ng", f"{accent}+{variant}", key, gender, age, tract, whispers)


def _key(engine: str, name: str, tract: float) -> str:
    return f"{engine}:{name}" if tract == 1.0 else f"{engine}:{name}@{tract:g}"
