"""Write the word data of `zhiyin/text/data` anew from its sources.

    python scripts/make_word_data.py FOLDER

FOLDER holds `kTGHZ2013.txt` and `kMandarin.txt` (readings of the Unihan database, lines ``U+4E2D: zhōng,zhòng  # 中``
as mozillazg/pinyin-data publishes them), `dict.txt` (jieba 0.42.1, lines ``word count class``) and `english-words.10`,
`english-words.20` (SCOWL, one word per line, UTF-8).
"""

import re
import sys
import unicodedata
from collections import defaultdict
from pathlib import Path

DATA = Path(__file__).parents[1] / "zhiyin" / "text" / "data"
TONES = {"\u0304": "1", "\u0301": "2", "\u030c": "3", "\u0300": "4"}
# SCOWL's lists have no words with a capital; ours: days, months, and the commonest words for peoples and places
CAPITALS = """monday tuesday wednesday thursday friday saturday sunday january february march april may june july august
september october november december english german french spanish italian russian chinese japanese korean indian arabic
american british canadian australian european african asian latin greek dutch polish turkish iranian iraqi israeli
england germany france spain italy russia china japan korea india america britain canada australia europe africa asia
iran iraq israel london paris berlin rome moscow beijing shanghai tokyo york washington california texas internet web
christmas easter god bible christian christians muslim muslims jewish islam islamic"""
ZH_WORDS = 40_000
NAME_CLASSES = ("nr", "nrt", "nrfg")  # of people: what hotwords are. jieba's classes are rough: 高潮 is one of them,
NAME_COUNT = 80  # so that from this count on, two characters are taken for a word


def plain(reading: str) -> str:
    """`lǜ` -> `lv4`; no tone mark -> tone 5."""
    marks = unicodedata.normalize("NFD", reading)
    tone = next((TONES[mark] for mark in marks if mark in TONES), "5")
    letters = "".join(mark for mark in marks if mark not in TONES)
    return unicodedata.normalize("NFC", letters).replace("ü", "v").replace("ê", "e") + tone


def pinyin(folder: Path) -> str:
    """Lines `reading characters`. The readings of the 8,105 characters in use (kTGHZ2013) come first."""
    readings: dict[str, list[str]] = {}
    for name in ("kMandarin.txt", "kTGHZ2013.txt"):
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            found = re.match(r"U\+([0-9A-F]+): ([^\s#]+)", line)
            if found and 0x4E00 <= int(found[1], 16) <= 0x9FFF:
                readings[chr(int(found[1], 16))] = list(dict.fromkeys(map(plain, found[2].split(","))))
    lines = defaultdict(list)
    for char in sorted(readings):
        for reading in readings[char]:
            if re.fullmatch(r"[a-z]*[aeiouv][a-z]*[1-5]", reading):
                lines[reading].append(char)
    return "".join(f"{reading} {''.join(chars)}\n" for reading, chars in sorted(lines.items()))


def common_zh(folder: Path) -> str:
    """The most frequent words of two to four characters that are no names of people."""
    rows = [line.split() for line in (folder / "dict.txt").read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if re.fullmatch(r"[\u4e00-\u9fff]{2,4}", row[0])]
    kept = [row for row in rows if row[2] not in NAME_CLASSES or (len(row[0]) == 2 and int(row[1]) >= NAME_COUNT)]
    kept.sort(key=lambda row: (-int(row[1]), row[0]))
    return "".join(f"{row[0]}\n" for row in kept[:ZH_WORDS])


def common_en(folder: Path) -> str:
    """Words of the two smallest sizes of SCOWL, in lower case, without possessives."""
    names = ("english-words.10", "english-words.20")
    words = {line for name in names for line in (folder / name).read_text(encoding="utf-8").split()}
    words |= set(CAPITALS.split())
    return "".join(f"{word}\n" for word in sorted(words) if re.fullmatch(r"[a-z]+", word))


def main(folder: Path) -> None:
    """Write the three files; each begins with where it comes from."""
    sources = {
        "pinyin.txt": (pinyin, "Unicode Unihan database, kTGHZ2013 and kMandarin"),
        "common_zh.txt": (common_zh, f"the {ZH_WORDS} most frequent words of jieba's dictionary"),
        "common_en.txt": (common_en, "SCOWL, english-words sizes 10 and 20"),
    }
    for name, (make, source) in sources.items():
        (DATA / name).write_text(f"# {source}\n{make(folder)}", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
