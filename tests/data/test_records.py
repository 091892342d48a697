"""Manifests, the speech pack, the tokenizer and the choice of requests."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.data import examples, manifest, tokenizer
from zhiyin.data.corpora import speech_pack
from zhiyin.data.examples import TaskMix
from zhiyin.data.manifest import Record
from zhiyin.errors import UserError
from zhiyin.tasks import instructions, table
from zhiyin.tasks.parse import parse
from zhiyin.tasks.render import TimedWord

RECORD = Record(
    id="a",
    audio=Path("a.flac"),
    duration_s=1.0,
    tasks=("asr", "srwt", "ser", "sgc", "ast"),
    text="seven three",
    words=(TimedWord("seven", 0.1, 0.4), TimedWord("three", 0.5, 0.9)),
    labels={"ser": "happy", "sgc": "female"},
    translation="七三",
    language="en",
    source="test",
)
LABELS = {"ser": ("happy", "sad")}


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    records = [replace(RECORD, audio=tmp_path / "audio" / "a.flac"), replace(RECORD, id="b", audio=tmp_path / "b.flac")]
    manifest.write(tmp_path / "m.jsonl", records)
    assert manifest.read(tmp_path / "m.jsonl") == records
    assert json.loads((tmp_path / "m.jsonl").read_text().splitlines()[0])["audio"] == "audio/a.flac"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{not json", "line 2: not JSON"),
        ("[1]", "line 2: an object was expected"),
        ('{"id": "x", "audio": "x", "duration_s": 1, "tasks": [], "txt": "y"}', "line 2: unknown field 'txt'"),
        ('{"id": "x"}', "line 2: field 'audio' is missing"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    manifest.write(tmp_path / "m.jsonl", [RECORD])
    with (tmp_path / "m.jsonl").open("a") as out:
        out.write(line + "\n")
    with pytest.raises(UserError, match=said):
        manifest.read(tmp_path / "m.jsonl")


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no train\.jsonl"):
        speech_pack.read(tmp_path, "train")


def test_the_speech_pack_becomes_records(shared: Path) -> None:
    records = speech_pack.read(shared / "data", "test")
    known = {task.id: task for task in table.TASKS}
    assert len(records) == 1051
    assert all(record.audio.is_file() for record in records)
    assert {task for record in records for task in record.tasks} <= set(known)
    # every fact that stands in the pack's own line comes over, in our spelling
    rows = [json.loads(line) for line in (shared / "data" / "test.jsonl").read_text().splitlines()]
    for row, record in zip(rows, records, strict=True):
        assert ("sgc" in record.labels) == ("SGC" in row["tasks"])
        assert ("srwt" in record.tasks) == ("SRWT" in row["tasks"])
        if "SER" in row["tasks"]:
            assert record.labels["ser"] == {"angry": "anger"}.get(row["emotion"], row["emotion"])
        assert ("sttc" in record.tasks) == ("INTENT" in row["tasks"]) == bool(record.instruction)
        assert record.answer == row.get("slots", {}).get("coffeeDrink", "")
    assert {r.text for r in records if r.source == "donateacry"} == {""}, "a cry holds no words"
    assert {r.labels.get("ved") for r in records if r.source == "donateacry"} == {"cry"}


def test_orders_ask_for_the_drink_in_wordings_of_their_split(shared: Path) -> None:
    for split in instructions.SPLITS:
        asked = {r.instruction for r in speech_pack.read(shared / "data", split) if r.tasks == ("sttc",)}
        ways = {one for language in instructions.LANGUAGES for one in instructions.about("drink", language, split)}
        assert asked <= ways and len(asked) >= 8
        assert {any("\u4e00" <= c <= "\u9fff" for c in one) for one in asked} == {True, False}


@given(st.integers(0, 10_000), st.sampled_from([0.0, 1.0]))
def test_every_request_made_can_be_read_back(seed: int, plain_share: float) -> None:
    mix = TaskMix(plain_share=plain_share, unfit_share=0.0)
    example = examples.make(RECORD, mix, LABELS, random.Random(seed), time_step_s=0.1)
    rows = table.with_labels(table.TASKS, LABELS)
    if plain_share:
        got = parse(example.target, None, table=rows)
    else:
        asked = [task for task in rows if task.tag in example.prompt]
        got = parse(example.target, asked)
    assert got.unparsed == ()
    assert got.tasks
    for task in got.tasks:
        if task.id in RECORD.labels:
            assert got.labels[task.id] == RECORD.labels[task.id]
    if got.words:
        assert [word.text for word in got.words] == ["seven", "three"]


def test_words_move_with_silence_in_front_and_with_speed() -> None:
    only_times = replace(RECORD, tasks=("asr", "srwt"), labels={}, translation="")
    mix = TaskMix(plain_share=0.0, extra_share=1.0)
    example = examples.make(only_times, mix, {}, random.Random(1), shift_s=0.3, speed=0.5, time_step_s=0.1)
    assert example.target == "<0.50>seven<1.10><1.30>three<2.10>"
    cut = examples.make(
        only_times, mix, {}, random.Random(1), shift_s=-0.2, time_step_s=0.1
    )  # seven is from 0.1 to 0.4
    assert cut.target == "<0.00>seven<0.20><0.30>three<0.70>"


@pytest.fixture(scope="module")
def pieces() -> tokenizer.Tokenizer:
    texts = ["seven three nine", "北京 上海", "place red by f two now", "was sind denn das für tüten"] * 3
    return tokenizer.train(texts, ["<asr>", "<happy>"], num_pieces=80, max_time_s=2.0, time_step_s=0.04)


def test_tags_labels_and_times_are_one_token_each(pieces: tokenizer.Tokenizer) -> None:
    tokens = pieces.encode("<asr><0.04>seven<0.40><happy>", add_special_tokens=False).tokens
    assert [token for token in tokens if token.startswith("<")] == ["<asr>", "<0.04>", "<0.40>", "<happy>"]
    assert pieces.token_to_id(tokenizer.BLANK) == 0


@given(st.text(st.characters(codec="utf-8", exclude_characters="<>▁", exclude_categories=("Z", "C")), max_size=30))
def test_any_text_survives_the_tokenizer(text: str) -> None:
    trained = tokenizer.train(["a b c"] * 3, [], num_pieces=20, max_time_s=0.0, time_step_s=1.0)
    assert trained.decode(trained.encode(text, add_special_tokens=False).ids).strip() == text.strip()
