"""Features, augmentation and batches."""

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile

from zhiyin.audio.features import hz_to_mel, log_mel, mel_to_hz
from zhiyin.audio.io import load
from zhiyin.data import cache, tokenizer
from zhiyin.data.augment import AugmentConfig, augment, warped
from zhiyin.data.examples import TaskMix, make
from zhiyin.data.joined import join_words
from zhiyin.data.loader import Batch, Loader, LoaderConfig, Place
from zhiyin.data.manifest import Record
from zhiyin.tasks.render import TimedWord

RATE_HZ = 16_000
STILL = AugmentConfig(noise_share=0, colour_share=0, band_share=0, time_masks=0, mel_masks=0, pad_frames=0)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    folder = tmp_path_factory.mktemp("tones")
    made = []
    for i in range(12):
        seconds = 0.4 + 0.1 * i
        samples = 0.3 * np.sin(2 * np.pi * (200 + 40 * i) * np.arange(int(seconds * RATE_HZ)) / RATE_HZ)
        soundfile.write(folder / f"{i}.flac", samples, RATE_HZ)
        word = TimedWord("la", 0.0, seconds)
        made.append(
            Record(f"r{i}", folder / f"{i}.flac", seconds, ("asr", "srwt"), "la", (word,), speaker="s", language="en")
        )
    return made


@pytest.fixture(scope="module")
def loader(records: list[Record], tmp_path_factory: pytest.TempPathFactory) -> Loader:
    features = cache.build(tmp_path_factory.mktemp("cache"), records, (0.9, 1.0), workers=1)
    pieces = tokenizer.train(["la la"] * 3, ["<asr>", "<srwt>"], num_pieces=20, max_time_s=3.0, time_step_s=0.04)
    config = LoaderConfig(batch_s=4.0, pool=20, speeds=(0.9, 1.0))
    mix = TaskMix(plain_share=0.3)
    return Loader(records, features, pieces, {}, config, mix, AugmentConfig(), eos_id=1, time_step_s=0.04, seed=7)


def test_cached_features_are_those_of_the_file(records: list[Record], tmp_path: Path) -> None:
    built = cache.build(tmp_path, records[:3], (1.0,), workers=1)
    again = cache.build(tmp_path, records[:3], (1.0,), workers=1)
    for record in records[:3]:
        expected = log_mel(load(record.audio)).T
        np.testing.assert_allclose(built.get(record.id), expected, atol=2e-3)  # float16
        np.testing.assert_array_equal(built.get(record.id), again.get(record.id))


def test_a_faster_speed_is_shorter(records: list[Record], tmp_path: Path) -> None:
    built = cache.build(tmp_path, records[:1], (0.5, 1.0), workers=1)
    assert len(built.get("r0", 0.5)) == pytest.approx(2 * len(built.get("r0", 1.0)), abs=1)


def test_without_shares_nothing_is_changed(records: list[Record]) -> None:
    clean = log_mel(load(records[0].audio)).T
    got, front = augment(clean.copy(), STILL, np.random.default_rng(1))
    np.testing.assert_allclose(got, clean, atol=1e-5)
    assert front == 0


def test_noise_has_the_asked_level() -> None:
    rng = np.random.default_rng(3)
    clean = rng.uniform(0.2, 0.6, (400, 80)).astype(np.float32)
    config = AugmentConfig(**{**STILL.__dict__, "noise_share": 1.0, "snr_db": (10.0, 10.0)})
    noisy, _ = augment(clean.copy(), config, rng)
    power = [10.0 ** (4.0 * x.astype(np.float64) - 4.0) for x in (clean, noisy)]
    added = (power[1] - power[0]).mean()
    assert 10 * np.log10(power[0].mean() / added) == pytest.approx(10.0, abs=0.5)


def _take(loader: Loader, start: Place, count: int) -> list[tuple[Batch, Place]]:
    stream = loader.batches(start)
    taken = [next(stream) for _ in range(count)]
    stream.close()  # type: ignore[attr-defined]
    return taken


def test_a_warped_voice_has_its_formants_elsewhere() -> None:
    hz = mel_to_hz(np.linspace(0.0, hz_to_mel(np.array(8000.0)), 82))[1:-1]
    peak = np.exp(-(((hz - 1500.0) / 200.0) ** 2)).astype(np.float32)
    for factor in (0.85, 1.0, 1.2):
        out = warped(np.stack([peak, peak]), factor)
        assert out.shape == (2, 80)
        assert abs(hz[out[0].argmax()] / 1500.0 - factor) < 0.05
    assert np.allclose(warped(peak[None], 1.0), peak)


def test_a_voice_that_is_asked_about_is_not_warped() -> None:
    features = np.random.default_rng(1).uniform(-1, 1, (30, 80)).astype(np.float32)
    config = dataclasses.replace(STILL, warp_share=1.0)
    kept, _ = augment(features, config, np.random.default_rng(1))
    other, _ = augment(features, config, np.random.default_rng(1), keep_voice=False)
    assert np.allclose(kept, features, atol=1e-5) and not np.allclose(other, features, atol=0.1)


def test_questions_about_the_speaker_alone_are_answered_from_the_voice_alone(
    records: list[Record], loader: Loader
) -> None:
    voiced = [dataclasses.replace(r, tasks=("asr", "sgc"), labels={"sgc": "male"}) for r in records]
    mix = dataclasses.replace(loader.mix, unfit_share=0.0, voice_only_share=1.0)
    examples = [make(voiced[0], mix, {}, random.Random(seed)) for seed in range(60)]
    assert all(example.voice_only != (str(voiced[0].text) in example.target) for example in examples)
    assert {example.voice_only for example in examples} == {False, True}
    some = Loader(
        voiced, loader.cache, loader.tokenizer, {}, loader.config, mix, STILL, eos_id=1, time_step_s=0.04, seed=1
    )
    marks = np.concatenate([batch.voice_only_B for batch, _ in _take(some, Place(), 4)])
    assert marks.any() and not marks.all()


def test_a_batch_says_all_that_is_known_of_its_recordings(records: list[Record], loader: Loader) -> None:
    marks = ["<asr>", "<sgc>", "<sap>", "<male>", "<female>", "<child>", "<adult>"]
    pieces = tokenizer.train(["la la"] * 3, marks, num_pieces=20, max_time_s=3.0, time_step_s=0.04)
    known = {"sgc": "male", "sap": "child"}
    kinds = [("asr", "sgc", "sap"), ("asr", "sap"), ("asr",)]  # only what a record is used for is told
    voiced = [dataclasses.replace(r, tasks=kinds[i % 3], labels=known) for i, r in enumerate(records)]
    voiced[3] = dataclasses.replace(voiced[3], tasks=("asr", "sap"), labels={"sap": "old"})  # no token of the model
    sets = {"sgc": ("male", "female"), "sap": ("child", "adult")}
    mix = dataclasses.replace(loader.mix, extra_share=0.0)  # whatever is asked
    some = Loader(voiced, loader.cache, pieces, sets, loader.config, mix, STILL, eos_id=1, time_step_s=0.04, seed=1)
    ids = {name: pieces.token_to_id(f"<{name}>") for name in ("male", "female", "child", "adult")}
    gender, age = (ids["male"], ids["female"]), (ids["child"], ids["adult"])
    expected = [((ids["male"], gender), (ids["child"], age)), ((ids["child"], age),), ()]
    for batch, _ in _take(some, Place(), 6):
        for name, labels in zip(batch.ids, batch.labels, strict=True):
            number = int(name.removeprefix("r"))
            assert labels == (() if number == 3 else expected[number % 3])
        assert batch.only(0).labels == batch.labels[:1]


def test_quiet_at_both_ends_is_trimmed_but_for_a_margin() -> None:
    rng = np.random.default_rng(1)
    features = rng.uniform(-1.5, -1.3, (200, 80)).astype(np.float32)
    features[70:120] = rng.uniform(0.0, 0.5, (50, 80))
    config = dataclasses.replace(STILL, trim_share=1.0, trim_frames=(10, 40))
    found = [augment(features, config, np.random.default_rng(seed)) for seed in range(40)]
    for trimmed, front in found:
        assert -60 <= front <= -30 and 70 <= len(trimmed) <= 130
        loud = np.flatnonzero(trimmed.mean(1) > -0.5)
        assert loud[0] - front == 70 and len(loud) == 50  # word times move by `front`
    assert len({len(trimmed) for trimmed, _ in found}) > 10
    even = np.zeros((30, 80), np.float32)
    assert augment(even, config, rng)[0].shape == even.shape
    half = dataclasses.replace(config, trim_share=0.5)
    whole = sum(len(augment(features, half, np.random.default_rng(seed))[0]) == 200 for seed in range(100))
    assert 30 < whole < 70


def test_transcripts_with_rare_words_are_not_learned(records: list[Record], loader: Loader) -> None:
    texts = ["seven two", "seven", "seven", "", None]
    named = [dataclasses.replace(r, text=text) for r, text in zip(records, texts, strict=False)]
    named = [dataclasses.replace(r, tasks=(*r.tasks, "sgc"), labels={"sgc": "male"}) for r in named]
    config = dataclasses.replace(loader.config, min_word_count=2)
    kept = Loader(
        named,
        loader.cache,
        loader.tokenizer,
        {},
        config,
        TaskMix(),
        AugmentConfig(),
        eos_id=2,
        time_step_s=0.04,
        seed=1,
    ).records
    by_id = {record.id: record for record in kept}
    assert [by_id[r.id].text for r in named] == [None, "seven", "seven", "", None][: len(named)]
    assert "asr" not in by_id[named[0].id].tasks and "sgc" in by_id[named[0].id].tasks


def test_a_resumed_loader_goes_on_with_the_very_next_batch(loader: Loader) -> None:
    whole = _take(loader, Place(), 12)
    for at in (0, 4, 9):
        for (first, _), (second, _) in zip(whole[at + 1 :], _take(loader, whole[at][1], 11 - at), strict=True):
            assert first.ids == second.ids
            assert first.targets == second.targets
            np.testing.assert_array_equal(first.mel_BMF, second.mel_BMF)


def test_batches_keep_their_bound_and_end_their_targets(loader: Loader) -> None:
    for batch, _ in _take(loader, Place(), 12):
        count, _, frames = batch.mel_BMF.shape
        assert count * frames / 100 <= loader.config.batch_s or count == 1
        assert frames == batch.frames_B.max()
        assert all(target[-1] == 1 for target in batch.targets)


def test_weights_are_shares_of_records(records: list[Record], loader: Loader) -> None:
    half = [dataclasses.replace(r, source="often" if i % 2 else "never") for i, r in enumerate(records)]
    config = dataclasses.replace(loader.config, weights={"never": 0.0})
    only = Loader(
        half, loader.cache, loader.tokenizer, {}, config, loader.mix, STILL, eos_id=1, time_step_s=0.04, seed=1
    )
    often = {record.id for record in half if record.source == "often"}
    assert {name for batch, _ in _take(only, Place(), 8) for name in batch.ids} <= often


def test_joined_words_are_where_their_times_say(records: list[Record], tmp_path: Path) -> None:
    for record in join_words(tmp_path, records, 5, seed=2):
        samples = load(record.audio)
        for word in record.words:
            inside = samples[int(word.start_s * RATE_HZ) + 400 : int(word.end_s * RATE_HZ) - 400]
            assert np.sqrt(np.mean(inside**2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.05)
        gaps = np.ones(len(samples), bool)
        for word in record.words:
            gaps[max(0, int(word.start_s * RATE_HZ) - 2) : int(word.end_s * RATE_HZ) + 2] = False
        assert np.abs(samples[gaps]).max() < 0.01
        assert record.text == " ".join(["la"] * len(record.words))


def test_short_recordings_come_first(records: list[Record], loader: Loader) -> None:
    config = dataclasses.replace(loader.config, growth=((2, 0.7), (3, 1.0)))
    growing = Loader(
        records, loader.cache, loader.tokenizer, {}, config, loader.mix, STILL, eos_id=1, time_step_s=0.04, seed=1
    )
    longest: dict[int, float] = {}
    duration_s = {record.id: record.duration_s for record in records}
    place = Place()
    while place.pool < 5:
        [(batch, after)] = _take(growing, place, 1)
        longest[place.pool] = max(longest.get(place.pool, 0.0), *(duration_s[name] for name in batch.ids))
        place = after
    assert longest[0] <= 0.7 and longest[1] <= 0.7 and longest[2] <= 1.0
    assert max(longest[3], longest[4]) > 1.0


def test_a_source_can_be_used_for_some_of_its_tasks(records: list[Record], loader: Loader) -> None:
    voiced = [dataclasses.replace(r, tasks=(*r.tasks, "sgc"), labels={"sgc": "male"}, source="voices") for r in records]
    config = dataclasses.replace(loader.config, only={"voices": ("sgc",)})
    some = Loader(
        voiced, loader.cache, loader.tokenizer, {}, config, loader.mix, STILL, eos_id=1, time_step_s=0.04, seed=1
    )
    assert {record.tasks for record in some.records} == {("sgc",)}
    assert all(transcript in (None, ()) for batch, _ in _take(some, Place(), 4) for transcript in batch.transcripts)
    none = dataclasses.replace(config, only={"voices": ("ser",)})
    left = Loader(
        voiced, loader.cache, loader.tokenizer, {}, none, loader.mix, STILL, eos_id=1, time_step_s=0.04, seed=1
    )
    assert left.records == []
