"""Grammars: numbers, answers and translations are right, and held-out sentences are in no training set."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from zhiyin.data import synth_grammar, synth_lines, synth_numbers
from zhiyin.data.synth_lines import Line
from zhiyin.data.synth_rules import LANGUAGES, SPLITS, grammar_of, id_of
from zhiyin.errors import UserError
from zhiyin.text import itn

SHARES = {"dev": 0.05, "test": 0.05}
NAMES = [name for name in synth_grammar.names() if name != "pocket"]


def lines(name: str, split: str, count: int, seed: int = 1) -> list[Line]:
    """Sentences of a grammar."""
    source = synth_grammar.read(name)[0]
    rng = random.Random(seed)
    return [synth_lines.draw(source, split, rng, SHARES) for _ in range(count)]


def test_numbers_are_read_back_by_the_number_reader() -> None:
    """The reader of spoken numbers was written apart, for another purpose."""
    for number in (*range(10, 130), 200, 208, 310, 999, 1000, 1001, 1010, 1100, 1111, 2020, 2300, 5000, 7005, 9999):
        for language in ("en", "zh"):
            said = synth_numbers.spoken(number, language) + {"en": " metres", "zh": "米"}[language]
            read = itn.write(said, language).text
            assert int("".join(filter(str.isdecimal, read))) == number and not set("零一二三十百千") & set(read), read


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "null"),
        (1, "eins"),
        (16, "sechzehn"),
        (21, "einundzwanzig"),
        (37, "siebenunddreißig"),
        (100, "einhundert"),
        (101, "einhunderteins"),
        (999, "neunhundertneunundneunzig"),
        (2017, "zweitausendsiebzehn"),
    ],
)
def test_german_numbers(number: int, said: str) -> None:
    assert synth_numbers.spoken(number, "de") == said


def test_numbers_that_cannot_be_said() -> None:
    assert (
        synth_numbers.spoken(2, "zh", counting=True) == "两" and synth_numbers.spoken(1, "de", counting=True) == "ein"
    )
    for number, language in ((-1, "en"), (10_000, "zh"), (3, "fr")):
        with pytest.raises(UserError):
            synth_numbers.spoken(number, language)


@pytest.mark.parametrize("name", NAMES)
def test_held_out_sentences_are_new_and_made_of_known_words(name: str) -> None:
    train = lines(name, "train", 5_000)
    known = {line.text for line in train}
    words = {(line.language, word) for line in train for word in line.words}
    closed = {rule.id for rule in synth_grammar.read(name)[0].grammar.rules if rule.held_out == "never"}
    for split in ("dev", "test"):
        held_out = [line for line in lines(name, split, 150) if line.rule not in closed]
        assert len({line.text for line in held_out}) >= 5
        assert not [line for line in held_out if line.text in known]
        assert not [line for line in held_out for word in line.words if (line.language, word) not in words]


def test_sentences_of_different_grammars_agree_on_the_split() -> None:
    homes: dict[tuple[str, str], set[str]] = {}
    for name in NAMES:
        closed = {rule.id for rule in synth_grammar.read(name)[0].grammar.rules if rule.held_out == "never"}
        for split in SPLITS:
            for line in lines(name, split, 1000 if split == "train" else 100):
                if line.rule not in closed:
                    homes.setdefault((line.language, line.text), set()).add(split)
    assert not {text for text, splits in homes.items() if len(splits) > 1}


def test_translations_of_a_held_out_phrase_are_held_out_too() -> None:
    known = {line.text for line in lines("phrases", "train", 5_000)}
    for line in lines("phrases", "test", 150):
        assert line.text not in known and line.translation not in known


@pytest.mark.parametrize("name", NAMES)
def test_texts_fit_manifests_and_voices(name: str) -> None:
    for split in SPLITS:
        for line in lines(name, split, 100):
            assert line.text == line.text.strip().casefold().replace("ss", "ss") or "ß" in line.text
            assert line.language in LANGUAGES and line.text and "  " not in line.text
            assert len(line.spoken) == len(line.words), line
            assert not (set("<>{}.,?!") & set(line.text + line.answer + line.translation))
            assert bool(line.translation) == bool(line.into)


def sums(seed: int) -> Iterator[tuple[Line, list[int]]]:
    """Questions with numbers in digits, read by the number reader."""
    for line in lines("questions", "train", 3000, seed):
        values = [value for word in line.text.split() for value in [NUMBERS.get(word)] if value is not None]
        yield line, values


NUMBERS = {synth_numbers.spoken(number, "en"): number for number in range(20)}


def test_answers_are_right() -> None:
    """Of every kind of sum some are computed again here; facts are compared with a list of our own."""
    seen = set()
    for line, values in sums(3):
        if line.language != "en" or len(values) != 2:
            continue
        a, b = values
        sign = {"plus": a + b, "minus": a - b, "times": a * b, "larger": max(a, b), "larger_last": max(a, b)}
        if line.rule in sign:
            expected = b - a if line.text.startswith("take") else sign[line.rule]
            seen.add(line.rule)
            assert line.answer == synth_numbers.spoken(expected, "en"), line
    assert seen >= {"plus", "minus", "times", "larger", "larger_last"}
    facts = {line.text: line.answer for line in lines("questions", "train", 5000)}
    for text, answer in (
        ("what is the capital of italy", "rome"),
        ("法国的首都是哪里", "巴黎"),
        ("what day follows sunday", "monday"),
        ("how many legs does a spider have", "eight"),
        ("how many minutes are three hours", "one hundred eighty"),
        ("两小时有多少分钟", "一百二十"),
    ):
        assert facts.get(text, answer) == answer
    assert (
        sum(text in facts for text in ("what is the capital of italy", "法国的首都是哪里", "what day follows sunday"))
        >= 2
    )


def test_an_order_is_asked_for_its_drink() -> None:
    for line in lines("orders", "test", 60):
        assert line.topic == "drink" and f" {line.answer} " in f" {line.text} "
    assert not any(line.topic for line in lines("questions", "test", 60))


def test_ids_tell_runs_and_grammars() -> None:
    assert id_of("my-own_2", "0a1b2c", 12) == "syn_my-own_2_0a1b2c_0000012"
    for name in ("my-own_2", "digits"):
        assert grammar_of(id_of(name, "0a1b2c", 12)) == grammar_of(f"more_{id_of(name, '000000', 3)}") == name
    assert grammar_of("syn_digits_0000003") == "digits", "as ids were before runs stood in them"
    assert grammar_of("grid_s1_0000003") == grammar_of("") == ""


def test_a_digit_string_is_translated_digit_by_digit() -> None:
    places = {synth_numbers.digit(value, "en"): synth_numbers.digit(value, "zh") for value in range(10)}
    found = [line for line in lines("digits", "train", 400) if line.into == "zh"]
    assert found and all("".join(places[word] for word in line.words) == line.translation for line in found)
    lengths = {len(line.words) for line in lines("digits", "train", 600)}
    assert lengths == set(range(1, 11))


def test_drawing_repeats_with_the_generator() -> None:
    assert lines("phrases", "train", 20) == lines("phrases", "train", 20)
    assert lines("phrases", "train", 20) != lines("phrases", "train", 20, seed=2)


def wrong(tmp_path: Path, text: str) -> str:
    """What is said of a grammar file."""
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        source = synth_grammar.read(str(path))[0]
        synth_lines.draw(source, "train", random.Random(1), SHARES)
    return str(caught.value)


RULE = '[[rules]]\nid = "x"\n'


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "no rules"),
        (RULE + 'text = { en = ["{a}"] }', "'{a}'"),
        (RULE + 'text = { fr = ["oui"] }', "language 'fr' is not known"),
        (RULE + 'text = { en = ["a <b>"] }', "cannot stand in a text"),
        (RULE + 'text = { en = ["{1 / 2}"] }', "cannot be computed"),
        (RULE + 'text = { en = ["{__import__(0)}"] }', "cannot be computed"),
        (RULE + 'text = { en = ["yes"] }\nanswer = { zh = "是" }', "answer them all"),
        (RULE + 'text = { en = ["yes"], zh = ["是"] }\ntranslate = ["en>de"]', "'en>de' is no pair"),
        (RULE + 'text = { en = ["yes", "no"], zh = ["是"] }', "as many wordings"),
        (RULE + 'text = { en = ["yes"] }\nheld_out = "always"', "sentence values never"),
        (RULE + 'text = { en = ["{a}"] }\nwhere = "a > 9"\n[slots.a]\nnumbers = [1, 3]', "no values were found"),
        (RULE + 'text = { en = ["{a}"] }\n[slots.a]\nen = ["x"]\nzh = ["y", "z"]', "all need as many"),
        (RULE + 'text = { en = ["{a}"] }\n[slots.a]\nnumbers = [3, 1]', "the lowest comes first"),
        (RULE + 'text = { en = ["{a}"] }\n[slots.a]\nnumbers = [1, 3]\nen = ["x"]', "needs one of"),
        (RULE + 'text = { en = ["yes"] }\ntopic = "drinc"\nanswer = { en = "tea" }', "did you mean 'drink'"),
        (RULE + 'text = { en = ["yes"] }\ntopic = "drink"', "needs an answer"),
        (RULE + 'txet = { en = ["yes"] }', "did you mean 'text'"),
        ('[[include]]\nname = "digitz"', "did you mean 'digits'"),
        ('[[include]]\nname = "mine.toml"', "includes itself"),
        (RULE + 'text = { en = ["yes"] }\n[scene]\nstyles = { loud = 1.0 }', "known: normal slow"),
        ("rules = 3", "a list was expected"),
        ("[", "not TOML"),
    ],
)
def test_what_is_wrong_with_a_grammar_is_said(tmp_path: Path, text: str, part: str) -> None:
    assert part in wrong(tmp_path, text)


def test_a_split_without_sentences_is_said(tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    path.write_text(RULE + 'text = { en = ["only this"] }', encoding="utf-8")
    source = synth_grammar.read(str(path))[0]
    homes = []
    for split in SPLITS:
        try:
            synth_lines.draw(source, split, random.Random(1), SHARES)
            homes.append(split)
        except UserError as error:
            assert f"none for the {split} split" in str(error)
    assert len(homes) == 1


def test_the_grammar_of_the_documentation_works(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    path = tmp_path / "fruit.toml"
    path.write_text(page.partition("A grammar of your own")[2].split("```")[1].removeprefix("toml"), encoding="utf-8")
    source, digits = synth_grammar.read(str(path))
    assert (digits.name, digits.weight) == ("digits", 0.5)
    found = [synth_lines.draw(source, "train", random.Random(seed), SHARES) for seed in range(60)]
    assert ("买两个梨", ("买", "两", "ge4", "li2")) in {(line.text, line.spoken) for line in found}
    assert not [line for line in found if "four" in line.text or "四" in line.text]
