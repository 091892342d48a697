"""From records to rows: by tags and in plain language, parts of recordings, resuming."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from tests.fake_model import fake_model
from zhiyin.cli import app
from zhiyin.data import manifest, shards
from zhiyin.data.manifest import Record, read_growing
from zhiyin.errors import UserError
from zhiyin.evaluate import run
from zhiyin.evaluate.measures import Options, measures
from zhiyin.tasks import instructions


@pytest.fixture
def records(repository: Path, tmp_path: Path) -> list[Record]:
    spoken = [soundfile.read(repository / "samples" / f"digits-{number}.flac")[0] for number in (1, 2, 3)]
    soundfile.write(tmp_path / "a.wav", np.concatenate(spoken), 16000)
    base = Record("r0", tmp_path / "a.wav", 5.88, ("asr", "sgc"), text="turn left", labels={"sgc": "male"})
    return [replace(base, id=f"r{at}") for at in range(24)]


def rows_of(records: list[Record], reply: str, out: Path, *ask: str, **options: str) -> list[dict]:
    model = fake_model(reply).loaded
    return read_growing(run.run(records, model, out, report=lambda record: None, ask=ask, **options))


@pytest.mark.parametrize("options", [{}, {"wordings": "dev"}])
def test_requests_in_plain_language_are_those_that_training_never_uses(
    records: list[Record], tmp_path: Path, options: dict[str, str]
) -> None:
    rows = rows_of(records, "<asr><sgc>turn left<male>", tmp_path / "out", "en", "zh", **options)
    fitting = [row for row in rows if row["tasks"]]
    assert len(fitting) == 48 and 0 < len(rows) - len(fitting) < 16
    for row in rows:
        asked = row["instruction"]
        ways = {split: instructions.phrasings(row["tasks"], asked["language"], split) for split in instructions.SPLITS}
        assert [split for split in ways if asked["text"] in ways[split]] == [options.get("wordings", "test")]
    found = {measure.name: measure for measure in measures(rows, Options()) if measure.task == "instructions"}
    assert found["tags"].figure == pytest.approx(48 / len(rows))
    assert len({row["instruction"]["text"] for row in fitting}) > 10


def test_requests_by_tags_and_what_rows_say_of_the_record(records: list[Record], tmp_path: Path) -> None:
    row = rows_of(records[:1], "turn left<male>", tmp_path / "out")[0]
    assert "instruction" not in row and row["hypothesis"]["labels"] == {"sgc": "male"}
    assert Path(row["audio"]).is_absolute() and row["slice"]["gender"] == "male"


def own(base: Record, *facts: tuple[str, str, str, str]) -> list[Record]:
    """Records with a translation and an instruction for it: language spoken, translation, instruction, id."""
    return [
        replace(base, id=key, tasks=("asr", "ast"), labels={}, language=spoken, translation=said, instruction=words)
        for spoken, said, words, key in facts
    ]


FACTS = (
    ("en", "Hallo", "say it in german", "a"),
    ("en", "你好", "用汉语说", "b"),
    ("de", "hello", "in english please", "c"),
    ("zh", "hello", "英文怎么讲", "d"),
)


def test_what_a_record_asks_itself_is_asked_in_its_words(records: list[Record], tmp_path: Path) -> None:
    spoken = own(records[0], *FACTS)
    rows = rows_of(spoken, "<ast>Hallo", tmp_path / "out")
    assert [(row["id"], row["tasks"], row.get("instruction")) for row in rows] == [
        fact
        for spoken, _, words, key in FACTS
        for fact in (
            (key, ["asr"], None),
            (key, ["ast"], {"text": words, "language": "en" if words.isascii() else "zh"}),
        )
    ]
    found = {(one.task, one.name): one for one in measures(rows, Options())}
    assert found["ast", "normalised match"].figure == 1 / 4
    assert found["instructions", "followed (tags and answer)"].figure == 1 and len(found["ast", "chrF"].rows) == 4
    model = fake_model("Hallo", can_follow_instructions=False).loaded
    by_tags = read_growing(run.run(spoken, model, tmp_path / "tags", report=lambda record: None))
    assert not any("instruction" in row for row in by_tags) and [row["tasks"] for row in by_tags[:2]] == [
        ["asr"],
        ["ast"],
    ]


def test_a_request_for_a_translation_names_its_language_where_it_is_not_the_usual_one(records: list[Record]) -> None:
    wanted = {"a": "de", "b": "", "c": "", "d": ""}
    for record in own(records[0], *FACTS):
        for split in ("dev", "test"):
            asked = [one for one in run.in_plain_language(record, ("ast",), ("en", "zh"), split) if one.tasks]
            assert [(one.tasks, one.language) for one in asked] == [(("ast",), "en"), (("ast",), "zh")]
            for one in asked:
                ways = instructions.phrasings(("ast",), one.language, split, into=wanted[record.id])
                assert one.instruction in ways
                if wanted[record.id]:
                    assert "german" in one.instruction or "德" in one.instruction


def test_a_question_of_its_own_is_never_worded_otherwise(records: list[Record]) -> None:
    order = replace(records[0], id="o", tasks=("sttc",), labels={}, answer="latte", instruction="which drink?")
    asked = run.in_plain_language(order, ("asr", "sttc"), ("en", "zh"))
    assert [one for one in asked if one.tasks] == [run.Request(("sttc",), "which drink?", "en")]
    assert run.by_tags(order, ("asr",), follows=True) == [], "a task that the model does not know"
    label = replace(records[0], instruction="谁在说话？")
    assert run.by_tags(label, ("asr", "sgc", "ast"), follows=True) == [run.Request(("asr", "sgc"), "谁在说话？", "zh")]


def test_a_part_is_heard_alone(records: list[Record], tmp_path: Path) -> None:
    part = replace(records[0], start_s=0.0, end_s=1.95, duration_s=1.95)
    model = fake_model(lambda asked, number, seconds: "turn" if seconds < 2.0 else "left", ["turn", "left"]).loaded
    row = read_growing(run.run([part], model, tmp_path / "out", report=lambda record: None))[0]
    assert row["hypothesis"]["text"] == "turn"
    whole = read_growing(run.run(records[:1], model, tmp_path / "whole", report=lambda record: None))[0]
    assert "left" in whole["hypothesis"]["text"]


def test_an_interrupted_run_goes_on(records: list[Record], tmp_path: Path) -> None:
    first = rows_of(records[:3], "turn left<male>", tmp_path / "out", "en")
    again = rows_of(records, "turn left<male>", tmp_path / "out", "en")
    assert again[: len(first)] == first
    keys = [(row["id"], row["instruction"]["text"]) for row in again]
    assert len(keys) == len(set(keys))


def test_manifests_and_shards_are_evaluated(repository: Path, tmp_path: Path) -> None:
    said = {"digits-1": "one", "digits-2": "two"}
    for name, text in said.items():
        found = Record(name, repository / "samples" / f"{name}.flac", 1.9, ("asr",), text=text, source="mine")
        manifest.write(tmp_path / f"{name}.jsonl", [found, replace(found, id=f"{name}-bare", tasks=(), text=None)])
    shards.write(manifest.read(tmp_path / "digits-2.jsonl"), tmp_path / "shards")
    out = tmp_path / "out"
    command = ["eval", "--out", str(out), "--threads", "1", "--data", str(tmp_path / "digits-1.jsonl")]
    both = [*command, "--data", str(tmp_path / "shards")]
    done = CliRunner().invoke(app, both)
    assert done.exit_code == 0, done.output
    rows = read_growing(out / "results.jsonl")
    assert [row["id"] for row in rows] == ["digits-1", "digits-2"] and not any("error" in row for row in rows)
    assert all(row["hypothesis"]["text"] for row in rows), "audio of a file and of a shard"
    assert "| word error rate, mine |" in done.output
    about = json.loads((out / "about.json").read_text(encoding="utf-8"))
    assert len(about["data"]) == 2 and "split" not in about
    before = (out / "results.jsonl").read_bytes()
    assert CliRunner().invoke(app, both).exit_code == 0 and (out / "results.jsonl").read_bytes() == before
    assert CliRunner().invoke(app, command).exit_code == 0, "other data: begun anew"
    assert len(read_growing(out / "results.jsonl")) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give --data FILE.jsonl"),
        (["--data", "none.jsonl"], "none.jsonl: there is no such file"),
        (["--data", "empty.jsonl"], "no record has a truth"),
        (["--data", "one.jsonl", "--data", "one.jsonl"], "'a' is there twice"),
    ],
)
def test_what_cannot_be_evaluated_is_said(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record = Record("a", tmp_path / "a.wav", 1.0, ("asr",), text="one")
    manifest.write(tmp_path / "one.jsonl", [record])
    manifest.write(tmp_path / "empty.jsonl", [replace(record, tasks=())])
    found = CliRunner().invoke(app, ["eval", "--out", "out", *words])
    assert isinstance(found.exception, UserError) and said in str(found.exception)
    assert not (tmp_path / "out").exists()


def test_the_command_runs_scores_and_resumes(shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["eval", "--pack", str(shared / "data"), "--split", "dev", "--limit", "6", "--threads", "1"]
    done = CliRunner().invoke(app, [*command, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "| records that failed | 0.0 % |" in done.output
    names = {"about.json", "results.jsonl", "scores.json", "report.md", "figures.json", "figures.md", "report.html"}
    assert {path.name for path in out.iterdir()} == names
    assert "data:audio/ogg;base64," in (out / "report.html").read_text(encoding="utf-8")
    before = (out / "results.jsonl").read_bytes()
    assert CliRunner().invoke(app, [*command, "--out", str(out)]).output == done.output
    assert (out / "results.jsonl").read_bytes() == before
    again = CliRunner().invoke(app, ["score", str(out)])
    assert "| asr | MER |" in again.output

    asked = CliRunner().invoke(app, [*command, "--out", str(out), "--ask", "zh"])
    assert asked.exit_code == 0, asked.output
    known = {text for text, _ in instructions.expected("dev", "zh")}
    assert {row["instruction"]["text"] for row in read_growing(out / "results.jsonl")} <= known
    assert "| instructions | tags |" in (out / "figures.md").read_text(encoding="utf-8")
    wrong = CliRunner().invoke(app, [*command, "--out", str(out), "--ask", "fr"])
    assert isinstance(wrong.exception, UserError) and "fr" in str(wrong.exception)
