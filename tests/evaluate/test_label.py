"""What a model adds to records: only what was not known, only what is sure."""

from pathlib import Path

import pytest
import soundfile
from typer.testing import CliRunner

from tests.fake_model import fake_model
from zhiyin.cli import app
from zhiyin.data import manifest
from zhiyin.data.manifest import Record
from zhiyin.errors import UserError
from zhiyin.evaluate.label import label


@pytest.fixture
def records(repository: Path, tmp_path: Path) -> list[Record]:
    samples, rate = soundfile.read(repository / "samples" / "digits-1.flac")
    soundfile.write(tmp_path / "a.wav", samples, rate)
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    known = Record("known", tmp_path / "a.wav", 2.0, ("asr",), text="turn left")
    unknown = Record("unknown", tmp_path / "a.wav", 2.0, ("sttc",), text=None, answer="latte")
    return [known, unknown, Record("broken", tmp_path / "broken.wav", 1.0, (), text=None)]


def test_what_is_known_stays_and_the_rest_is_heard(records: list[Record]) -> None:
    heard = label(records, fake_model("turn right").loaded, ["asr"], report=lambda record: None)
    assert [record.text for record in heard.records] == ["turn left", "turn right", None]
    assert heard.records[1].tasks == ("asr", "sttc") and heard.records[1].answer == "latte"
    assert heard.records[0] is records[0] and heard.added == 1
    assert len(heard.failed) == 1 and heard.failed[0].startswith("broken: ")


def test_labels_are_added_beside_a_transcript(records: list[Record]) -> None:
    heard = label(records[:1], fake_model("<male>").loaded, ["asr", "sgc"], report=lambda record: None)
    assert heard.records[0].text == "turn left" and heard.records[0].labels == {"sgc": "male"}


def test_what_is_not_sure_is_not_taken(records: list[Record]) -> None:
    heard = label(records[:2], fake_model("turn right").loaded, ["asr"], at_least=1.0, report=lambda record: None)
    assert heard.unsure == ("unknown",) and heard.records[1].text is None and heard.added == 0


def test_answers_cannot_be_added(records: list[Record]) -> None:
    with pytest.raises(UserError, match="sttc cannot be added"):
        label(records, fake_model("x").loaded, ["sttc"], report=lambda record: None)


def test_the_command_writes_a_manifest_and_names_what_failed(records: list[Record], tmp_path: Path) -> None:
    manifest.write(tmp_path / "in.jsonl", [*records])
    done = CliRunner().invoke(app, ["data", "label", str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")])
    assert done.exit_code == 1 and "1 with something new" in done.output and "broken: " in done.output
    assert [record.id for record in manifest.read(tmp_path / "out.jsonl")] == ["known", "unknown", "broken"]
    assert manifest.read(tmp_path / "out.jsonl")[1].text
