"""Figures of series, the rule for what is bound by launches, taking turns, and the command."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.deploy import tiny_model
from tests.fake_model import FakeBackend, tokenizer
from zhiyin.cli import main
from zhiyin.deploy import bench
from zhiyin.deploy.bench import Plan, Row, Subject
from zhiyin.deploy.bench_stats import growth, is_flat, stats
from zhiyin.runtime.base import Float32, ModelSpec
from zhiyin.runtime.load import Loaded, load


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("tiny") / "model")


def test_figures_of_a_known_series() -> None:
    found = stats([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (found.count, found.mean_s, found.median_s, found.min_s, found.max_s) == (5, 3.0, 3.0, 1.0, 5.0)
    assert found.p95_s == pytest.approx(4.8) and found.p99_s == pytest.approx(4.96)  # 0.95 * 4 = 3.8 steps from 1
    one = stats([0.25])
    assert (one.mean_s, one.p95_s, one.p99_s) == (0.25, 0.25, 0.25)
    with pytest.raises(ValueError, match="no time was measured"):
        stats([])


def test_percentiles_agree_with_the_standard_library() -> None:
    series = np.random.default_rng(3).lognormal(size=317).tolist()
    found = stats(series)
    cuts = statistics.quantiles(series, n=100, method="inclusive")
    assert [found.median_s, found.p95_s, found.p99_s] == pytest.approx([cuts[49], cuts[94], cuts[98]])
    assert found.mean_s == pytest.approx(statistics.fmean(series))


@pytest.mark.parametrize(
    ("sizes", "times", "share", "flat"),
    [
        ((32, 64, 128), (0.1340, 0.1390, 0.1363), 0.00572, True),  # of a page on Granite on an NPU: 7.4 tokens a second
        ((5, 10), (0.1, 0.2), 1.0, False),
        ((10, 5), (0.2, 0.1), 1.0, False),  # in any order
        ((5, 10, 15), (0.1, 0.1, 0.115), 0.075, True),
        ((5, 10, 15), (0.1, 0.11, 0.13), 0.15, False),
        ((5, 9), (0.1, 0.1), None, False),  # less than twice as long says nothing
        ((5,), (0.1,), None, False),
    ],
)
def test_launch_bound_is_when_time_does_not_grow(
    sizes: Sequence[float], times: Sequence[float], share: float | None, flat: bool
) -> None:
    assert growth(sizes, times) == (None if share is None else pytest.approx(share, rel=1e-2))
    assert is_flat(sizes, times) is flat


def test_what_is_flat_is_said_by_component() -> None:
    def row(name: str, length_s: float, batch: int, seconds: float) -> Row:
        return Row("m", name, length_s, batch, stats([seconds]), None, None, 1.0)

    rows = [
        row("encode", 5, 1, 0.040),
        row("encode", 15, 1, 0.041),
        row("prefill", 5, 1, 0.02),
        row("prefill", 15, 1, 0.06),
    ]
    rows += [
        row("step", 5, 1, 0.010),
        row("step", 5, 4, 0.0101),
        row("features", 5, 1, 0.1),
        row("features", 15, 1, 0.1),
    ]
    said = bench._flat(rows)
    assert [line.split(" (")[0] for line in said] == [
        "m: encode does not grow with length",
        "m: step does not grow with batch",
    ]
    assert "(40.0 to 41.0 ms): bound by launches or by padding to a fixed size, not by arithmetic" in said[0]


class Logging(FakeBackend):
    """Writes into a list shared by several who was asked to encode how much."""

    def __init__(self, who: str, log: list[tuple[str, int]], words: Tokenizer):
        spec = ModelSpec(who, "zhiyin", ("asr",), words.token_to_id("<eos>"), max_window_s=15.0, max_tokens=200)
        super().__init__(lambda prompt, window, seconds: "one", spec, words)
        self.who, self.log = who, log

    def encode(self, mels: Sequence[Float32]) -> list:
        self.log.append((self.who, len(mels)))
        return super().encode(mels)


def test_models_take_turns_and_warm_up_is_not_counted() -> None:
    log: list[tuple[str, int]] = []
    words = tokenizer(["one <asr>"])
    subjects = [Subject(who, Loaded(Logging(who, log, words), words, "nowhere"), 0.0, None) for who in "ab"]
    calls = {
        one.label: {"encode": lambda one=one: [float(len(one.model.backend.encode([np.zeros((80, 100), np.float32)])))]}
        for one in subjects
    }
    found = bench._in_turns(calls, Plan(warmup=1, runs=3))
    assert [who for who, _ in log] == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert found["encode"] == {"a": [1.0] * 3, "b": [1.0] * 3}


def test_rows_of_a_real_model(tiny: Path) -> None:
    model = load(str(tiny), device="cpu", backend="eager")
    plan = Plan(warmup=0, runs=2, lengths_s=(1.0, 12.0), batches=(1, 2), tokens=3)
    report = bench.measure([Subject("one", model, 0.0, None), Subject("two", model, 0.0, None)], plan)
    names = {(row.component, row.length_s, row.batch) for row in report.rows}
    parts = ("features", "encode", "prefill", "step", "first token", "reply")
    assert names == {
        *((name, 1.0, batch) for name in parts for batch in (1, 2)),
        ("understand", 1.0, 1),
        ("understand", 12.0, 1),
    }
    for row in report.rows:
        assert row.stats.count == (6 if row.component == "step" else 2)
        assert row.stats.min_s <= row.stats.median_s <= row.stats.p95_s <= row.stats.p99_s <= row.stats.max_s
        assert (row.rtf is None) is (row.component in ("prefill", "step"))
        if row.rtf is not None:
            assert row.rtf == pytest.approx(row.stats.mean_s / (row.length_s * row.batch))
        if row.component == "step":
            assert row.tokens_per_s == pytest.approx(row.batch / row.stats.mean_s)
    firsts = [row for row in report.rows if row.label == "one"]
    assert all(row.to_first == 1.0 for row in firsts) and len(firsts) * 2 == len(report.rows)
    assert any("12 s are more than its window of 10 s; only understand, which cuts" in note for note in report.notes)


def test_inputs_are_speech_of_the_length_asked_and_the_same_each_time() -> None:
    assert len(bench.speech(7.5)) == 120_000 and np.abs(bench.speech(20.0)).max() > 0.5
    np.testing.assert_array_equal(bench.speech(2.0), bench.speech(7.5)[:32_000])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--runs", "0"), "runs is 0; at least 1"),
        (("--warmup", "-1"), "warmup is -1; at least 0"),
        (("--tokens", "0"), "tokens is 0"),
        (("--tokens", "500"), "with 500 tokens"),
        (("--lengths", "5,x"), "lengths '5,x' are not numbers"),
        (("--lengths", "0"), "seconds from 0.1 to 3600"),
        (("--lengths", "nan"), "seconds from 0.1 to 3600"),
        (("--batch", "0"), "at least 1 is needed"),
        (("--task", "ser"), "cannot do ser; it can do: asr"),
        (("--compare", "elsewhere"), "model 'elsewhere' is not there"),
        (("--compare", "npu:7"), "device 'npu:7': torch has only "),
    ],
)
def test_nonsense_is_refused(tiny: Path, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["bench", str(tiny), "--device", "cpu", "--warmup", "0", "--runs", "1", "--lengths", "1", *words])
    captured = capsys.readouterr()
    assert left.value.code == 2 and said in captured.err and captured.out == ""


def test_the_last_line_is_json_and_progress_is_elsewhere(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--warmup",
        "0",
        "--runs",
        "1",
        "--lengths",
        "1",
        "--tokens",
        "2",
        "--device",
        "cpu",
        "--compare",
        str(tiny),
    ]
    main_words = ["bench", str(tiny), *words]
    with pytest.raises(SystemExit):
        main(main_words)
    captured = capsys.readouterr()
    report = json.loads(captured.out.splitlines()[-1])
    assert [one["label"] for one in report["subjects"]] == ["tiny eager cpu float32", "tiny eager cpu float32 #2"]
    assert "] loading " in captured.err and "] 1 s, batch 1" in captured.err and "loading" not in captured.out
    assert report["plan"]["tokens"] == 2 and len(report["rows"]) == 14
    with pytest.raises(SystemExit):
        main([*main_words, "--json"])
    assert len(capsys.readouterr().out.splitlines()) == 1
