"""What a record is asked, and what the decoder is told before it answers or translates."""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from zhiyin.data import synth_grammar, synth_lines, tokenizer
from zhiyin.data.augment import AugmentConfig
from zhiyin.data.examples import Example, TaskMix, make, misheard, text_only, to_answer
from zhiyin.data.loader import Loader, LoaderConfig, Place
from zhiyin.data.manifest import Record
from zhiyin.data.told import Texts
from zhiyin.tasks import instructions, table

TEXT = "wo ist der hut"
GERMAN = Record("g", Path("g.flac"), 1.0, ("asr", "ast"), TEXT, translation="where is the hat", language="de")
ASKED = "say it in german"
INTO_GERMAN = replace(GERMAN, text="the hat", translation="der hut", language="en", instruction=ASKED)
QUESTION = replace(
    GERMAN, id="q", tasks=("asr", "sttc"), text="one and one", translation="", answer="two", language="en"
)
BOTH = TaskMix(plain_share=0.5, unfit_share=0.0)


def drawn(record: Record, mix: TaskMix = BOTH, heard: str = "", count: int = 200) -> list[Example]:
    return [make(record, mix, {}, random.Random(seed), heard=heard) for seed in range(count)]


@pytest.mark.parametrize(
    ("record", "tag", "mark", "said"),
    [(GERMAN, "<ast>", "<translation>", "where is the hat"), (QUESTION, "<sttc>", "<answer>", "two")],
)
def test_an_answer_is_told_what_was_heard(record: Record, tag: str, mark: str, said: str) -> None:
    text = str(record.text)
    free = [one for one in drawn(record, heard=text) if one.target != text and one.target != f"<asr>{text}"]
    by_tag = [one for one in free if one.prompt == tag]
    assert by_tag and {(one.heard, one.target) for one in by_tag} == {(f"{text}{mark}", said)}
    plain = [one for one in free if not one.prompt.startswith("<")]
    first = [one for one in plain if not one.heard]
    second = [one for one in plain if one.heard]
    assert {one.target for one in first} == {tag, f"<asr>{tag}"}, "the first pass needs only the tags"
    assert {(one.heard, one.target) for one in second} == {(f"{tag}{text}{mark}", said)}
    assert len(plain) + len(by_tag) == len(free) and 0.3 < len(first) / len(plain) < 0.7
    assert {one.transcript for one in free} == {text}


def test_what_is_not_heard_is_asked_as_ever() -> None:
    assert all(one.heard == "" for one in drawn(QUESTION))
    assert {one.target for one in drawn(QUESTION) if one.prompt == "<sttc>"} == {"two"}
    assert {one.target for one in drawn(QUESTION) if one.prompt == "<asr><sttc>"} == {"one and one<answer>two"}


@pytest.mark.parametrize("heard", ["", "the hat"])
def test_another_language_than_the_usual_is_named(heard: str) -> None:
    """The tag alone asks for Chinese of English, and for English of the rest."""
    mix = replace(BOTH, extra_share=1.0)
    own = drawn(INTO_GERMAN, mix, heard)
    assert {one.prompt for one in own} == {ASKED}
    assert {one.target for one in own if one.heard or not heard} == {"der hut"} if heard else {"<ast>der hut"}
    names = ("german", "德")
    chosen = drawn(replace(INTO_GERMAN, instruction=""), mix, heard)
    assert all(any(name in one.prompt.lower() for name in names) for one in chosen)
    assert any(one.prompt == "<ast>" for one in drawn(replace(INTO_GERMAN, translation="帽子"), mix, heard))
    into_chinese = replace(GERMAN, translation="帽子在哪里")
    assert all(any(name in one.prompt.lower() for name in ("chinese", "mandarin", "中", "汉", "普通话"))
               for one in drawn(into_chinese, mix, heard))  # fmt: skip


def test_a_stage_of_tags_alone_leaves_out_what_tags_cannot_ask() -> None:
    mix = TaskMix(plain_share=0.0)
    assert {one.prompt for one in drawn(INTO_GERMAN, mix)} == {"<asr>"}
    assert {one.prompt for one in drawn(GERMAN, replace(mix, extra_share=1.0, x_only_share=1.0))} == {"<ast>"}


def test_an_instruction_for_a_task_that_is_left_out_is_not_used() -> None:
    voiced = replace(INTO_GERMAN, tasks=("asr", "sgc"), labels={"sgc": "male"})
    assert all(one.prompt != ASKED for one in drawn(voiced))


def test_words_are_misheard_by_share() -> None:
    rng = random.Random(3)
    text = " ".join(["two"] * 2000)
    kept = misheard(text, 0.1, ["ten", "hat"], rng).split()
    other = sum(word != "two" for word in kept)
    assert 60 <= other <= 140 and 60 <= 2000 - len(kept) <= 140
    assert misheard("two", 1.0, [], rng) == "two", "never all of it"
    assert misheard("二加二", 0.0, ["ten"], rng) == "二加二"
    assert set(misheard("二" * 500, 0.5, ["ten", "三"], rng)) == {"二", "三"}, "words stay in their script"


def test_texts_are_answered_without_audio() -> None:
    told = [QUESTION, GERMAN, INTO_GERMAN]
    mix = TaskMix(plain_share=0.5, told_share=0.5, unfit_share=0.0)
    rows = [text_only(["asr", "sgc"], (), mix, random.Random(seed), Texts(told)) for seed in range(600)]
    answers = [one for one in rows if one.heard]
    assert 0.4 < len(answers) / len(rows) < 0.6
    by_tag = {(one.prompt, one.heard, one.target) for one in answers if one.prompt.startswith("<")}
    assert by_tag == {
        ("<sttc>", "one and one<answer>", "two"),
        ("<ast>", f"{TEXT}<translation>", "where is the hat"),
    }
    plain = [one for one in answers if not one.prompt.startswith("<")]
    assert any(one.prompt == ASKED and one.target == "<ast>" for one in rows), "the first pass of its own words"
    assert {one.heard for one in plain} >= {"<sttc>one and one<answer>", "<ast>the hat<translation>"}
    into_german = [one.prompt for one in plain if one.target == "der hut"]
    assert ASKED in into_german and all("german" in one or "德" in one or "German" in one for one in into_german)
    fixed = {(one.prompt, one.target) for one in to_answer(told)}
    assert fixed == {("<sttc>", "two"), ("<ast>", "where is the hat"), (ASKED, "der hut")}


def test_texts_of_a_grammar_are_those_of_its_train_split() -> None:
    """Drawn until all common ones were there: sums in both languages, questions about orders, three directions."""
    texts, rng = Texts((), ["pocket"]), random.Random(1)
    drawn = [texts.draw(rng) for _ in range(1500)]
    assert {(one.language, one.tasks) for one in drawn} >= {(code, ("ast",)) for code in ("en", "zh", "de")}
    sums = {one.text: one.answer for one in drawn if one.language == "en" and one.answer}
    assert sums and all(one.answer or one.translation for one in drawn)
    for split in ("dev", "test"):
        source = synth_grammar.read("questions")[0]
        other = {synth_lines.draw(source, split, rng, {"dev": 0.05, "test": 0.05}).text for _ in range(60)}
        assert not other & {one.text for one in drawn}
    orders = [Texts((), ["orders"]).draw(rng) for _ in range(20)]
    assert all(one.instruction and one.answer in str(one.text) for one in orders)


def loader(records: Sequence[Record], mix: TaskMix, *, ctc_transcript: bool) -> Loader:
    marks = [row.tag for row in table.TASKS] + ["<none>", "<answer>", "<translation>"]
    texts = [one.text for one in instructions.all("train")][:400]
    pieces = tokenizer.train(texts, marks, num_pieces=400, max_time_s=1.0, time_step_s=0.04)
    config = LoaderConfig(text_share=1.0, text_rows=32, only={"": ("sttc", "ast")})
    return Loader(
        records, None, pieces, {}, config, mix, AugmentConfig(), eos_id=1, time_step_s=0.04, seed=2,
        ctc_transcript=ctc_transcript,
    )  # fmt: skip


def test_what_is_told_is_told_in_tokens_even_where_the_transcript_is_not_learned() -> None:
    mix = TaskMix(plain_share=0.0, told_share=1.0)
    made = loader([QUESTION, GERMAN], mix, ctc_transcript=True)
    batches = [batch for batch, _ in islice(made.batches(Place()), 12)]  # rows of like length are together
    assert all(batch.mel_BMF is None and len(batch.heard) == 32 for batch in batches)
    said = {
        tuple(made.tokenizer.decode(ids, skip_special_tokens=False).strip() for ids in row)
        for batch in batches
        for row in zip(batch.prompts, batch.heard, batch.targets, strict=True)
    }
    assert said == {
        ("<sttc>", "one and one<answer>", "two<eos>"),
        ("<ast>", f"{TEXT}<translation>", "where is the hat<eos>"),
    }
    assert batches[0].only(3).heard == batches[0].heard[3:4]
    other = loader([QUESTION, GERMAN], replace(mix, plain_share=1.0), ctc_transcript=False)
    assert not any(next(other.batches(Place()))[0].heard), "a model that is told nothing"
