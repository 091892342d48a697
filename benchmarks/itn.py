"""Written form (ITN): how many cases are right, how fast it is, and, where wetext is installed, the same of wetext.

    python benchmarks/itn.py [--cases tests/text]

wetext is no dependency: its 51 MB would not fit the base install. To compare: `pip install wetext`.
"""

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path

from zhiyin.text import itn

CASES = Path(__file__).parents[1] / "tests" / "text"
CHARACTERS = 1_000_000


def cases(path: Path) -> list[tuple[str, str]]:
    """Spoken and written text of each line; a line with one column must stay."""
    lines = path.read_text(encoding="utf-8").splitlines()
    columns = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return [(column[0], column[-1]) for column in columns]


def probes(path: Path, write: Callable[[str], str]) -> str:
    """How many of the probe cases come out as one of the readings that mean the same, and which do not."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    wrong = [f"{spoken} -> {write(spoken)}" for _, _, spoken, fits in rows if write(spoken) not in fits.split("|")]
    return "; ".join([f"{len(rows) - len(wrong)}/{len(rows)}", *wrong])


def right(found: list[tuple[str, str]], write: Callable[[str], str]) -> str:
    """Of the cases that change and of those that must stay, how many come out as they should."""
    change = [(spoken, written) for spoken, written in found if spoken != written]
    stay = [(spoken, written) for spoken, written in found if spoken == written]
    counts = [sum(write(spoken) == written for spoken, written in part) for part in (change, stay)]
    return f"changed {counts[0]}/{len(change)}, kept {counts[1]}/{len(stay)}"


def speed(found: list[tuple[str, str]], write: Callable[[str], str], characters: int) -> str:
    """Characters a second on the cases, one after the other; the first pass is not counted."""
    texts = [spoken for spoken, _ in found]
    size = sum(map(len, texts))
    for text in texts:
        write(text)
    rounds = max(1, characters // size)
    began_s = time.process_time()
    for _ in range(rounds):
        for text in texts:
            write(text)
    return f"{rounds * size / (time.process_time() - began_s):,.0f} characters/s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=Path, default=CASES, help="folder with itn_zh.tsv, itn_en.tsv, itn_probes.tsv")
    folder = parser.parse_args().cases
    zh, en = cases(folder / "itn_zh.tsv"), cases(folder / "itn_en.tsv")

    def ours(text: str) -> str:
        return itn.write(text).text

    print(f"probe cases: {probes(folder / 'itn_probes.tsv', ours)}")
    for name, found in (("zh", zh), ("en", en)):
        print(f"{name}: {right(found, ours)}; {speed(found, ours, CHARACTERS)}")
        joined = ("，" if name == "zh" else ", ").join(spoken for spoken, _ in found)
        long = joined * (CHARACTERS // len(joined))
        began_s = time.process_time()
        ours(long)
        print(f"{name}: one text of {len(long):,}: {len(long) / (time.process_time() - began_s):,.0f} characters/s")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    try:
        from wetext import Normalizer
    except ImportError:
        print("wetext is not installed: not compared")
        return
    normalizer = Normalizer(lang="zh", operator="itn")
    print(f"wetext zh: {right(zh, normalizer.normalize)}; {speed(zh, normalizer.normalize, CHARACTERS // 50)}")


if __name__ == "__main__":
    main()
