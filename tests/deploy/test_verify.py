"""Measures, gates, references, golden outputs and the command; what catches faults is in `test_verify_faults`."""

import json
import math
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.deploy import tiny_model
from zhiyin import UserError
from zhiyin.cli import main
from zhiyin.deploy import verify, verify_gates, verify_golden, verify_inputs, verify_observe
from zhiyin.deploy.verify_gates import Gate, Measures
from zhiyin.runtime.load import Loaded, load

NOT_IN_BASE = ("torch", "transformers", "onnx", "safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Loaded:
    return load(str(folder), device="cpu", backend="eager", dtype="float32")


@pytest.fixture(scope="module")
def golden(tiny: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("golden") / "out"
    verify.dump(tiny, out)
    return out


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    return int(left.value.code or 0), captured.out, captured.err


def test_measures_are_what_their_formulas_say() -> None:
    numbers = random.Random(1)
    left = [[numbers.gauss(0, 1) for _ in range(4)] for _ in range(6)]
    right = [[value + numbers.gauss(0, 0.3) for value in row] for row in left]
    a, b = [value for row in left for value in row], [value for row in right for value in row]
    found = verify_gates.compare(np.array(left), np.array(right), logits=True)
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    assert found.cosine == pytest.approx(dot / math.hypot(*a) / math.hypot(*b))
    assert found.mean_abs == pytest.approx(math.fsum(abs(x - y) for x, y in zip(a, b, strict=True)) / 24)
    assert found.max_abs == pytest.approx(max(abs(x - y) for x, y in zip(a, b, strict=True)))
    assert found.relative_l2 == pytest.approx(math.hypot(*(x - y for x, y in zip(a, b, strict=True))) / math.hypot(*a))
    best = [sum(x.index(max(x)) == y.index(max(y)) for x, y in zip(left, right, strict=True)) / 6]
    assert [found.top1] == best
    same = verify_gates.compare(np.zeros((2, 3)), np.zeros((2, 3)), logits=False)
    assert (same.cosine, same.relative_l2, same.top1) == (1.0, 0.0, None)


def test_what_cannot_be_compared_is_a_fault() -> None:
    broken = np.array([1.0, np.nan, np.inf], np.float32)
    assert verify_gates.compare(np.ones(3), broken, logits=False).fault == "2 of 3 values are not finite"
    assert verify_gates.compare(np.ones(3), np.ones(4), logits=False).fault == "shape [4] instead of [3]"


def test_errors_are_edit_distances() -> None:
    assert verify_gates.compare_tokens((1, 2, 3, 4), (1, 3, 4, 5)).error == 0.5
    assert (
        verify_gates.compare_texts("turn left 北京", "turn right 北").error == 0.5
    )  # of four: two words, two characters
    assert verify_gates.compare_texts("", "").error == 0.0 and verify_gates.compare_texts("", "one two").error == 2.0


@pytest.mark.parametrize(
    ("measures", "said"),
    [
        (Measures(cosine=0.9, relative_l2=0.01), "cosine 0.9 < 0.99"),
        (Measures(cosine=0.999, relative_l2=0.2, top1=0.5), "relative_l2 0.2 > 0.1, top1 0.5 < 0.9"),
        (Measures(cosine=float("nan")), "cosine nan < 0.99"),
        (Measures(cosine=0.99, relative_l2=0.1, top1=0.9, error=0.0), ""),
        (Measures(fault="shape"), "shape"),
    ],
)
def test_gates_name_what_is_exceeded(measures: Measures, said: str) -> None:
    assert verify_gates.broken(measures, Gate(0.99, 0.1, 0.9, 0.0)) == said


def test_teacher_forced_logits_are_those_of_the_whole_sequence(tiny: Loaded) -> None:
    """Against the decoder without a cache, rows of different lengths at once."""
    import torch

    from tests.deploy.faults import network

    cases = verify_inputs.prepare(tiny, verify_inputs.sounds("real", tiny.backend.spec))
    seen = verify_observe.observe(tiny, cases)
    decoder = network(tiny).decoder
    for name, case, question in verify_observe.asked(cases):
        reply = tiny.backend.embed(question.reply_ids)[:-1]
        whole = torch.from_numpy(np.concatenate([verify_observe.embeds(tiny, case, question), reply]))
        expected = decoder.logits(decoder(whole[None])[0, -len(question.reply_ids) :])
        for row in ("decoder", "decoder in a batch"):
            np.testing.assert_allclose(seen.arrays[row][name], expected.detach().numpy(), rtol=0, atol=3e-5)
    lengths = {len(case.questions[0].reply_ids) for case in cases}
    assert seen.texts["text"].keys() == seen.tokens["reply"].keys() and lengths


def test_rows_show_the_blocks_of_all_three_components(tiny: Loaded) -> None:
    """Against hooks of torch."""
    import torch

    from tests.deploy.faults import network

    [case, *_] = verify_inputs.prepare(tiny, verify_inputs.sounds("random", tiny.backend.spec))
    seen = verify_observe.observe(tiny, [case])
    model, kept = network(tiny), {}

    def keep(name: str) -> Callable[..., None]:
        return lambda part, given, out: kept.update({name: out[0] if isinstance(out, tuple) else out})

    parts = {"encoder blocks.4": model.encoder.blocks[4], "projector blocks.0": model.projector.blocks[0]}
    hooks = [part.register_forward_hook(keep(name)) for name, part in {**parts, "encoder": model.encoder}.items()]
    model.listen(torch.from_numpy(case.mel_MF)[None], torch.tensor([case.mel_MF.shape[1]]))
    for hook in hooks:
        hook.remove()
    assert len(kept) == 3
    for name, expected in kept.items():
        np.testing.assert_allclose(seen.arrays[name][case.name], expected.detach().numpy().ravel(), rtol=0, atol=1e-6)
    blocks = [row for row in seen.arrays if "." in row]
    assert blocks == [*(f"encoder blocks.{i}" for i in range(5)), "projector convs.0", "projector convs.1",
                      "projector blocks.0", *(f"decoder layers.{i}" for i in range(3))]  # fmt: skip


def test_a_device_is_never_compared_with_itself(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "verify", folder, "--backend", "eager", "--device", "cpu", "--dtype", "float32")
    assert code == 2 and "would be compared with itself; choose another --device" in err


def test_the_command_passes_and_fails_by_its_gates(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("verify", folder, "--dtype", "bfloat16", "--runs", "1", "--inputs", "random")
    code, out, err = run(capsys, *words)
    assert code == 0 and "passed: " in out and "gates: bfloat16" in out and "run 1 of 1" in err
    strict = tmp_path / "gates.toml"
    text = verify_gates.DEFAULT.read_text(encoding="utf-8").replace("max_relative_l2 = 0.1", "max_relative_l2 = 1e-6")
    strict.write_text(text, encoding="utf-8")
    code, out, _ = run(capsys, *words, "--gates", strict, "--json")
    report = json.loads(out)
    assert code == 1 and report["passed"] is False and report["gates"] == "bfloat16"
    first = next(row for row in report["rows"] if row["wrong"])
    assert first["name"] == "encoder blocks.0" and first["wrong"].endswith("> 1e-06")
    strict.write_text(text.replace("[int8]", "[int7]"), encoding="utf-8")
    code, _, err = run(capsys, *words, "--gates", strict)
    assert code == 2 and "no setting 'int7'; did you mean 'int8'?" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--runs", "0"), "runs 0: at least 1 is needed"),
        (("--inputs", "noise"), "inputs 'noise': no such file; known: real, random"),
        (("--against", "nothing"), "model 'nothing' is not there"),
        (("--dump", "x", "--hunt"), "leave --hunt out"),
    ],
)
def test_nonsense_is_refused(
    folder: Path, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "verify", folder, "--dtype", "bfloat16", *words)
    assert code == 2 and said in err and out == ""


def test_golden_outputs_travel(tiny: Loaded, folder: Path, golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    back = verify_golden.read(golden)
    cases = verify_inputs.prepare(tiny, verify_inputs.sounds("real,random", tiny.backend.spec))
    assert [case.questions for case in back.cases] == [case.questions for case in cases]
    np.testing.assert_array_equal(back.cases[0].vectors_SD, cases[0].vectors_SD)
    words = (
        "--backend",
        "eager",
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--against",
        golden,
        "--runs",
        "1",
        "--json",
    )
    code, out, _ = run(capsys, "verify", folder, *words)  # the same place, but another time: allowed
    report = json.loads(out)
    assert code == 0 and "inputs are those of the golden outputs" in report["notes"]
    assert all((row["measures"]["relative_l2"] or 0.0) < 1e-5 for row in report["rows"])
    with pytest.raises(UserError, match="golden outputs hold no layers"):
        verify.compare(tiny, back, hunt=True)


def test_golden_texts_of_other_windows_are_not_compared(tiny: Loaded, golden: Path) -> None:
    other = load(tiny.source, device="cpu", backend="eager", dtype="float32")
    other.backend.spec = replace(other.backend.spec, max_window_s=2.0)
    report = verify.compare(other, verify_golden.read(golden), runs=1)
    assert report.passed and "text" not in {row.name for row in report.rows}
    assert "3 inputs are longer than the model's window and were left out" in report.notes
    assert any(
        note.startswith("not shown: text: the golden texts were heard in windows of up to 10 s")
        for note in report.notes
    )


def test_golden_outputs_of_another_model_are_refused(golden: Path, tmp_path: Path) -> None:
    other = load(str(tiny_model.write(tmp_path / "other", seed=8)), device="cpu", backend="eager")
    with pytest.raises(UserError, match=r"other weights \(SHA-256 [0-9a-f]{12}, not [0-9a-f]{12}\); give the model"):
        verify.compare(other, verify_golden.read(golden))


def test_a_bundle_of_another_model_is_told_by_its_table(tiny: Loaded) -> None:
    """Another form has other files; so the token table is looked at."""
    table = {"tokens": tiny.backend.embed(range(5))}
    seen = verify_observe.Seen({"embeddings": table})
    verify._check_same_table(seen, verify_observe.Seen({"embeddings": {"tokens": table["tokens"] * 1.001}}), tiny)
    with pytest.raises(UserError, match=r"its token table is not the reference's \(they differ by 0.05\)"):
        verify._check_same_table(seen, verify_observe.Seen({"embeddings": {"tokens": table["tokens"] * 1.05}}), tiny)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("golden.npz", lambda data: data[:-9], r"golden.npz is damaged"),
        ("golden.json", lambda data: data[: len(data) // 2], "cannot be read"),
        ("golden.json", lambda data: data.replace(b'"format": 1', b'"format": 9'), "format 9, this zhiyin reads 1"),
        ("golden.json", lambda data: data.replace(b'"row', b'"wor').replace(b'"mel', b'"lem'), "cannot be read"),
    ],
)  # fmt: skip
def test_damaged_golden_outputs_are_refused(golden: Path, tmp_path: Path, name: str, change: object, said: str) -> None:
    copy = Path(shutil.copytree(golden, tmp_path / "copy"))
    (copy / name).write_bytes(change((copy / name).read_bytes()))  # type: ignore[operator]
    with pytest.raises(UserError, match=said):
        verify_golden.read(copy)


def test_a_dump_replaces_only_a_dump(tiny: Loaded, golden: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="it is there and no dump"):
        verify.dump(tiny, tmp_path, inputs="random")
    again = Path(shutil.copytree(golden, tmp_path / "again"))
    verify.dump(tiny, again, inputs="random")
    assert {case.kind for case in verify_golden.read(again).cases} == {"random"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "notes.txt"]


def test_the_base_install_checks_the_bundle_against_golden_outputs_of_the_checkpoint(tmp_path: Path) -> None:
    """The pocket model: the reference is written with torch, and checked where torch is not."""
    verify.dump(verify.reference_of("pocket", verify.CPU_FP32, 1), tmp_path / "golden", inputs="random")
    code = (
        f"import sys\nfor name in {NOT_IN_BASE!r}: sys.modules[name] = None\n"
        f"from zhiyin.cli import main\nmain(['verify', 'pocket', '--against', {str(tmp_path / 'golden')!r}, '--json'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    report = json.loads(done.stdout)
    assert done.returncode == 0, [row for row in report["rows"] if row["wrong"]]
    assert report["subject"]["backend"] == "onnx" and report["reference"]["backend"] == "eager"
    assert any(note.startswith("not shown: blocks of encoder") for note in report["notes"])


def test_the_sounds_of_the_package_are_samples_of_the_repository(repository: Path) -> None:
    names = [path.name for path in verify_inputs.SOUNDS.iterdir()]
    assert len(names) == 3
    for name in names:
        assert (verify_inputs.SOUNDS / name).read_bytes() == (repository / "samples" / name).read_bytes()


def test_a_recording_of_ones_own_is_cut_into_windows(tiny: Loaded, repository: Path) -> None:
    found = verify_inputs.sounds(str(repository / "samples" / "words-1.flac"), tiny.backend.spec)
    assert [sound.name for sound in found] == ["words-1-0s"] and found[0].samples_T is not None
