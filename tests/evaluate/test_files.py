"""Every kind of file gives the same rows; what is wrong is named with file and line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from zhiyin.cli import app
from zhiyin.data.manifest import Record
from zhiyin.errors import UserError
from zhiyin.evaluate import files, judge, slices

SAID = {"a": "turn left", "b": "向左转", "c": "nothing"}


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def text(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def variants(folder: Path) -> list[Path]:
    manifest = [
        {"id": key, "audio": f"{key}.wav", "duration_s": 1.0, "tasks": ["asr"], "text": said, "speaker": "me"}
        for key, said in SAID.items()
    ]
    return [
        lines(folder / "manifest.jsonl", manifest),
        lines(folder / "plain.jsonl", [{"id": key, "text": said} for key, said in SAID.items()]),
        lines(folder / "other.jsonl", [{"key": key, "pred_text": said} for key, said in SAID.items()]),
        text(folder / "kaldi", "".join(f"{key} {said}\n" for key, said in SAID.items())),
        text(folder / "tabs", "\ufeff" + "".join(f"{key}\t{said}\r\n" for key, said in SAID.items())),
        text(folder / "table.tsv", "id\tlanguage\ttext\n" + "".join(f"{k}\ten\t{said}\n" for k, said in SAID.items())),
    ]


def test_all_formats_say_the_same(tmp_path: Path) -> None:
    paths = variants(tmp_path)
    for path in paths:
        assert {entry.id: entry.said["text"] for entry in files.entries(path)} == SAID, path.name
    for reference in paths:
        for hypothesis in paths:
            rows = files.load(hypothesis, reference).rows
            assert [(row["reference"]["text"], row["hypothesis"]["text"]) for row in rows] == [
                (said, said) for said in SAID.values()
            ]
            assert all(row["tasks"] == ["asr"] for row in rows)


def test_labels_come_by_the_name_of_the_field_or_the_task(tmp_path: Path) -> None:
    reference = lines(tmp_path / "ref", [{"id": "a", "emotion": "happy"}, {"id": "b", "labels": {"ser": "calm"}}])
    tagged = text(tmp_path / "hyp", "a <HAPPY>\nb calm\n")
    fields = lines(tmp_path / "hyp.jsonl", [{"id": "a", "ser": "happy"}, {"id": "b", "emotion": "calm"}])
    for hypothesis in (tagged, fields):
        rows = files.load(hypothesis, reference).rows
        assert [row["hypothesis"]["labels"] for row in rows] == [{"ser": "happy"}, {"ser": "calm"}]
        assert all(row["tasks"] == ["ser"] for row in rows)


def test_a_bare_text_is_the_one_thing_that_was_asked(tmp_path: Path) -> None:
    reference = lines(tmp_path / "ref", [{"id": "a", "translation": "turn left"}])
    hypothesis = text(tmp_path / "hyp", "a turn right\n")
    (row,) = files.load(hypothesis, reference).rows
    assert (row["tasks"], row["hypothesis"]["translation"], row["hypothesis"]["text"]) == (["ast"], "turn right", "")


def result(key: str, *tasks: str, heard: str = "turn left") -> dict[str, Any]:
    truth = {"text": "turn left", "labels": {}, "words": [], "answer": "", "translation": ""}
    hypothesis = {**truth, "text": heard, "unparsed": []}
    about = {"source": "s", "language": "en", "age_group": ""}
    return {"id": key, "tasks": tasks, "reference": truth, "slice": about, "hypothesis": hypothesis}


def test_results_of_eval_stand_alone_or_meet_another_truth(tmp_path: Path) -> None:
    results = lines(tmp_path / "results.jsonl", [result("a", "asr"), result("b", "asr"), result("z", "asr")])
    assert len(files.load(results, None).rows) == len(files.load(tmp_path, None).rows) == 3
    reference = lines(tmp_path / "ref.jsonl", [{"id": key, "text": said} for key, said in SAID.items()])
    paired = files.load(results, reference)
    assert {row["id"]: "hypothesis" in row for row in paired.rows} == {"a": True, "b": True, "c": False}
    assert [row["reference"]["text"] for row in paired.rows] == list(SAID.values())
    assert paired.extra == ("z",)


def test_a_task_that_is_missing_of_one_record_only(tmp_path: Path) -> None:
    results = lines(tmp_path / "results.jsonl", [result("a", "asr"), result("a", "sgc"), result("b", "asr")])
    reference = [{"id": "a", "text": "x", "gender": "male"}, {"id": "b", "text": "x", "gender": "male", "age": "old"}]
    rows = files.load(results, lines(tmp_path / "ref.jsonl", reference)).rows
    assert [(row["id"], list(row["tasks"])) for row in rows if "hypothesis" not in row] == [("b", ["sgc"])]


BAD = [
    ("a one\na two\n", "line 2: id 'a' was already in line 1"),
    (
        '{"id": "a", "text": "x"}\n{"id": "b", "emotoin": "x"}\n',
        "line 2: unknown field 'emotoin' (did you mean 'emotion'?)",
    ),
    ('{"id": "a", "text": "x"}\n{"text": "x"}\n', "line 2: no id"),
    ('{"id": "a", "text": "x"}\n{"id": \n', "line 2: not JSON"),
    ('{"id": "a", "text": 5}\n', "line 1: field 'text' must be text"),
    ("id\ttext\na\tb\tc\n", "line 2: 3 columns, the first line names 2"),
    ("", "holds no line"),
]


@pytest.mark.parametrize(("content", "said"), BAD)
def test_faults_are_named_with_their_line(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        files.entries(text(tmp_path / "file", content))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_what_cannot_be_scored_is_refused(tmp_path: Path) -> None:
    hypothesis = text(tmp_path / "hyp", "a one\n")
    for arguments, said in (
        ([str(tmp_path / "none")], "no such file"),
        ([str(hypothesis)], "no truth of its own"),
        ([str(hypothesis), str(hypothesis), "--task", "sgc"], "task sgc has no label there"),
        ([str(hypothesis), str(hypothesis), "--task", "srr"], "did you mean 'ssr'"),
    ):
        done = CliRunner().invoke(app, ["score", *arguments])
        assert isinstance(done.exception, UserError) and said in str(done.exception), arguments
    (tmp_path / "latin").write_bytes(b"a caf\xe9\n")
    with pytest.raises(UserError, match="not UTF-8"):
        files.entries(tmp_path / "latin")


def test_answers_go_to_a_judge_and_scores_come_back(tmp_path: Path) -> None:
    rows = files.load(
        text(tmp_path / "hyp", "a how many<answer>two\nb hello\n"),
        text(tmp_path / "ref", "a how many<answer>three\nb hello\n"),
    ).rows
    assert judge.write(tmp_path / "judge.jsonl", rows) == 1
    sent = json.loads((tmp_path / "judge.jsonl").read_text(encoding="utf-8"))
    assert sent == {"id": "a", "question": "how many", "reference": "three", "answer": "two"}
    assert judge.read(lines(tmp_path / "scores.jsonl", [{"id": "a", "score": 0.5}])) == {"a": 0.5}
    for score in (7, None, "good"):
        with pytest.raises(UserError, match="line 1: an id and a score from 0 to 1"):
            judge.read(lines(tmp_path / "scores.jsonl", [{"id": "a", "score": score}]))


def test_made_speech_says_its_grammar_and_voice() -> None:
    made = Record("more_syn_phrases_0a1b2c_0000007", Path("a.wav"), 1.0, ("ast",), source="synthetic", language="en")
    row = {"tasks": ["ast"], "reference": {"translation": "das haus", "labels": {}}}
    row |= files.about(replace(made, speaker="espeak:f3@0.97", translation="das haus"))
    found = {key: of(row) for key, of in slices.KEYS.items()}
    assert (found["source"], found["grammar"], found["speaker"]) == ("synthetic", "phrases", "espeak:f3")
    assert found["direction"] == "en>de"
    other = files.about(replace(made, source="mine", speaker="a@b"))["slice"]
    assert other["speaker"] == "a@b" and "grammar" not in other
