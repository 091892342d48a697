"""Every pair that a reference scorer gets wrong, scored right: `golden/scoring.json`."""

import importlib.util
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from zhiyin.cli import app
from zhiyin.evaluate import files
from zhiyin.evaluate.measures import Options, measures

needs_opencc = pytest.mark.skipif(importlib.util.find_spec("opencc") is None, reason="needs the extra eval")
# key -> errors and units of the transcript, read off `careful_scorer` (d09 and d12 by the rules of docs/evaluation.md)
EXPECTED = {
    "d01": (0, 6), "d02": (1, 6), "d03": (1, 6), "d04": (1, 6), "d05": (0, 4), "d06": (0, 6), "d07": (0, 2),
    "d08": (0, 5), "d09": (0, 4), "d10": (0, 7), "d11": (0, 5), "d12": (0, 7), "d13": (0, 4), "d14": (0, 4),
    "d15": (0, 4), "d16": (0, 2), "d17": (6, 6), "d18": (0, 5), "d19": (0, 2), "d20": (0, 4),
}  # fmt: skip


@pytest.fixture
def pair(shared: Path, tmp_path: Path) -> tuple[Path, Path]:
    """All pairs as two Kaldi texts, with the unmatched keys and the keys that begin with Chinese characters."""
    data = json.loads((shared / "golden" / "scoring.json").read_text(encoding="utf-8"))
    rows = [*data["pairs"], *data["cjk_keys"]["rows"]]
    unmatched = data["with_unmatched_keys"]
    said = [(row["key"], row["ref"]) for row in rows] + [(r["key"], r["text"]) for r in unmatched["ref_only"]]
    heard = [(row["key"], row["hyp"]) for row in rows] + [(r["key"], r["text"]) for r in unmatched["hyp_only"]]
    for name, lines in (("ref", said), ("hyp", heard)):
        (tmp_path / name).write_text("".join(f"{key}\t{text}\n" for key, text in lines), encoding="utf-8")
    return tmp_path / "hyp", tmp_path / "ref"


@needs_opencc
def test_every_pair_is_scored_right(pair: tuple[Path, Path]) -> None:
    paired = files.load(*pair)
    mixed = next(m for m in measures(paired.rows, Options()) if (m.task, m.name) == ("asr", "MER"))
    found = {row["id"]: tuple(stats[:2].astype(int)) for row, stats in zip(mixed.rows, mixed.stats_NK, strict=True)}
    timed = next(m for m in measures(paired.rows, Options()) if (m.task, m.name) == ("srwt", "MER"))
    found |= {row["id"]: tuple(stats[:2].astype(int)) for row, stats in zip(timed.rows, timed.stats_NK, strict=True)}
    assert {key: found[key] for key in EXPECTED} == EXPECTED
    assert found["d98"] == (7, 7)  # no hypothesis: every character is lost
    assert paired.extra == ("d99",)  # no truth: told, not scored
    assert found["测试a"] == (0, 2)
    assert found["测试b"] == (1, 2)


@needs_opencc
def test_what_the_marks_say_is_scored(pair: tuple[Path, Path]) -> None:
    rows = {row["id"]: row for row in files.load(*pair).rows}
    hyp = {key: row["hypothesis"] for key, row in rows.items() if "hypothesis" in row}
    assert rows["d13"]["reference"]["labels"] == hyp["d13"]["labels"] == {"ser": "anger"}
    assert hyp["d14"]["labels"] == {"ser": "happy"}
    assert (rows["d15"]["reference"]["labels"], hyp["d15"]["labels"]) == (
        {"sap": "child", "sgc": "male"},
        {"sap": "child", "sgc": "female"},
    )
    assert rows["d20"]["reference"]["answer"] == "现在三点"
    assert hyp["d20"]["answer"] == "现在四点"
    named = {(m.task, m.name): m for m in measures(list(rows.values()), Options())}
    assert named["ser", "accuracy"].figure == 0.5
    assert named["sap", "accuracy"].figure == 1.0
    assert named["sgc", "accuracy"].figure == 0.0
    assert named["sttc", "normalised match"].figure == 0.0
    # d16: ends 0.3 and 0.55 became 0.9 and 1.2, and the second word begins at 0.9 instead of 0.3
    assert named["srwt", "AAS"].figure == pytest.approx((0 + 600 + 600 + 650) / 4)
    assert named["srwt", "within 50 ms"].figure == 0.25


def test_the_command_tells_what_is_missing_and_extra(pair: tuple[Path, Path]) -> None:
    done = CliRunner().invoke(app, ["score", *map(str, pair), "--resamples", "100"])
    assert done.exit_code == 0, done.output
    assert "missing hypotheses: 1, extra hypotheses, not scored: 1" in done.output
    assert "hypotheses without a reference: d99" in done.output
    assert "| asr | MER |" in done.output
