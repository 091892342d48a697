"""Requests: enough of them, natural ones, and none of those used for measuring is known from training."""

import json
import re
from collections import Counter
from difflib import SequenceMatcher
from itertools import chain, combinations, product
from random import Random

import pytest

from zhiyin.errors import UserError
from zhiyin.tasks import instructions, render
from zhiyin.tasks.table import TASKS, select

TASK_IDS = [task.id for task in TASKS]
# Words of politeness and small words: two requests that differ in nothing else are the same request.
SMALL = {
    "en": {
        *("a", "an", "the", "this", "that", "these", "of", "to", "in", "me", "my", "i", "you", "it", "is", "are", "be"),
        *("please", "kindly", "thanks", "can", "could", "would", "do", "does", "just", "for", "and", "if", "so", "ok"),
        *("now", "hi", "hey"),
    },
    "zh": ("请", "麻烦", "劳驾", "烦请", "帮我", "一下", "吗", "呢", "吧", "谢谢", "你好", "这", "段", "的", "了"),
}


def normal(request: str, language: str) -> str:
    """A request without case, punctuation and small words."""
    bare = re.sub(r"[^\w{}]+", " ", request.casefold())
    if language == "en":
        return " ".join(word for word in bare.split() if word not in SMALL["en"])
    for small in SMALL["zh"]:
        bare = bare.replace(small, "")
    return bare.replace(" ", "")


def near(first: str, second: str, language: str) -> bool:
    """Whether two normalised requests are the same, or the same but for the order or one word of many."""
    if first == second:
        return True
    units = [one.split() if language == "en" else list(one) for one in (first, second)]
    if sorted(units[0]) == sorted(units[1]):
        return True
    if min(map(len, units)) <= 3:
        return False
    least = 0.81 * sum(map(len, units)) / 2  # what both must have in common, in whatever order
    if min(map(len, units)) < least or (Counter(units[0]) & Counter(units[1])).total() < least:
        return False
    return SequenceMatcher(None, *units, autojunk=False).ratio() >= 0.81


def written(language: str, split: str) -> list[str]:
    """Everything written by hand in a split."""
    found: list[str] = []
    for path in sorted(instructions.FOLDER.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if path.stem in ("parts", "frames"):
            continue
        for one in content.values() if path.stem == "combined" else [content, content.get("into", {})]:
            found += one.get(language, {}).get(split, [])
    return found


@pytest.mark.parametrize("language", instructions.LANGUAGES)
@pytest.mark.parametrize("task", TASK_IDS)
def test_every_task_has_more_than_forty_phrasings_by_hand(task: str, language: str) -> None:
    found = {split: instructions.phrasings((task,), language, split) for split in instructions.SPLITS}
    every = list(chain(*found.values()))
    assert len({normal(one, language) for one in every}) >= 40
    assert len(found["train"]) >= 20 and len(found["dev"]) >= 5 and len(found["test"]) >= 8
    questions = [one for one in every if one.endswith(("?", "？"))]
    assert 10 <= len(questions) <= len(every) - 10, "both questions and others"


@pytest.mark.parametrize("language", instructions.LANGUAGES)
@pytest.mark.parametrize("key", instructions.COMBINATIONS)
def test_every_combination_has_forty_requests(key: str, language: str) -> None:
    tasks = key.split("+")
    found = {split: instructions.phrasings(tasks, language, split) for split in instructions.SPLITS}
    assert min(len(found["train"]), len(found["test"])) >= 40 and len(found["dev"]) >= 15
    assert found["train"] == instructions.phrasings(tasks, language, "train")
    assert not set(found["train"]) & (set(found["dev"]) | set(found["test"]))


@pytest.mark.parametrize("language", instructions.LANGUAGES)
def test_questions_with_answers_of_their_own_are_no_other_request(language: str) -> None:
    found = {split: instructions.about("drink", language, split) for split in instructions.SPLITS}
    every = {normal(one, language) for one in chain(*found.values())}
    assert len(every) == sum(map(len, found.values())) >= 25 and min(map(len, found.values())) >= 4
    for split in instructions.SPLITS:
        assert not every & {normal(one.text, language) for one in instructions.all(split) if one.language == language}
    with pytest.raises(UserError, match="about 'food'; topics: drink"):
        instructions.about("food", language, "train")


def test_there_are_many_requests_no_task_fits() -> None:
    for language in instructions.LANGUAGES:
        every = list(chain(*(instructions.phrasings((), language, split) for split in instructions.SPLITS)))
        assert len(set(every)) == len(every) >= 60


@pytest.mark.parametrize("language", instructions.LANGUAGES)
def test_splits_share_no_phrasing_and_no_near_duplicate(language: str) -> None:
    wrong = []
    for first, second in combinations(instructions.SPLITS, 2):
        sides = [[(one, normal(one, language)) for one in written(language, split)] for split in (first, second)]
        for one, one_normal in sides[0]:
            wrong += [f"{one} ~ {other}" for other, bare in sides[1] if near(one_normal, bare, language)]
    assert not wrong, wrong


def ways(text: str) -> list[str]:
    """Everything that a text with ``[a|b]`` in it can say."""
    pieces = [piece[1:-1].split("|") if piece.startswith("[") else [piece] for piece in re.split(r"(\[.*?\])", text)]
    return ["".join(chosen) for chosen in product(*pieces)]


def test_parts_and_frames_are_in_one_split_only() -> None:
    parts = json.loads((instructions.FOLDER / "parts.json").read_text(encoding="utf-8"))
    frames = json.loads((instructions.FOLDER / "frames.json").read_text(encoding="utf-8"))
    for language in instructions.LANGUAGES:
        for kind in ("nouns", "clauses"):
            for name in ("joins", "frames", *TASK_IDS):
                train, *others = (
                    {way for text in parts[language][split][name][kind] for way in ways(text)}
                    for split in instructions.SPLITS
                )
                assert not train & (others[0] | others[1]) and not others[0] & others[1], (language, name, kind)
        for form in ("orders", "questions", "others"):
            lists = [frames["openings"][language][split][form] for split in instructions.SPLITS]
            assert len(set(chain(*lists))) == sum(map(len, lists)), (language, form)
            assert all(one.count("{x}") == 1 for one in chain(*lists))


def test_nothing_asks_for_two_different_things() -> None:
    for split in instructions.SPLITS:
        owners: dict[str, tuple[str, ...]] = {}
        for one in instructions.all(split):
            assert owners.setdefault(normal(one.text, one.language), one.tasks) == one.tasks, one


def test_phrasings_are_clean_and_in_their_language() -> None:
    for split in instructions.SPLITS:
        for one in instructions.all(split):
            assert one.text == one.text.strip() and not re.search(r"[<>{}\n]|  |，，|\?\?|？？", one.text), one
            assert bool(re.search("[\u4e00-\u9fff]", one.text)) == (one.language == "zh"), one
            assert list(one.tasks) == [task for task in TASK_IDS if task in one.tasks]


def test_picked_requests_are_of_their_split_and_repeat_with_the_generator() -> None:
    for language in instructions.LANGUAGES:
        train = {normal(one, language) for one in instructions.phrasings(("ser",), language, "train")}
        test = {normal(one, language) for one in instructions.phrasings(("ser",), language, "test")}
        rng = Random(1)
        for split, own, other in (("train", train, test), ("test", test, train)):
            picked = [normal(instructions.pick(("ser",), language, split, rng), language) for _ in range(80)]
            found = [any(one in request for one in own) for request in picked]
            assert all(found) if split == "test" else 30 <= sum(found) <= 70, "training requests are composed, too"
            assert not set(picked) & other
    first, second = ([instructions.pick(("asr", "sap"), "zh", "train", Random(7)) for _ in range(3)] for _ in range(2))
    assert first == second
    rng = Random(2)
    some = [instructions.pick(("asr", "sgc"), "en", "train", rng) for _ in range(60)]
    assert len(set(some)) > 40
    assert any(one[0].isupper() for one in some) and any(one[0].islower() for one in some)


def test_a_language_can_be_named() -> None:
    rng = Random(3)
    for language, name in (("en", "german"), ("zh", "德")):
        for task in ("ast", "sttc"):
            assert all(name in one for one in instructions.phrasings((task,), language, "test", into="de"))
            assert name in instructions.pick((task,), language, "train", rng, into="de").casefold()
    assert not any("{into}" in one.text for one in instructions.all("train"))
    with pytest.raises(UserError, match="cannot name the language 'fr'"):
        instructions.pick(("ast",), "en", "train", rng, into="fr")
    with pytest.raises(UserError, match="'asr' cannot name"):
        instructions.phrasings(("asr",), "en", "train", into="de")


def test_what_is_expected_can_be_scored() -> None:
    pairs = dict(instructions.expected("test"))
    assert len(pairs) > 1000 and set(pairs.values()) > {("asr",), ("asr", "sgc", "sap"), ()}
    for tasks in set(pairs.values()):
        assert render.tags(select(tasks) if tasks else ()).startswith("<")
    chinese = dict(instructions.expected("test", "zh"))
    assert 0 < len(chinese) < len(pairs) and not set(chinese) & set(dict(instructions.expected("test", "en")))


def test_wrong_words_are_named() -> None:
    for wrong in (
        lambda: instructions.pick(("asr",), "fr", "train", Random(0)),
        lambda: list(instructions.expected("test", "fr")),
    ):
        with pytest.raises(UserError, match="languages: en zh"):
            wrong()
    with pytest.raises(UserError, match="splits: train dev test"):
        instructions.all("eval")
    with pytest.raises(UserError, match="did you mean"):
        instructions.pick(("assr",), "en", "train", Random(0))
