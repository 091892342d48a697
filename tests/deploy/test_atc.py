"""`zhiyin atc`: the command for each graph, run by a double of `atc`, or written down for a machine that has it."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy import tiny_model
from zhiyin.cli import main
from zhiyin.deploy import atc, buckets
from zhiyin.deploy.export import export
from zhiyin.deploy.export_plan import Options
from zhiyin.errors import UserError
from zhiyin.runtime import bundle
from zhiyin.runtime.base import ModelSpec
from zhiyin.runtime.onnx import OnnxBackend

DOUBLE = Path(__file__).resolve().parents[1] / "npu_sim" / "fake_atc.py"
HOST = "linux-aarch64"
PORTS = (bundle.Port("mel", "float32", (1, 80, 100)),)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encoder and projector in one bucket: what is compiled does not matter here, and each graph costs a second."""
    folder = tmp_path_factory.mktemp("atc")
    options = Options(buckets_s=(1.0,), components=("encoder", "projector"))
    return export(tiny_model.write(folder / "checkpoint"), folder / "static", options).folder


@pytest.fixture(autouse=True)
def no_atc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atc.shutil, "which", lambda name: None)


@pytest.fixture
def with_atc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The double as a program on PATH; what it is told to do instead stands in the file returned."""
    program, instead = tmp_path / "bin" / "atc", tmp_path / "instead"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\n[ -f {instead} ] && exec sh {instead} "$@"\nexec {sys.executable} {DOUBLE} "$@"\n',
        encoding="utf-8",
    )
    program.chmod(0o755)
    monkeypatch.setattr(atc.shutil, "which", lambda name: str(program))
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return instead


def build(source: Path, out: Path, soc: str = "310P3", precision: str = "mixed", limit_s: float = 60.0) -> list[str]:
    return list(atc.run(atc.plan(source, out, soc, precision=precision, host=HOST), limit_s=limit_s))


def test_the_command_is_the_one_of_the_documentation(source: Path, tmp_path: Path) -> None:
    lines = atc.plan(source, tmp_path / "out", "Ascend310P3", precision="fp16", host=HOST).lines()
    assert [shlex.split(line) for line in lines] == [
        [
            "atc",
            f"--model={source}/encoder_100.onnx",
            "--framework=5",
            "--output=encoder_100",
            "--soc_version=Ascend310P3",
            "--input_format=ND",
            "--input_shape=mel:1,80,100;frames:1",
            "--precision_mode_v2=fp16",
            "--host_env_os=linux",
            "--host_env_cpu=aarch64",
            "--log=error",
        ]
    ]


def test_where_atc_is_the_bundle_is_compiled(source: Path, tmp_path: Path, with_atc: Path) -> None:
    build(source, tmp_path / "out", precision="fp32")
    assert bundle.read_target(tmp_path / "out") == bundle.Target("om", "Ascend310P3", "fp32", "linux", "aarch64")
    before, after = bundle.read_graphs(source), bundle.read_graphs(tmp_path / "out")
    assert [graph.file for graph in after] == [graph.file.replace(".onnx", ".om") for graph in before]
    assert [(g.inputs, g.outputs, g.size) for g in after] == [(g.inputs, g.outputs, g.size) for g in before]
    assert bundle.read(tmp_path / "out") == bundle.read(source), "the model is the same"
    kept = {"bundle.json", "tokenizer.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == kept | {graph.file for graph in after}
    with pytest.raises(UserError, match="compiled for Ascend310P3; run it there with --backend om"):
        OnnxBackend(tmp_path / "out")
    with pytest.raises(UserError, match="it is compiled already, for Ascend310P3"):
        build(tmp_path / "out", tmp_path / "again")


def test_where_atc_fails_its_cause_is_shown(source: Path, tmp_path: Path, with_atc: Path) -> None:
    build(source, tmp_path / "out")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    for script, said in (
        (
            "echo 'ATC run failed'; echo '[x] E19010: No parser is registered for Op [Gelu]'; exit 1",
            "E19010: No parser",
        ),
        ("echo; echo 'no space left on device'; exit 3", "no space left on device"),
        ("exit 1", "failed and said nothing; see the newest file under ~/ascend/log"),
        ("exit 0", "it ended well but wrote no encoder_100.om"),
        ("sleep 60", "not done after 0.5 s; give it more with --limit-s"),
    ):
        with_atc.write_text(script)
        with pytest.raises(UserError, match=f"atc encoder_100.onnx: .*{said}"):
            build(source, tmp_path / "out", limit_s=0.5 if script == "sleep 60" else 60.0)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "instead", "out"], "no scratch folder stays"


def test_names_with_the_host_are_understood(source: Path, tmp_path: Path, with_atc: Path) -> None:
    with_atc.write_text('for word in "$@"; do case $word in --output=*) : > "${word#*=}_linux_aarch64.om";; esac; done')
    build(source, tmp_path / "out")
    assert (tmp_path / "out/encoder_100.om").is_file()


def test_without_atc_a_script_does_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script is run by a shell as on another machine; the same command then seals what it made."""
    command = ["atc", str(source), str(tmp_path / "out"), "--soc", "Ascend910B3", "--host", HOST]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[:1] == atc.plan(source, tmp_path / "out", "910B3", host=HOST).lines() and "build.sh" in printed[1]
    record = json.loads((tmp_path / "out/build.json").read_text())
    assert record["target"] == {
        **{"kind": "om", "soc": "Ascend910B3", "precision": "mixed", "host_os": "linux", "host_cpu": "aarch64"}
    }
    assert [graph["file"] for graph in record["graphs"]] == ["encoder_100.om"]
    assert "source set_env.sh" in (tmp_path / "out/build.sh").read_text()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/atc").write_text(f'#!/bin/sh\nexec {sys.executable} {DOUBLE} "$@"\n')
    (tmp_path / "bin/atc").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    subprocess.run([str(tmp_path / "out/build.sh")], check=True, capture_output=True)
    with pytest.raises(UserError, match="are of another bundle, chip or precision"):
        build(source, tmp_path / "out", "310P3")
    assert build(source, tmp_path / "out", "910B3") == [f"{tmp_path / 'out'}: sealed for Ascend910B3, mixed"]
    target = bundle.read_target(tmp_path / "out")
    assert target is not None and target.soc == "Ascend910B3" and bundle.read(tmp_path / "out").name == "tiny"
    with pytest.raises(UserError, match="a bundle is there, and atc is not installed here to replace it"):
        build(source, tmp_path / "out", "910B3")


def test_what_the_script_left_out_is_named(tmp_path: Path) -> None:
    """Of two graphs one is compiled; both are made up, for nothing looks into them before all are there."""
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    graphs = [bundle.Graph(f"{c}_{n}.onnx", c, n, 1, PORTS, PORTS) for c, n in (("decoder", 1), ("encoder", 100))]
    tables = (bundle.EMBEDDINGS, bundle.MARKERS, bundle.TOKENIZER)
    for name in (*(graph.file for graph in graphs), *tables):
        (source / name).write_text(name)
    bundle.seal(source, ModelSpec("made up", "zhiyin", ("asr",), 1), bundle.Target("onnx"), graphs)
    build(source, out)
    assert len((out / "build.sh").read_text().split("\natc ")) == 3
    (out / "decoder_1_linux_aarch64.om").touch()  # the script was stopped before it took the host's name off
    with pytest.raises(UserError, match=r"encoder_100.om missing; let build.sh run to its end first"):
        build(source, out)
    (out / "encoder_100.om").touch()
    build(source, out)
    assert [graph.file for graph in bundle.read_graphs(out)] == ["decoder_1.om", "encoder_100.om"]
    assert all((out / name).read_text() == name for name in tables) and (out / "decoder_1.om").is_file()


def test_print_writes_nothing(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["atc", str(source), str(tmp_path / "out"), "--soc", "310B4", "--host", HOST, "--print"])
    assert capsys.readouterr().out.count("--soc_version=Ascend310B4") == 1 and not (tmp_path / "out").exists()


def test_target_om_exports_and_compiles(tmp_path: Path, with_atc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = str(tiny_model.write(tmp_path / "checkpoint"))
    words = ["export", checkpoint, str(tmp_path / "om"), "--target", "om", "--buckets", "1", "--host", HOST]
    words += ["--components", "encoder,projector"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--soc", "310P3"])
    assert ended.value.code == 0, capsys.readouterr().err
    assert bundle.read_target(tmp_path / "om") == bundle.Target("om", "Ascend310P3", "mixed", "linux", "aarch64")
    assert bundle.read_target(tmp_path / "om-onnx") == bundle.Target("onnx")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target", "tensorrt"], "target 'tensorrt' is not known; known: onnx om"),
        (["--target", "om", "--soc", "310P3"], "--target om needs fixed lengths; add --buckets"),
        (["--target", "om", "--buckets", "1"], "--target om needs the chip: --soc"),
        (["--target", "om", "--buckets", "1", "--soc", "920"], "soc '920' is not known; known: Ascend310 "),
        (["--target", "om", "--buckets", "1", "--soc", "310P3", "--precision", "int8"], "known: fp32 fp16 mixed"),
        (["--soc", "310P3"], "--soc and --host are for --target om"),
        (["--buckets", "5;10"], "bucket '5;10': seconds of audio are wanted"),
        (["--buckets", "5,-1"], "bucket '-1': seconds of audio are wanted"),
        (["--buckets", "nan"], "bucket 'nan': seconds"),
        (["--buckets", "5,5.0"], "bucket 5 is given twice"),
        (["--buckets", "1", "--batches", "1,x"], "batch 'x': 1 to 64 rows are possible"),
        (["--buckets", "30"], "bucket 30 s: model 'tiny': its encoder has positions for 12 s; leave this bucket out"),
        (["--precision", "fp16"], "precision 'fp16' is not known; known: float32 float16 int8 int8-dynamic"),
    ],
)
def test_wrong_words_of_export(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    checkpoint = tiny_model.write(tmp_path / "checkpoint") if "30" in words else tmp_path / "checkpoint"
    with pytest.raises(SystemExit) as ended:
        main(["export", str(checkpoint), str(tmp_path / "out"), *(["--host", HOST] if "om" in words else []), *words])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and said in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_wrong_words_of_atc(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"soc 'Ascend310P9' is not known; known: Ascend310 .* Ascend910B4 \(npu-smi"):
        build(source, tmp_path / "out", "Ascend310P9")
    with pytest.raises(UserError, match="precision 'int4' is not known to the compiler; known: fp32 fp16 mixed"):
        build(source, tmp_path / "out", precision="int4")
    with pytest.raises(UserError, match="host 'windows-x86_64': CANN runs on linux-aarch64 and linux-x86_64"):
        atc.plan(source, tmp_path / "out", "310P3", host="windows-x86_64")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/build.json").write_text("{}")
    with pytest.raises(UserError, match="it is there and no bundle"):
        build(source, tmp_path / "full")
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in source.iterdir():
        (broken / path.name).write_bytes(path.read_bytes()[: -1 if path.name == "encoder_100.onnx" else None])
    with pytest.raises(UserError, match=r"encoder_100.onnx is damaged"):
        build(broken, tmp_path / "out")


def test_a_bundle_for_any_length_is_not_compiled(tmp_path: Path) -> None:
    packaged = Path(bundle.__file__).parents[1] / "pocket" / "bundle"
    with pytest.raises(UserError, match="its graphs take any length; export it again with --buckets"):
        build(packaged, tmp_path / "out")


def test_bucket_words() -> None:
    assert buckets.parse("15, 5,7.5") == (5.0, 7.5, 15.0) and buckets.parse("") == ()
    assert buckets.parse_batches("4,1,4") == (1, 4)
