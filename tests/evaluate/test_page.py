"""The command's tables, figures and page: whole, safe, comparing, asking nothing of the network."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from zhiyin.cli import app
from zhiyin.data import manifest
from zhiyin.evaluate import html, report, summary, worst
from zhiyin.evaluate.measures import Options

VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Checks that tags close in order; keeps what is referred to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.count: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Results of all tasks, some wrong, with sounds: one short, one long, one a part, one lost."""
    soundfile.write(tmp_path / "short.wav", np.zeros(1600), 16000)
    soundfile.write(tmp_path / "long & loud.wav", np.random.default_rng(0).random(16000 * 25), 16000)
    rows: list[dict[str, Any]] = []
    labels = ("happy", "sad", "<b>")
    for at in range(24):
        truth = {
            "text": "one two three",
            "labels": {"ser": labels[at % 3]},
            "words": [],
            "answer": "",
            "translation": "",
        }
        heard = {**truth, "text": "one two <i>" if at % 4 == 0 else "one two three", "unparsed": []}
        heard["labels"] = {} if at == 5 else {"ser": labels[at * at % 3]}
        audio = ("short.wav", "long & loud.wav", "long & loud.wav", "lost.wav")[at // 4 % 4]
        place = {"audio": str(tmp_path / audio), "start_s": 0.5 if at // 4 % 4 == 2 else 0.0, "end_s": None}
        place["end_s"] = 1.0 if at // 4 % 4 == 2 else None
        about = {"source": "a" if at < 12 else "b", "language": "en", "age_group": "", "speaker": f"s{at}"}
        row = {"id": f"r{at}", "tasks": ["asr", "ser"], "duration_s": 1.0 + at, **place, "reference": truth}
        rows.append({**row, "slice": about, "hypothesis": heard})
    rows[7].pop("hypothesis")
    manifest.write_lines(tmp_path / "results.jsonl", map(json.dumps, rows))
    better = [{**row, "hypothesis": {**row["reference"], "unparsed": []}} for row in rows]
    manifest.write_lines(tmp_path / "better.jsonl", map(json.dumps, better))
    return tmp_path


def test_the_page_is_whole_and_asks_nothing_of_the_network(run: Path) -> None:
    out = run / "out"
    done = CliRunner().invoke(app, ["score", str(run), "--out", str(out), "--resamples", "100"])
    assert done.exit_code == 0, done.output
    page = (out / "report.html").read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    assert reader.count["svg"] >= 4 and reader.count["audio"] >= 5
    code = re.sub(r"base64,[\w+/=]+", "", page)
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<script|<link", code)
    kinds = {source.partition(",")[0] for source in reader.sources if source.startswith("data:")}
    assert kinds == {"data:audio/wav;base64", "data:audio/flac;base64"}
    linked = {source for source in reader.sources if not source.startswith("data:")}
    assert linked == {"../long%20%26%20loud.wav"}
    assert "no audio file" in page
    assert "&lt;b&gt;" in page and "<b>sad" not in page and "<i>" not in page
    assert "(worst 20 of 24)" in page
    assert not any("judge" in path.name for path in out.iterdir())


def test_figures_as_json_and_the_other_run(run: Path) -> None:
    command = ["score", str(run), "--against", str(run / "better.jsonl"), "--json", "--resamples", "200"]
    found = json.loads(CliRunner().invoke(app, command).output)
    figures = {(one["task"], one["name"]): one for one in found["figures"]}
    mer = figures["asr", "MER"]
    assert mer["value"] == pytest.approx((6 + 3) / 72)
    assert mer["other"] == 0 and mer["difference"] == pytest.approx(mer["value"])
    low, high = mer["difference_interval"]
    assert 0 < low < mer["difference"] < high and mer["p"] < 0.05
    (table,) = found["confusions"]
    assert table["truth"] == ["<b>", "happy", "sad"] and table["given"][-1] == "(none)"
    assert sum(map(sum, table["counts"])) == 24
    assert found["facts"]["missing hypotheses"] == 1
    worse = CliRunner().invoke(app, command[:4]).output
    assert "| asr | MER | +12.5 % |" in worse and "| worse |" in worse
    turned = ["score", str(run / "better.jsonl"), "--against", str(run)]
    assert "| better |" in CliRunner().invoke(app, turned).output


def test_runs_over_other_records_are_compared_over_what_both_have(run: Path) -> None:
    rows = manifest.read_growing(run / "results.jsonl")
    found = summary.summarize(rows, Options(), against=rows[:10], resamples=100)
    assert any(
        "compared over 20 pairs of record and task that both runs have; 28 are in one only" in note
        for note in found.notes
    )
    assert all(one.difference and one.difference.value == 0 for one in found.scored)


def test_what_a_missing_library_leaves_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = {"text": "皇后的發現", "labels": {}, "words": [], "answer": "", "translation": "the find"}
    row = {"id": "a", "tasks": ["asr", "ast"], "reference": truth, "slice": {}}
    row["hypothesis"] = {**truth, "text": "皇后的发现", "unparsed": []}
    for name in ("text.normalize.can_simplify", "evaluate.translation.can_bleu"):
        monkeypatch.setattr(f"zhiyin.{name}", lambda: False)
    found = summary.summarize([row], Options(), resamples=100)
    figures = {one.measure.name: one.measure.figure for one in found.scored}
    assert figures["MER"] == pytest.approx(2 / 5) and figures["chrF"] == pytest.approx(1.0)
    assert not any(name.startswith("BLEU") for name in figures)
    assert any("no BLEU" in note for note in found.notes) and any("traditional" in note for note in found.notes)


def test_both_runs_are_held_to_the_truth_of_the_first(run: Path) -> None:
    rows = manifest.read_growing(run / "results.jsonl")
    other = [{**row, "reference": {**row["reference"], "text": "something else"}} for row in rows]
    found = summary.summarize(rows, Options(), against=other, resamples=100)
    assert {one.difference.value for one in found.scored if one.difference} == {0.0}


def test_titles_are_escaped(run: Path) -> None:
    found = summary.summarize(manifest.read_growing(run / "results.jsonl"), Options(), resamples=100)
    assert "<script>" not in html.page(found, run, "<script>alert(1)</script>")


def test_runs_that_combine_tasks_differently_are_compared(run: Path) -> None:
    rows = manifest.read_growing(run / "results.jsonl")
    apart = [{**row, "tasks": [task]} for row in rows for task in row["tasks"]]
    found = summary.summarize(rows, Options(), against=apart, resamples=100)
    assert not any("compared" in note and "only" in note for note in found.notes)
    assert {one.difference.value for one in found.scored if one.difference} == {0.0}


def test_the_tables_of_slices(run: Path) -> None:
    output = CliRunner().invoke(app, ["score", str(run), "--slices", "--task", "ser"]).output
    assert "| ser accuracy by |" in output and "| source | a |" in output and "MER" not in output


def test_all_figures_of_requests_are_cut_by_their_language(run: Path) -> None:
    rows = manifest.read_growing(run / "results.jsonl")
    asked = [
        {**row, "instruction": {"text": "?", "language": language}}
        for row, language in zip(rows, ["en", "zh", "zh"] * 8, strict=True)
    ]
    for row in asked:
        row["hypothesis"] = {**row.get("hypothesis", {}), "tasks": row["tasks"] if row["id"] != "r1" else []}
    found = summary.summarize(asked, Options(), resamples=100)
    tags = next(one for one in found.scored if (one.measure.task, one.measure.name) == ("instructions", "tags"))
    assert [(part.key, part.value, part.count) for part in tags.slices] == [
        ("asked in", "en", 8),
        ("asked in", "zh", 16),
    ]
    assert [part.figure for part in tags.slices] == [1.0, 15 / 16]
    page = html.page(found, run, "x")
    assert "tags by asked in" in page and "worst by tags" not in page and "worst by followed" in page


def test_the_worst_come_first(run: Path) -> None:
    rows = manifest.read_growing(run / "results.jsonl")
    found = summary.summarize(rows, Options(), resamples=100)
    mixed = next(one.measure for one in found.scored if one.measure.name == "MER")
    cases = worst.worst(mixed, Options())
    assert [case.row["id"] for case in cases] == ["r7", "r0", "r12", "r16", "r20", "r4", "r8"]
    assert cases[0].cost == "3 of 3" and "no hypothesis" in cases[0].heard
    assert report.number(mixed, float("nan")) == "-"
