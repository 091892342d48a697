"""`zhiyin understand` and `zhiyin info` with models of other families: options in, refusals in one line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import zhiyin
from tests.fake_model import FakeBackend, fake_model
from tests.test_cli import Outcome, command, speech, wav
from zhiyin.tasks import families

__all__ = ["speech", "wav"]  # fixtures


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a command with a model of a family that always says one thing; what it was told comes with the outcome."""

    def run(family: str, say: str, *arguments: object) -> tuple[Outcome, dict]:
        made = fake_model(say, family=family, tasks=families.find(family).tasks)
        running = made.loaded.backend
        assert isinstance(running, FakeBackend)
        running.spec = replace(running.spec, languages=(), precision="bfloat16")
        seen: dict = {}

        def load(model=None, device="auto", backend="auto", **options) -> zhiyin.Model:
            seen.update(options, model=model)
            return made

        monkeypatch.setattr(zhiyin, "load", load)
        told = families.Family.told
        monkeypatch.setattr(
            families.Family, "told", lambda self, asked, heard="": seen.update(asked=asked) or told(self, asked, heard)
        )
        return command(capsys, *map(str, arguments)), seen

    return run


def test_a_translation(use, wav: Path) -> None:
    arguments = ("understand", wav, "--into", "de", "--language", "en", "--format", "json")
    outcome, seen = use("granite-speech", "links ab", *arguments)
    record = json.loads(outcome.out)
    assert (record["tasks"], record["translation"], record["into"]) == (["ast"], "links ab", "de")
    assert (record["family"], record["precision"], record["device"]) == ("granite-speech", "bfloat16", "cpu (test)")
    assert (seen["asked"].into, seen["asked"].language) == ("de", "en")


def test_hotwords_as_a_list_and_as_a_file(use, wav: Path, tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("\ufeffAda Lovelace\n\n 开放时间 \n", encoding="utf-8")
    bare = tmp_path / "names"
    bare.write_text("Ada Lovelace\r\n开放时间", encoding="utf-8")
    for given in ("Ada Lovelace, 开放时间", path, bare):
        _, seen = use("fun-asr-nano", "four", "understand", wav, "--hotwords", given, "--no-itn")
        assert seen["asked"].hotwords == ("Ada Lovelace", "开放时间") and seen["asked"].itn is False


def test_speakers(use, wav: Path) -> None:
    said = "[Speaker 1]: four [Speaker 2]: one"
    outcome, seen = use("granite-speech-plus", said, "understand", wav, "--speakers")
    assert outcome.out == "Speaker 1: four\nSpeaker 2: one\n" and seen["asked"].speakers


def test_a_template(use, wav: Path) -> None:
    outcome, _ = use("osum-pangu", "<asr>four", "understand", wav, "--template", "openpangu", "--format", "json")
    assert json.loads(outcome.out)["template"] == "openpangu"


def test_nothing_is_downloaded_unless_asked(use, wav: Path) -> None:
    _, seen = use("osum", "four", "understand", wav, "--model", "name")
    assert (seen["model"], seen["dtype"], seen["allow_download"]) == ("name", "auto", False)
    _, seen = use("osum", "four", "understand", wav, "--dtype", "bfloat16", "--allow-download")
    assert (seen["dtype"], seen["allow_download"]) == ("bfloat16", True)


def test_another_device_is_taken_only_if_allowed(use, wav: Path) -> None:
    _, seen = use("osum", "four", "understand", wav)
    assert seen["allow_fallback"] is False
    _, seen = use("osum", "four", "understand", wav, "--allow-fallback")
    assert seen["allow_fallback"] is True


@pytest.mark.parametrize(
    ("family", "arguments", "message"),
    [
        ("fun-asr-nano", ["--hotwords", "missing/names.txt"], "cannot read the hotword file missing/names.txt"),
        ("fun-asr-nano", ["--hotwords", "a[b"], "hotwords, entry 1: 'a[b' holds one of"),
        ("osum", ["--channels", "both"], "channels 'both' is not known; known: mix split"),
        ("osum", ["--resume"], "--resume goes on with the results in a folder; add the same --output-dir"),
        ("granite-speech", ["--task", "ser"], "model 'fake' cannot do ser; it can do: asr ast"),
        ("granite-speech", ["--speakers"], "cannot take speakers with asr"),
        ("granite-speech", ["--into", "xx"], "cannot translate into 'xx'; it can into: fr de es"),
        ("granite-speech", ["--ask", "who?"], "takes no plain language; ask for tasks: asr ast"),
        ("osum-pangu", ["--template", "x"], "has no prompt template 'x'; templates: inference training openpangu"),
    ],
)
def test_what_cannot_be_served_is_one_line(use, wav: Path, family: str, arguments: list, message: str) -> None:
    outcome, _ = use(family, "four", "understand", wav, *arguments)
    assert outcome.code == 2 and message in outcome.err and outcome.err.count("\n") == 1 and not outcome.out


def test_a_file_of_hotwords_that_is_no_text(use, wav: Path, tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(b"\xff\xfe\x00")
    outcome, _ = use("fun-asr-nano", "four", "understand", wav, "--hotwords", path)
    assert outcome.code == 2 and f"hotword file {path} is not UTF-8 (line 1)" in outcome.err


@pytest.mark.parametrize(
    ("family", "lines"),
    [
        ("zhiyin", ["asked at once: any", "options: none", "plain language: yes"]),
        (
            "granite-speech",
            [
                "family: granite-speech (Granite Speech 4.0-1b and 4.1-2b; 3.x (template granite-3))",
                "tasks: asr ast",
                "asked at once: asr ast",
                "options: language into hotwords no-itn",
                "languages: en fr de es pt ja",
                "translates: en>fr en>de en>es en>pt en>ja en>it en>zh fr>en de>en es>en pt>en ja>en",
                "plain language: no",
                "precision: bfloat16",
                "device: cpu (test)",
            ],
        ),
        ("osum-pangu", ["prompt templates: inference training openpangu", "plain language: yes"]),
    ],
)
def test_info_says_what_a_family_can_do(use, family: str, lines: list[str]) -> None:
    outcome, _ = use(family, "four", "info")
    assert [line for line in lines if line not in outcome.out.splitlines()] == []
