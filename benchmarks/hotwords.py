"""What the correction of hotwords by sound brings and what it harms: recall, precision, false insertions, error rates.

    python benchmarks/hotwords.py [--plain-zh FILE] [--plain-en FILE] [--pack ../shared/data] [--thresholds]
        [--show] [--speed]

The set is made here: sentences with names and terms, in which a simulated recogniser hears the names wrong. Chinese
characters become others of the same or a nearby sound that occur in common words (half of them with any tone, one in
seven with an initial or final that speakers mix up). English words are respelt by sound with a table of letters of its
own, not with the rules of the correction, and now and then fall apart into two; beside them stand misreadings written
by hand, as recognisers are known to make them. One name in four is heard right. Sentences without any hotword
(`PLAIN_*`, and files given) must stay as they are. `--pack` adds what the pocket model really says of wake words.
"""

import argparse
import json
import random
import resource
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from hotwords_set import BY_HAND, FRAMES_EN, FRAMES_ZH, GIVEN, PLAIN_EN, PLAIN_ZH, SURNAMES, TERMS_EN, TERMS_ZH

import zhiyin
from zhiyin.text import phonetics
from zhiyin.text.hotword_list import HotwordList, read
from zhiyin.text.hotword_search import THRESHOLD, common, index
from zhiyin.text.hotwords import Change, correct
from zhiyin.text.score import edits, words

SEED = 5
COPIES = 3  # of each name, in other sentences with other errors
RIGHT = 0.25  # of the names are heard right
OTHER_TONE, NEAR_SOUND = 0.5, 0.15

SPELLINGS = (
    ("ph", "f"), ("f", "ph"), ("ck", "k"), ("c", "k"), ("k", "c"), ("qu", "kw"), ("x", "ks"), ("z", "s"),
    ("s", "z"), ("s", "ss"), ("y", "i"), ("i", "y"), ("i", "ee"), ("e", "i"), ("a", "e"), ("a", "o"), ("o", "a"),
    ("u", "oo"), ("oo", "u"), ("er", "a"), ("er", "or"), ("or", "er"), ("ow", "ou"), ("ai", "ay"), ("ei", "ay"),
    ("ll", "l"), ("l", "ll"), ("tt", "t"), ("t", "tt"), ("n", "m"), ("d", "t"), ("b", "p"), ("g", "k"), ("v", "f"),
    ("w", "v"), ("j", "g"), ("h", ""), ("th", "t"), ("sch", "sh"), ("rr", "r"), ("e", ""),
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A sentence: what was said, what was recognised, and the hotword in it (empty for plain sentences)."""

    said: str
    heard: str
    name: str = ""
    group: str = "plain"


class Ear:
    """A recogniser that writes what it has often read."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.usual = sorted({char for word in common("zh") for char in word if phonetics.readings(char)})
        self.same, self.near = defaultdict(list), defaultdict(list)
        for char in self.usual:
            for initial, final, tone in phonetics.readings(char)[:1]:
                self.same[initial, final, tone].append(char)
                self.near[initial, final].append(char)

    def zh(self, name: str) -> str:
        """Homophones and near sounds."""
        return "".join(self._char(char) for char in name)

    def _char(self, char: str) -> str:
        initial, final, tone = phonetics.readings(char)[0]
        if self.rng.random() < NEAR_SOUND:
            initial = self.rng.choice([initial, *[b for a, b in NEAR_INITIALS if a == initial]])
            final = self.rng.choice([final, *[b for a, b in NEAR_FINALS if a == final]])
            return self.rng.choice(self.near[initial, final] or [char])
        if self.rng.random() < OTHER_TONE:
            return self.rng.choice(self.near[initial, final] or [char])
        return self.rng.choice(self.same[initial, final, tone] or [char])

    def en(self, name: str) -> str:
        """Respelt by sound at one to three places, one in three in two words."""
        name = name.lower()
        for _ in range(self.rng.randint(1, 3)):
            fits = [(a, b) for a, b in SPELLINGS if a in name]
            a, b = self.rng.choice(fits)
            places = [i for i in range(len(name)) if name.startswith(a, i)]
            at = self.rng.choice(places)
            name = name[:at] + b + name[at + len(a) :]
        if self.rng.random() < 0.33 and len(name) > 5:
            at = self.rng.randint(2, len(name) - 2)
            name = name[:at] + " " + name[at:]
        return name


_PAIRS_I = (("zh", "z"), ("ch", "c"), ("sh", "s"), ("n", "l"), ("f", "h"))
_PAIRS_F = (("in", "ing"), ("en", "eng"), ("an", "ang"))
NEAR_INITIALS = (*_PAIRS_I, *((b, a) for a, b in _PAIRS_I))
NEAR_FINALS = (*_PAIRS_F, *((b, a) for a, b in _PAIRS_F))


def person(rng: random.Random) -> str:
    """A Chinese name of two or three characters."""
    return rng.choice(SURNAMES) + "".join(rng.sample(GIVEN, rng.choice((1, 2, 2))))


def foreign(rng: random.Random) -> str:
    """A name in letters that nobody has."""
    parts = ["".join((rng.choice("bdfghjklmnprstvwz"), rng.choice("aeiou"), rng.choice(["", "", "n", "r", "l", "s"])))]
    parts += [
        rng.choice("bdgklmnrstv") + rng.choice("aeiou") + rng.choice(["", "n", "x"]) for _ in range(rng.randint(1, 2))
    ]
    return "".join(parts).capitalize()


def cases(plain_zh: list[str], plain_en: list[str]) -> tuple[list[Case], list[str]]:
    """The set, and its hotwords."""
    rng = random.Random(SEED)
    ear = Ear(rng)
    zh = list(dict.fromkeys([*TERMS_ZH, *(person(rng) for _ in range(60))]))
    made = []
    for name in zh:
        for frame in rng.sample(FRAMES_ZH, COPIES):
            heard = name if rng.random() < RIGHT else ear.zh(name)
            made.append(Case(frame.format(name), frame.format(heard), name, "zh"))
    for name in TERMS_EN:
        for frame in rng.sample(FRAMES_EN, COPIES):
            heard = name if rng.random() < RIGHT else ear.en(name)
            made.append(Case(frame.format(name), frame.format(heard), name, "en, respelt"))
    for pair in BY_HAND:
        heard, _, name = pair.partition("=")
        frame = rng.choice(FRAMES_EN)
        made.append(Case(frame.format(name), frame.format(heard), name, "en, by hand"))
    made += [Case(text, text, group="plain zh") for text in plain_zh]
    made += [Case(text, text, group="plain en") for text in plain_en]
    return made, [*zh, *TERMS_EN]


def distractors(number: int, taken: set[str]) -> list[str]:
    """Half Chinese names, half names in letters; none of the set's own."""
    rng = random.Random(SEED + 1)
    found: dict[str, None] = {}
    while len(found) < number:
        name = person(rng) if len(found) % 2 else foreign(rng)
        if name not in taken and name.lower() not in common("en") and name not in common("zh"):
            found[name] = None
    return list(found)


@dataclass
class Tally:
    """Counts of one group."""

    names: int = 0
    before: int = 0
    after: int = 0
    changes: int = 0
    good: int = 0
    units: int = 0
    wrong_before: int = 0
    wrong_after: int = 0

    def row(self) -> str:
        """Cells of a Markdown row."""
        share = lambda part, whole: f"{100 * part / whole:.1f}" if whole else "-"  # noqa: E731
        cells = [
            str(self.names), share(self.before, self.names), share(self.after, self.names), str(self.changes),
            share(self.good, self.changes), str(self.changes - self.good),
            f"{100 * self.wrong_before / self.units:.2f}", f"{100 * self.wrong_after / self.units:.2f}",
        ]  # fmt: skip
        return " | ".join(cells)


def _respelt(change: Change) -> bool:
    """Capitals or spaces of a hotword that was there are no false insertion."""
    return phonetics.letters(change.old) == phonetics.letters(change.new)


def measure(made: list[Case], hotwords: HotwordList, threshold: float) -> dict[str, Tally]:
    """Correct every sentence and count, by group."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    for case in made:
        done = correct(case.heard, hotwords, threshold=threshold)
        reference = words(case.said)
        for tally in (tallies[case.group], tallies["all"]):
            tally.names += bool(case.name)
            tally.before += bool(case.name) and case.name in case.heard
            tally.after += bool(case.name) and case.name in done.text
            tally.changes += len(done.changes)
            tally.good += sum(change.new == case.name or _respelt(change) for change in done.changes)
            tally.units += len(reference)
            tally.wrong_before += edits(reference, words(case.heard))
            tally.wrong_after += edits(reference, words(done.text))
    return tallies


def pocket_cases(pack: Path) -> list[Case]:
    """What the pocket model says of wake words and of sentences; a wake word is the name that was said."""
    engine = zhiyin.load()
    made = []
    for split in ("dev", "test"):
        for line in (pack / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record["source"] in ("pico_ww", "dsp20", "grid"):
                heard = engine.understand(pack / record["audio"]).text
                is_name = record["source"] == "pico_ww"
                group = f"pocket, {record['source']}"
                made.append(Case(record["text"], heard, record["text"] if is_name else "", group))
    return made


def table(made: list[Case], own: list[str], threshold: float) -> None:
    """Print the figures for 0, 100 and 1,000 distractors."""
    for number in (0, 100, 1000):
        hotwords = read([*own, *distractors(number, set(own))])
        for group, tally in measure(made, hotwords, threshold).items():
            print(f"| {number} | {group} | {tally.row()} |")


def speed() -> None:
    """Processor time of the first Chinese hotword, the index and texts; peak memory of the whole process."""
    began_s = time.process_time()
    correct("之音 alexa", read(["知音", "Alexa"]))
    print(f"readings and lists of words: {time.process_time() - began_s:.2f} s, {_peak_mb()} MB\n")
    print(
        "| hotwords | index s | 10,000 characters zh s | en s | one sentence ms | peak MB |\n|--:|--:|--:|--:|--:|--:|"
    )
    texts = [(" ".join(plain) * 40)[:10_000] for plain in (PLAIN_ZH, PLAIN_EN)]
    for number in (1000, 10_000, 100_000):
        hotwords = read(distractors(number, set()))
        marks_s = [time.process_time()]
        index(hotwords)
        marks_s.append(time.process_time())
        for text in (*texts, PLAIN_EN[0]):
            correct(text, hotwords)
            marks_s.append(time.process_time())
        took_s = [after - before for before, after in pairwise(marks_s)]
        cells = " | ".join(f"{seconds:.2f}" for seconds in took_s[:3])
        print(f"| {number} | {cells} | {1000 * took_s[3]:.1f} | {_peak_mb()} |", flush=True)


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plain-zh", type=Path, help="more Chinese sentences without hotwords, one per line")
    parser.add_argument("--plain-en", type=Path, help="more English sentences without hotwords, one per line")
    parser.add_argument("--pack", type=Path, help="the speech pack: adds what the pocket model says")
    parser.add_argument("--thresholds", action="store_true", help="try several thresholds, with 1,000 distractors")
    parser.add_argument("--show", action="store_true", help="print every false insertion and every miss")
    parser.add_argument("--speed", action="store_true", help="only the time and memory of long lists")
    given = parser.parse_args()
    if given.speed:
        speed()
        return
    zh = PLAIN_ZH + (given.plain_zh.read_text(encoding="utf-8").splitlines() if given.plain_zh else [])
    en = PLAIN_EN + (given.plain_en.read_text(encoding="utf-8").splitlines() if given.plain_en else [])
    made, own = cases(zh, en)
    head = "names | recall before % | after % | changes | precision % | false | error rate before % | after %"
    print(f"| distractors | group | {head} |\n|--:|---|{'--:|' * 8}")
    table(made, own, THRESHOLD)
    if given.pack:
        heard = pocket_cases(given.pack)
        table(heard, sorted({case.name for case in heard if case.name}), THRESHOLD)
    if given.thresholds:
        print(f"\n| threshold | group | {head} |\n|--:|---|{'--:|' * 8}")
        hotwords = read([*own, *distractors(1000, set(own))])
        for threshold in (0.75, 0.8, 0.82, 0.85, 0.88, 0.9, 0.95):
            for group, tally in measure(made, hotwords, threshold).items():
                if not group.startswith("plain"):
                    print(f"| {threshold} | {group} | {tally.row()} |")
    if given.show:
        hotwords = read([*own, *distractors(1000, set(own))])
        for case in made:
            done = correct(case.heard, hotwords)
            false = [
                f"{change.old} => {change.new} ({change.score})" for change in done.changes if change.new != case.name
            ]
            if false or (case.name and case.name not in done.text):
                print("FALSE" if false else "MISS", case.group, "|", case.name, "|", case.heard, "|", *false)


if __name__ == "__main__":
    main()
