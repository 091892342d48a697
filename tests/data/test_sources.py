"""Manifests and shards as training material: read, weighed, balanced; features kept or computed; what is refused."""

import dataclasses
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.data.made import tone
from zhiyin.data import balance, cache, manifest, shards, sources, tokenizer
from zhiyin.data.augment import AugmentConfig
from zhiyin.data.augment_wave import WaveConfig
from zhiyin.data.examples import TaskMix, make, text_only
from zhiyin.data.loader import Loader, LoaderConfig, Place
from zhiyin.data.manifest import Record
from zhiyin.data.sources import Source
from zhiyin.errors import UserError
from zhiyin.tasks import instructions, render, table

STILL = AugmentConfig(noise_share=0, colour_share=0, band_share=0, time_masks=0, mel_masks=0, pad_frames=0)


def record(folder: Path, name: str, seconds: float = 0.5, **known: object) -> Record:
    audio = tone(folder / f"{name}.flac", seconds, seed=len(name) + ord(name[-1]))
    told = {"tasks": ("asr",), "text": "one", "language": "en", **known}
    return Record(name, audio, seconds, **told)  # type: ignore[arg-type]


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """A manifest of two hours' names and shards of the same kind: `a*` and `b*`."""
    manifest.write(tmp_path / "a.jsonl", [record(tmp_path, f"a{i}", 0.3 + 0.1 * i) for i in range(4)])
    shards.write([record(tmp_path, f"b{i}", 0.4 + 0.1 * i) for i in range(5)], tmp_path / "b", per_shard=2)
    return tmp_path


def loader(corpus: sources.Corpus, features: cache.Features | None, **settings: object) -> Loader:
    pieces = tokenizer.train(["one two"] * 3, ["<asr>", "<sgc>"], num_pieces=20, max_time_s=2.0, time_step_s=0.04)
    config = LoaderConfig(**{"batch_s": 4.0, "pool": 200, "speeds": (1.0,), **settings})  # type: ignore[arg-type]
    return Loader(
        corpus.records,
        features,
        pieces,
        {},
        config,
        TaskMix(plain_share=0.0),
        STILL,
        eos_id=1,
        time_step_s=0.04,
        seed=3,
        weights=corpus.weights,
    )


def drawn(some: Loader, pools: int) -> list[Record]:
    by_id = {r.id: r for r in some.records}
    out: list[Record] = []
    for number in range(pools):
        for group in some._pool(number):
            assert not isinstance(group, int)
            out += [by_id[one.record.id] for one in group]
    return out


def test_manifests_and_shards_give_the_same_features_kept_or_not(both: Path) -> None:
    corpus = sources.read([Source("a.jsonl"), Source("b")], both)
    assert [r.id for r in corpus.records] == ["a0", "a1", "a2", "a3", "b0", "b1", "b2", "b3", "b4"]
    kept = cache.build(
        both / "features", corpus.records, (0.9, 1.0), stored=corpus.stored, wave=WaveConfig(), variants=2, workers=1
    )
    live = cache.LiveFeatures({r.id: r for r in corpus.records}, 80, corpus.stored, WaveConfig())
    seen = set()
    for name in ("a1", "b3"):
        for speed in (0.9, 1.0):
            for variant in range(3):
                expected = live.get(name, speed, variant)
                np.testing.assert_array_equal(kept.get(name, speed, variant), expected)
                seen.add(expected.tobytes())
    assert len(seen) == 12  # all different
    again = cache.build(
        both / "features", corpus.records, (0.9, 1.0), stored=corpus.stored, wave=WaveConfig(), variants=2, workers=1
    )
    assert again.places == kept.places and len(list((both / "features").iterdir())) == 2


def test_weights_are_of_hours(both: Path) -> None:
    """Half the weight is half as many times each second; the lengths of the records do not matter."""
    corpus = sources.read([Source("a.jsonl", 0.5), Source("b", 2.0)], both)
    heard: Counter[str] = Counter()
    for one in drawn(loader(corpus, None), 200):
        heard[one.id[0]] += one.duration_s
    hours = {kind: sum(r.duration_s for r in corpus.records if r.id[0] == kind) for kind in "ab"}
    assert heard["b"] / heard["a"] == pytest.approx(4 * hours["b"] / hours["a"], rel=0.03)
    assert [r.id[0] for r in sources.read([Source("a.jsonl", 0.0), Source("b")], both).records] == ["b"] * 5


def test_labels_and_tasks_are_heard_equally_long(tmp_path: Path) -> None:
    rng = random.Random(1)
    records = []
    for i in range(400):
        labels = {"sgc": "female" if i % 10 else "male"}
        labels |= {"sap": rng.choice(("child", "adult", "adult", "adult"))} if i % 3 else {}
        tasks = ("asr", *labels) if i % 40 else ("sttc",)
        lasts = rng.uniform(0.5, 8.0)
        records.append(Record(f"r{i}", tmp_path / "x", lasts, tasks, "one", labels=labels, answer="two"))

    def hours(odds: list[float], fits: object) -> float:
        return sum(odd * r.duration_s for odd, r in zip(odds, records, strict=True) if fits(r))  # type: ignore[operator]

    same = balance.odds(records, [1.0] * 400)
    assert same == [1.0] * 400
    odds = balance.odds(records, [1.0] * 400, labels=1.0)
    for task, labels in (("sgc", ("female", "male")), ("sap", ("child", "adult"))):
        of = [hours(odds, lambda r, t=task, w=name: t in r.tasks and r.labels[t] == w) for name in labels]
        assert of[0] == pytest.approx(of[1], rel=0.01)
    half = balance.odds(records, [1.0] * 400, labels=0.5)
    shares = [
        hours(some, lambda r: r.labels["sgc"] == "male" and "sgc" in r.tasks)
        / hours(some, lambda r: r.labels["sgc"] == "female" and "sgc" in r.tasks)
        for some in (same, half, odds)
    ]
    assert shares[0] < shares[1] < shares[2] == pytest.approx(1.0, rel=0.01)
    by_task = balance.odds(records, [1.0] * 400, tasks=1.0)
    cells = [hours(by_task, lambda r, t=task: _rarest(r, records) == t) for task in ("sttc", "sap", "asr")]
    assert cells == pytest.approx([np.mean(cells)] * 3, rel=0.01)
    assert sum(o * r.duration_s for o, r in zip(by_task, records, strict=True)) == pytest.approx(
        sum(r.duration_s for r in records), rel=1e-6
    )


def _rarest(one: Record, records: list[Record]) -> str:
    return min(one.tasks, key=lambda task: sum(r.duration_s for r in records if task in r.tasks))


def test_processes_share_each_round(both: Path) -> None:
    corpus = sources.read([Source("a.jsonl"), Source("b")], both)
    alone = loader(corpus, None, pool=40, text_share=0.3)
    plan = alone._plan(Place())
    whole = [next(plan) for _ in range(12)]
    parts = []
    for rank in range(2):
        one = loader(corpus, None, pool=40, text_share=0.3)
        one.rank, one.ranks = rank, 2
        stream = one._plan(Place())
        parts.append([next(stream) for _ in range(40)])
    for first, second in zip(*parts, strict=True):
        assert isinstance(first[0], int) == isinstance(second[0], int)  # the same modules run
        assert first[2] == second[2] and first[1] != second[1]
    # a resumed process goes on exactly there
    one.rank = 1
    again = one._plan(parts[1][6][2])
    assert [next(again)[1] for _ in range(5)] == [seed for _, seed, _ in parts[1][7:12]]
    assert len({seed for _, seed, _ in whole}) == 12
    for batch in range(12):  # a state that one process saved
        seed = next(one._plan(Place(0, batch)))[1]
        assert int(seed.split(":")[2]) in (batch + 1, batch + 2) or seed.split(":")[1] == "1"
    quiet = [loader(corpus, None, pool=40) for _ in range(3)]
    for rank, some in enumerate(quiet[1:]):
        some.rank, some.ranks = rank, 2
    groups = quiet[0]._pool(0)
    got = [next(some._plan(Place())) for some in quiet[1:]]
    assert [group for group, _, _ in got] == groups[:2]


def test_several_threads_make_the_same_batches(both: Path) -> None:
    corpus = sources.read([Source("a.jsonl"), Source("b")], both)
    features = cache.LiveFeatures({r.id: r for r in corpus.records}, 80, corpus.stored)
    taken = []
    for workers in (1, 3):
        stream = loader(corpus, features, pool=30, workers=workers).batches(Place())
        taken.append([next(stream) for _ in range(8)])
        stream.close()
    for (one, after), (other, same) in zip(*taken, strict=True):
        assert after == same and one.ids == other.ids and one.targets == other.targets
        np.testing.assert_array_equal(one.mel_BMF, other.mel_BMF)


def test_a_stage_without_audio_asks_and_answers_with_tags(both: Path) -> None:
    corpus = sources.read([Source("a.jsonl")], both)
    some = loader(corpus, None, text_share=1.0, text_rows=16, pool=64)
    stream = some.batches(Place())
    batch, _ = next(stream)
    stream.close()
    assert batch.mel_BMF is None and len(batch.ids) == 16 and not batch.frames_B.any()
    assert all(target[-1] == 1 for target in batch.targets) and batch.transcripts == (None,) * 16
    tasks, mix, rng = ("asr", "srwt", "sgc", "ser", "sttc"), TaskMix(unfit_share=0.2), random.Random(1)
    made = [text_only(tasks, (), mix, rng) for _ in range(400)]
    known = {render.tags(table.select(name)) for name in tasks} | {render.NO_TASK}
    assert known <= {example.target for example in made}
    evaluated = {text for split in ("dev", "test") for text, _ in instructions.expected(split)}
    assert not evaluated & {example.prompt for example in made}
    spoken = [text_only(tasks, ("one two",), TaskMix(transcript_share=1.0), rng) for _ in range(3)]
    assert [(example.prompt, example.target) for example in spoken] == [("", "one two")] * 3


def test_a_record_is_asked_its_own_instruction(tmp_path: Path) -> None:
    """What names the language of a translation must be said where a translation is asked, and nowhere else."""
    told = {"answer": "latte", "translation": "ein milchkaffee", "instruction": "say that in german"}
    own = Record("r", tmp_path / "x", 1.0, ("asr", "ast"), "a latte please", **told)
    mix = TaskMix(plain_share=1.0, unfit_share=0.0, extra_share=1.0, x_only_share=0.5)
    made = [make(own, mix, {}, random.Random(i)) for i in range(60)]
    assert {example.target for example in made if example.prompt == own.instruction} == {"<ast>ein milchkaffee"}
    others = {example.target for example in made if example.prompt != own.instruction}
    assert others == {"<asr><ast>a latte please<translation>ein milchkaffee"}
    tags = {make(own, replace_plain(mix), {}, random.Random(i)).prompt for i in range(60)}
    assert tags == {"<ast>", "<asr><ast>"}
    labels = {"ser": "happy", "sgc": "male"}
    labelled = dataclasses.replace(own, tasks=("asr", "ser", "sgc"), labels=labels, answer="", translation="")
    made = [make(labelled, mix, {}, random.Random(i)) for i in range(20)]
    whole = "<asr><ser><sgc>a latte please<happy><male>"
    assert {(example.prompt, example.target) for example in made} == {(own.instruction, whole)}


def replace_plain(mix: TaskMix) -> TaskMix:
    return dataclasses.replace(mix, plain_share=0.0)


def test_asr_and_x_or_x_alone(tmp_path: Path) -> None:
    own = Record("r", tmp_path / "x", 1.0, ("asr", "ser"), "yes", labels={"ser": "happy"})
    mix = TaskMix(plain_share=0.0, extra_share=1.0, x_only_share=0.5)
    targets = Counter(make(own, mix, {}, random.Random(i)).target for i in range(2000))
    assert set(targets) == {"yes<happy>", "<happy>"}
    assert targets["<happy>"] / 2000 == pytest.approx(0.5, abs=0.04)


def test_long_recordings_count_more_in_a_batch(tmp_path: Path) -> None:
    records = [Record(f"r{i}", tmp_path / "x", 1.0 if i % 2 else 4.0, ("asr",), "a") for i in range(200)]
    some = loader(sources.of_records(records, "x"), None, batch_s=40.0, quadratic_s=4.0)
    sizes: dict[float, set[int]] = {1.0: set(), 4.0: set()}
    for group in some._pool(0):
        assert not isinstance(group, int)
        if len({one.record.duration_s for one in group}) == 1:
            sizes[group[0].record.duration_s].add(len(group))
    assert max(sizes[4.0]) == 5 and max(sizes[1.0]) == 32  # 40 / (4 + 4), 40 / (1 + 1/4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"weights": {"fsdd": -1.0}}, "the weight of fsdd is -1.0"),
        ({"label_balance": 2.0}, "label_balance is 2.0; it lies between 0 and 1"),
        ({"batch_s": 0.0}, "batch_s is 0.0; it must be more than 0"),
        ({"speeds": ()}, "at least one is needed"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        LoaderConfig(**settings)  # type: ignore[arg-type]


def test_bad_sources_are_named(both: Path) -> None:
    with pytest.raises(UserError, match=r"a\.jsonl: its weight is -0.5; 0 leaves it out"):
        Source("a.jsonl", -0.5)
    with pytest.raises(UserError, match=r"c\.jsonl: there is no such file"):
        sources.read([Source("c.jsonl")], both)
    with pytest.raises(UserError, match=r"the id 'a0' is there twice \(.*a\.jsonl and .*a\.jsonl\)"):
        sources.read([Source("a.jsonl"), Source("a.jsonl")], both)
    lines = (both / "a.jsonl").read_text().splitlines()
    (both / "a.jsonl").write_text("\n".join([lines[0], lines[1][:-9], *lines[2:]]))
    with pytest.raises(UserError, match=r"a\.jsonl line 2: not JSON"):
        sources.read([Source("a.jsonl")], both)
    tar = both / "b" / "shard-00001.tar"
    tar.write_bytes(tar.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"shard-00001.tar is cut off at byte 3000"):
        sources.read([Source("b")], both)
    corpus = sources.of_records([record(both, "z0")], "z")
    with pytest.raises(UserError, match="all weights are 0"):
        loader(corpus, None, weights={"": 0.0})


def test_bad_audio_and_labels_are_named(tmp_path: Path) -> None:
    gone = dataclasses.replace(record(tmp_path, "gone"), audio=tmp_path / "nowhere.wav")
    with pytest.raises(UserError, match=r"record 'gone': .*nowhere.wav"):
        cache.build(tmp_path / "f", [gone], (1.0,), workers=1)
    short = dataclasses.replace(record(tmp_path, "short"), duration_s=2.0)
    with pytest.raises(UserError, match=r"record 'short': .* gives 0.50 s, but its manifest says 2.00 s"):
        cache.build(tmp_path / "f", [short], (1.0,), workers=1)
    assert not list((tmp_path / "f").iterdir())
    wrong = record(tmp_path, "w", tasks=("ser",), labels={"ser": "hapy"})
    with pytest.raises(UserError, match=r"record 'w' has the ser label 'hapy' \(did you mean 'happy'\?\)"):
        sources.check([wrong], {"ser": ("sad", "happy")})


def test_the_hash_of_a_part_is_of_what_its_records_say(both: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    first = sources.read([Source("a.jsonl")], both).parts[0]
    assert (first.num_records, first.hours) == (4, round(1.8 / 3600, 3))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for path in both.glob("a*"):
        (elsewhere / path.name).write_bytes(path.read_bytes())
    assert sources.read([Source("a.jsonl")], elsewhere).parts[0].sha256 == first.sha256
    rows = [json.loads(line) for line in (both / "a.jsonl").read_text().splitlines()]
    rows[2]["text"] = "two"
    (both / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert sources.read([Source("a.jsonl")], both).parts[0].sha256 != first.sha256
