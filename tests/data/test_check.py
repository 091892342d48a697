"""`zhiyin data check`: every fault is found, where it is, and nothing else; stats; the command line."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from tests.data.made import RATE_HZ, tone
from zhiyin.cli import app
from zhiyin.data import check, clip, manifest, stats
from zhiyin.data.manifest import Record
from zhiyin.errors import UserError
from zhiyin.tasks.render import TimedWord


@pytest.fixture
def good(tmp_path: Path) -> list[Record]:
    """Twenty good records of five speakers."""
    return [
        Record(
            id=f"r{i}",
            audio=tone(tmp_path / "audio" / f"{i}.wav", 0.1, i),
            duration_s=0.1,
            tasks=("asr", "ved"),
            text="好",
            labels={"ved": "cough"},
            speaker=f"s{i % 5}",
        )
        for i in range(20)
    ]


def faults(path: Path, *others: Path, **labels: tuple[str, ...]) -> list[str]:
    """What is wrong, without the folder."""
    found = check.check([path, *others], labels=labels)[1]
    return [str(fault).replace(f"{path.parent}/", "") for fault in found]


def test_good_records_have_no_faults(tmp_path: Path, good: list[Record]) -> None:
    manifest.write(tmp_path / "m.jsonl", good)
    assert faults(tmp_path / "m.jsonl") == []


def test_every_fault_is_told_with_its_line(tmp_path: Path, good: list[Record]) -> None:
    soundfile.write(tmp_path / "same.flac", soundfile.read(good[0].audio, dtype="int16")[0], RATE_HZ)
    bad = list(good)
    bad[1] = replace(good[1], labels={"ved": "couhg"})
    bad[2] = replace(good[2], audio=tmp_path / "gone.wav")
    bad[3] = replace(good[3], duration_s=0.9)
    bad[4] = replace(good[4], id="r0")
    bad[5] = replace(good[5], audio=tmp_path / "same.flac")
    bad[6] = replace(good[6], tasks=("asr", "serr"))
    bad[7] = replace(good[7], tasks=("asr", "srwt"), words=(TimedWord("好", 0.05, 0.4),))
    bad[8] = replace(good[8], text="a<b", tasks=("asr", "ser"))
    bad[9] = replace(good[9], start_s=0.02, end_s=0.09, duration_s=0.5)
    manifest.write(tmp_path / "m.jsonl", bad)
    lines = (tmp_path / "m.jsonl").read_text(encoding="utf-8").splitlines()
    lines[16] = lines[16][:-20]
    (tmp_path / "m.jsonl").write_text("\n".join(lines), encoding="utf-8")
    got = faults(tmp_path / "m.jsonl")
    for line, said in [
        (2, "event 'couhg' is not one of laugh, cough, cry"),
        (2, "(did you mean 'cough'?)"),
        (3, "there is no audio"),
        (4, "shorter than its times: 0.10 s of 0.9 s"),
        (5, "the id 'r0' is also that of m.jsonl:1"),
        (6, "'r5' has the same audio as 'r0' in m.jsonl:1"),
        (7, "task 'serr' is not known"),
        (7, "(did you mean 'ser'?)"),
        (8, "the last word ends at 0.4 s, and the record is 0.1 s long"),
        (9, "text 'a<b' holds '<' or '>'"),
        (9, "task 'ser' without its truth: no emotion"),
        (10, "do not give duration_s 0.5"),
        (17, "not JSON"),
    ]:
        assert any(one.startswith(f"m.jsonl:{line}: ") and said in one for one in got), (line, said, got)
    assert {int(one.split(":")[1]) for one in got} == {2, 3, 4, 5, 6, 7, 8, 9, 10, 17}


def test_speakers_and_audio_in_two_splits(tmp_path: Path, good: list[Record]) -> None:
    manifest.write(tmp_path / "train.jsonl", [r for r in good if r.speaker != "s4"] + [good[4]])
    manifest.write(tmp_path / "test.jsonl", [good[9], good[14], replace(good[0], id="other", speaker="new")])
    got = faults(tmp_path / "train.jsonl", tmp_path / "test.jsonl")
    assert got == [
        "test.jsonl:1: the speaker 's4' (2 records) is also in train.jsonl:17",
        "test.jsonl:3: 'other' has the same audio as 'r0' in train.jsonl:1; keep one",
    ]


def test_parts_of_one_file(tmp_path: Path) -> None:
    audio = tone(tmp_path / "long.wav", 1.0)
    records = [
        Record("a", audio, 0.4, ("asr",), "a", start_s=0.0, end_s=0.4),
        Record("b", audio, 0.4, ("asr",), "b", start_s=0.4, end_s=0.8),
        Record("c", audio, 0.4, ("asr",), "c", start_s=0.8, end_s=1.2),
        Record("d", audio, 0.4, ("asr",), "d", start_s=2.0, end_s=2.4),
        Record("e", audio, 0.4, ("asr",), "e", start_s=0.4, end_s=0.8),
    ]
    manifest.write(tmp_path / "m.jsonl", records)
    got = faults(tmp_path / "m.jsonl")
    assert len(got) == 3
    assert "shorter than its times: 0.20 s of 0.4 s" in got[0] and got[0].startswith("m.jsonl:3:")
    assert "holds no audio behind 2 s" in got[1] and "'e' has the same audio as 'b'" in got[2]


def test_a_models_own_labels_count(tmp_path: Path, good: list[Record]) -> None:
    manifest.write(tmp_path / "m.jsonl", [replace(good[0], labels={"ved": "none"})])
    assert len(faults(tmp_path / "m.jsonl")) == 1
    assert faults(tmp_path / "m.jsonl", ved=("cry", "none")) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"id": "\xff"}', "line 2: not UTF-8 (byte 9"),
        (b'{"id": "x", "audio": "x", "duration_s": NaN, "tasks": []}', "'duration_s' is nan"),
        (b'{"id": "x", "audio": "x", "duration_s": 1' + b"0" * 400 + b', "tasks": []}', "seconds were expected"),
        (b'{"id": "x", "audio": "x", "duration_s": 1, "tasks": "asr"}', "a list of task ids"),
        (b'{"id": "x", "audio": "x", "start_s": 2, "end_s": 1, "tasks": []}', "how long"),
        (b'{"id": "x", "audio": "x", "duration_s": 1, "tasks": [], "text": 7}', "'text' is 7"),
        (b'{"id": "x", "audio": "x", "duration_s": 1, "tasks": [], "emotoin": "sad"}', "did you mean 'emotion'?"),
        (b'{"id": "x", "audio": "x", "duration_s": 1, "tasks": [], "words": [{"w": "a"}]}', "text, start_s and end_s"),
        (b'{"id": "x", "audio": "x", "duration_s": 1, "tasks": [], "text": "\\ud800"}', "half a character"),
        (
            b'{"id": "x", "audio": "x", "duration_s": 1, "tasks": [], "emotion": "sad", "labels": {"ser": "happy"}}',
            "disagree",
        ),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_broken_line_hides_no_other(tmp_path: Path, good: list[Record], line: bytes, said: str) -> None:
    path = tmp_path / "m.jsonl"
    manifest.write(path, good[:2])
    first, second = path.read_bytes().splitlines()
    path.write_bytes(b"\xef\xbb\xbf" + first + b"\n" + line + b"\n\n" + second)
    got = list(manifest.lines(path))
    assert [number for number, _ in got] == [1, 2, 4]
    assert isinstance(got[0][1], Record) and isinstance(got[2][1], Record)
    with pytest.raises(UserError) as told:
        manifest.read(path)
    assert said in str(told.value) and "line 2" in str(told.value)


def test_the_fields_of_the_manual_are_written(tmp_path: Path) -> None:
    record = Record(
        "x",
        tmp_path / "a.wav",
        0.5,
        ("asr", "ser", "sap"),
        "",
        labels={"ser": "sad", "sap": "old"},
        start_s=1.0,
        end_s=1.5,
    )
    manifest.write(tmp_path / "m.jsonl", [record])
    assert json.loads((tmp_path / "m.jsonl").read_text()) == {
        "id": "x", "audio": "a.wav", "start_s": 1.0, "end_s": 1.5, "duration_s": 0.5,
        "tasks": ["asr", "ser", "sap"], "text": "", "emotion": "sad", "age": "old",
    }  # fmt: skip


def test_stats_count_hours_records_and_speakers(good: list[Record]) -> None:
    rows = {(row.group, row.name): row for row in stats.rows(good)}
    assert rows["all", ""].records == 20 and rows["all", ""].duration_s == pytest.approx(2.0)
    assert rows["event", "cough"].speakers == 5 and ("task", "asr") in rows
    assert [row.name for row in stats.rows(good) if row.group == "task"] == ["asr", "ved"]


def test_stats_are_drawn(tmp_path: Path, good: list[Record]) -> None:
    pytest.importorskip("matplotlib")
    for path in stats.plot(good, tmp_path / "plots"):
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_command_line(tmp_path: Path, good: list[Record]) -> None:
    manifest.write(tmp_path / "m.jsonl", good)
    run = CliRunner().invoke
    done = run(app, ["data", "check", str(tmp_path / "m.jsonl")])
    assert done.exit_code == 0 and "20 records, 0 faults" in done.stdout
    manifest.write(tmp_path / "bad.jsonl", [replace(good[0], labels={"ved": "couhg"})])
    done = run(app, ["data", "check", str(tmp_path / "bad.jsonl"), "--json"])
    assert done.exit_code == 1 and json.loads(done.stdout)["faults"][0]["line"] == 1
    done = run(app, ["data", "check", str(tmp_path / "bad.jsonl"), "--labels", "ved=couhg", "--no-audio"])
    assert done.exit_code == 0
    done = run(app, ["data", "split", str(tmp_path / "m.jsonl"), "--dev", "20", "--test", "20"])
    assert done.exit_code == 0 and {p.name for p in tmp_path.glob("*.jsonl")} >= {"train.jsonl", "dev.jsonl"}
    done = run(app, ["data", "export", "kaldi", str(tmp_path / "m.jsonl"), str(tmp_path / "k")])
    assert done.exit_code == 0 and "no place for ved" in done.stderr
    done = run(app, ["data", "import", "kaldi", str(tmp_path / "k"), str(tmp_path / "back")])
    assert done.exit_code == 0 and len(manifest.read(tmp_path / "back" / "all.jsonl")) == 20
    done = run(app, ["data", "shard", str(tmp_path / "m.jsonl"), str(tmp_path / "s"), "--per-shard", "8"])
    assert "20 samples in 3 shards" in done.stdout
    assert run(app, ["data", "check", str(tmp_path / "s")]).exit_code == 0
    done = run(app, ["data", "import", "kaldy", "x", "y"])
    assert isinstance(done.exception, UserError) and "did you mean 'kaldi'?" in str(done.exception)


def test_nothing_half_written_stays(tmp_path: Path, good: list[Record]) -> None:
    manifest.write(tmp_path / "m.jsonl", good)
    before = (tmp_path / "m.jsonl").read_bytes()
    with pytest.raises(UserError, match="is not Unicode"):
        manifest.write(tmp_path / "m.jsonl", [good[0], replace(good[1], audio=tmp_path / "\udcff.wav")])
    assert (tmp_path / "m.jsonl").read_bytes() == before and not list(tmp_path.glob("*.part"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="nothing was replaced"):
        manifest.write(tmp_path / "file" / "m.jsonl", good)


def test_parts_are_cut_where_blocks_meet(tmp_path: Path) -> None:
    """A file is decoded in blocks of 30 s; spans that cross them, lie in one, overlap or run over the end."""
    audio = tone(tmp_path / "long.wav", 65.0)
    whole, _ = soundfile.read(audio, dtype="float32")
    spans = [(29.0, 31.0), (0.5, 0.75), (10.0, 64.0), (59.5, None), (60.0, 60.1), (64.5, 70.0), (66.0, 67.0)]
    got = dict(clip.parts(audio, spans))
    for i, (start_s, end_s) in enumerate(spans):
        want = whole[round(start_s * RATE_HZ) : None if end_s is None else round(end_s * RATE_HZ)]
        assert np.array_equal(got[i], want), spans[i]
