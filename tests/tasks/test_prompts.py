"""The requests: enough of them, kept apart for training and evaluation, and understandable by the grammar's rules."""

import json
import re
from itertools import combinations
from pathlib import Path
from random import Random

import pytest

from zhiyin.errors import UserError
from zhiyin.tasks import prompts
from zhiyin.tasks.dialect import OSUM
from zhiyin.tasks.parse import read_tags
from zhiyin.tasks.table import TASKS, Task, select

LANGUAGES = ("en", "zh")
PAIRS = [select([a.id, b.id]) for a, b in combinations(TASKS, 2) if {a.id, b.id} != {"sttc", "ast"}]
COMBINED = json.loads((prompts.FOLDER / "combined.json").read_text(encoding="utf-8"))


def bare(request: str) -> str:
    """Without what `sample` may vary: letter case, end mark and spaces."""
    return " ".join(request.casefold().rstrip("?？.。").split())


def written(language: str, split: str) -> dict[str, set[str]]:
    """All phrasings written by hand, by what they ask for."""
    found = {task.id: set(prompts.instructions((task,), language, split)) for task in TASKS}
    found |= {key: set(requests[language][split]) for key, requests in COMBINED.items()}
    return found | {"nothing": set(prompts.unfit(language, split))}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.id)
def test_every_task_can_be_asked_for_in_many_ways(task: Task, language: str) -> None:
    for split, least in (("train", 16), ("eval", 6)):
        phrasings = prompts.instructions((task,), language, split)
        assert len({bare(phrasing) for phrasing in phrasings}) == len(phrasings) >= least
        questions = [phrasing for phrasing in phrasings if phrasing.endswith(("?", "？"))]
        assert 3 <= len(questions) <= len(phrasings) - 3, "both questions and commands"


def test_no_phrasing_asks_for_two_things_or_is_in_both_splits() -> None:
    owners: dict[str, str] = {}
    for language in LANGUAGES:
        for split in prompts.SPLITS:
            for asked, phrasings in written(language, split).items():
                for phrasing in phrasings:
                    owner = owners.setdefault(bare(phrasing), f"{split} {asked}")
                    assert owner == f"{split} {asked}", phrasing


def test_phrasings_are_clean_and_in_their_language() -> None:
    for language in LANGUAGES:
        for split in prompts.SPLITS:
            for asked, phrasings in written(language, split).items():
                for phrasing in phrasings:
                    assert phrasing == phrasing.strip() and not re.search(r"[<>{}\n]|  ", phrasing), phrasing
                    assert bool(re.search("[\u4e00-\u9fff]", phrasing)) == (language == "zh"), phrasing
                    assert len(phrasing) <= 80, f"{asked}: {phrasing}"


def test_phrasings_do_not_list_labels() -> None:
    """A model may bring its own label sets. Man and woman are the one choice people name when they ask."""
    for task in TASKS:
        if task.kind == "label" and task.id != "sgc":
            for language in LANGUAGES:
                for split in prompts.SPLITS:
                    for phrasing in prompts.instructions((task,), language, split):
                        assert sum(label in phrasing for label in task.labels) <= 1, phrasing


def test_openings_and_joins_of_the_splits_differ() -> None:
    joining = json.loads((prompts.FOLDER / "joining.json").read_text(encoding="utf-8"))
    for language in LANGUAGES:
        train, held_out = joining[language]["train"], joining[language]["eval"]
        assert not set(train["openings"]) & set(held_out["openings"])
        assert train["joins"].keys() == held_out["joins"].keys()
        for form, joins in train["joins"].items():
            assert not set(joins) & set(held_out["joins"][form])
            assert all(join.count("{a}") == join.count("{b}") == 1 for join in joins + held_out["joins"][form])
            assert all(any(join.startswith("{a}") for join in some) for some in (joins, held_out["joins"][form]))


@pytest.mark.parametrize("language", LANGUAGES)
def test_requests_for_combinations(language: str) -> None:
    for tasks in (*PAIRS, select("asr,ved,ser,ssr,sgc,sap")):
        train, held_out = (prompts.instructions(tasks, language, split) for split in prompts.SPLITS)
        assert min(len(train), len(held_out)) >= 20
        assert not {bare(request) for request in train} & {bare(request) for request in held_out}
        assert train == prompts.instructions(tasks, language, "train"), "the list is the same on every call"


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("split", prompts.SPLITS)
def test_a_sampled_request_asks_for_each_task_once(language: str, split: str) -> None:
    rng = Random(5)
    by_hand = {bare(request) for key in COMBINED for request in COMBINED[key][language][split]}
    openings = json.loads((prompts.FOLDER / "joining.json").read_text(encoding="utf-8"))[language][split]["openings"]
    for task in TASKS:
        known = {bare(request) for request in prompts.instructions((task,), language, split)}
        known |= {bare(opening + request) for opening in openings for request in known}
        assert {bare(prompts.sample((task,), language, split, rng)) for _ in range(50)} <= known
    for tasks in (*PAIRS, select("asr,ved,ser,sgc")):
        for _ in range(10):
            request = bare(prompts.sample(tasks, language, split, rng))
            parts = [[bare(p) for p in prompts.instructions((task,), language, split)] for task in tasks]
            composed = all(any(part in request for part in some) for some in parts)
            assert composed or any(request.endswith(one) for one in by_hand), request


def test_sampling_repeats_with_the_generator_and_varies_without() -> None:
    tasks = select("asr,sgc")
    first, second = ([prompts.sample(tasks, "en", "train", rng) for _ in range(40)] for rng in (Random(1), Random(1)))
    assert first == second
    assert len(set(first)) > 30
    assert any(request[0].isupper() for request in first) and any(request[0].islower() for request in first)
    assert any(request.endswith("?") for request in first) and any(not request.endswith("?") for request in first)


def test_frames_such_as_first_and_then_stand_at_the_beginning_only() -> None:
    tasks = select("asr,ved,ser,sap")
    for language, first in (("en", r"first "), ("zh", r"先(?!生)")):
        places = [m.start() for r in prompts.instructions(tasks, language, "train") for m in re.finditer(first, r)]
        assert places and not any(places)


@pytest.mark.parametrize(("language", "opening"), [("en", "please "), ("zh", "请")])
def test_only_commands_are_opened_politely(language: str, opening: str) -> None:
    rng = Random(3)
    commands = {bare(p) for p in prompts.instructions(select("sgc"), language, "train") if not p.endswith(("?", "？"))}
    requests = [bare(prompts.sample(select("sgc"), language, "train", rng)) for _ in range(400)]
    opened = {request.removeprefix(opening).removeprefix("你") for request in requests if request.startswith(opening)}
    assert len(opened) > 5 and opened <= commands


@pytest.mark.parametrize("language", LANGUAGES)
def test_requests_that_no_task_fits(language: str) -> None:
    train, held_out = (prompts.unfit(language, split) for split in prompts.SPLITS)
    assert len(train) >= 16 and len(held_out) >= 6
    assert prompts.instructions((), language, "train") == train
    assert any(bare(train[0]) in bare(prompts.sample((), language, "train", Random(seed))) for seed in range(400))


def test_fixed_prompts_are_osums_own_sentences(shared: Path) -> None:
    reference = (shared / "reference/osum.md").read_text(encoding="utf-8").split("## 3. Data")[0]
    table = reference.split("| tag | prompt |")[1]
    rows = re.findall(r"^\| `((?:<[A-Z0-9]+> ?)+)` \| ([^|]+) \|$", table, flags=re.MULTILINE)
    assert len(rows) == 12
    for tags, sentence in rows:
        assert prompts.fixed(read_tags(tags, dialect=OSUM)) == sentence


def test_fixed_prompts() -> None:
    assert prompts.fixed(select("asr")) == "转录如下音频。"
    assert prompts.fixed(select("sgc,asr"), "en") == prompts.fixed(select("asr,sgc"), "en")
    for key in json.loads((prompts.FOLDER / "fixed.json").read_text(encoding="utf-8")):
        assert "+".join(task.id for task in select(key)) == key
        assert all(prompts.fixed(select(key), language) for language in LANGUAGES)
    with pytest.raises(UserError, match=r"no fixed prompt for 'ser'; there is one for: asr srwt .* ssr\+sgc\+sap"):
        prompts.fixed(select("ser"))


def test_what_does_not_exist_is_refused_with_what_does(tmp_path: Path) -> None:
    for ask in (
        lambda: prompts.instructions(select("asr"), "fr", "train"),
        lambda: prompts.fixed(select("asr"), "fr"),
        lambda: prompts.unfit("fr", "train"),
        lambda: prompts.sample(select("asr"), "fr", "train", Random(0)),
    ):
        with pytest.raises(UserError, match="languages with prompts: en zh"):
            ask()
    with pytest.raises(UserError, match="splits: train eval"):
        prompts.instructions(select("asr"), "en", "test")
    with pytest.raises(UserError, match=r"'lid'.*lid\.json"):
        prompts.instructions((Task("lid", "language", "语种", "label", ("a",)),), "en", "train")
    (tmp_path / "joining.json").write_text(
        (prompts.FOLDER / "joining.json").read_text(encoding="utf-8"), encoding="utf-8"
    )
    (tmp_path / "lid.json").write_text('{"en": {"train": ["which language?"]}}', encoding="utf-8")
    with pytest.raises(UserError, match="'lid' has no requests for language 'zh'"):
        prompts.instructions((Task("lid", "language", "语种", "label", ("a",)),), "zh", "train", folder=tmp_path)
