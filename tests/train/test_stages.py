"""The three stages from manifests and shards to a checkpoint, through `zhiyin train`; what a run folder says."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tokenizers import Tokenizer  # noqa: E402

from tests.data.made import tone  # noqa: E402
from zhiyin.data import manifest, shards  # noqa: E402
from zhiyin.data.manifest import Record, read_growing  # noqa: E402
from zhiyin.data.sources import Source  # noqa: E402
from zhiyin.errors import UserError  # noqa: E402
from zhiyin.model import checkpoint, lora  # noqa: E402
from zhiyin.tasks.render import TimedWord  # noqa: E402
from zhiyin.text.bigram import Bigram  # noqa: E402
from zhiyin.train import log, recipe  # noqa: E402
from zhiyin.train.recipe import Inputs  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SPEC = """
[spec]
name = "tiny"
tasks = ["asr", "srwt", "sgc", "ast", "sttc"]
languages = ["en"]
labels = {}
"""
RUN = """
[run]
log_every = 1
save_every = 2
evaluate_every = 4
tensorboard = false
"""
PERCEPTION = f"""{SPEC}{RUN}
[model.encoder]
width = 16
num_layers = 1
num_heads = 2
ffn_width = 16
max_positions = 200
conv_strides = [2, 2]
[model.projector]
conv_strides = [2]
width = 16
num_layers = 1
num_heads = 2
ffn_width = 16
max_positions = 200
[model.decoder]
vocab_size = 1
width = 16
num_layers = 1
num_heads = 2
num_kv_heads = 1
head_width = 8
ffn_width = 16
qkv_bias = false
tie_embeddings = true
[tokenizer]
num_pieces = 120
max_time_s = 2.0
[optimizer]
steps = 4
warmup_steps = 1
bf16 = false
train = ["encoder", "projector", "markers", "ctc"]
[data]
manifests = [{{ path = "train.jsonl", weight = 2.0 }}, {{ path = "shards" }}]
dev = [{{ path = "dev.jsonl" }}]
[mix]
plain_share = 0.0
x_only_share = 0.5
[loader]
batch_s = 6.0
pool = 16
speeds = [1.0, 1.1]
variants = 1
label_balance = 1.0
task_balance = 0.5
"""
INTENT = f"""{SPEC}{RUN}
[lora]
r = 2
alpha = 8
targets = ["q_proj", "v_proj", "down_proj"]
[optimizer]
steps = 4
peak_rate = 3e-2
warmup_steps = 1
bf16 = false
[loader]
text_share = 1.0
text_rows = 8
"""
JOINT = f"""{SPEC}{RUN}
[optimizer]
steps = 4
warmup_steps = 1
bf16 = false
[mix]
plain_share = 0.75
[loader]
batch_s = 6.0
pool = 16
text_share = 0.3
text_rows = 4
keep_features = false
speeds = [1.0]
"""


def records(folder: Path, names: str) -> list[Record]:
    made = []
    for i, name in enumerate(names):
        length = 0.4 + 0.1 * i
        told = Record(name, tone(folder / f"{name}.flac", length, ord(name)), length, ("asr", "sgc", "srwt"), "one two")
        words = (TimedWord("one", 0.0, 0.2), TimedWord("two", 0.2, 0.4))
        told = replace(told, words=words, labels={"sgc": ("female", "male")[i % 3 > 0]}, language="en")
        if i % 2:
            told = replace(told, tasks=("asr", "ast"), words=(), labels={}, translation="eins zwei", instruction="auf")
        made.append(told)
    return made


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, stage files, and the runs of all three stages."""
    folder = tmp_path_factory.mktemp("stages")
    manifest.write(folder / "train.jsonl", records(folder, "abcdef"))
    manifest.write(folder / "dev.jsonl", records(folder, "wxyz"))
    shards.write(records(folder, "ghij"), folder / "shards", per_shard=3)
    for name, text in (("perception", PERCEPTION), ("intent", INTENT), ("joint", JOINT)):
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    given = {
        "perception": Inputs(),
        "intent": Inputs(start=folder / "perception" / "checkpoint"),
        "joint": Inputs(
            train=(Source(str(folder / "train.jsonl")), Source(str(folder / "shards"), 0.5)),
            dev=(Source(str(folder / "dev.jsonl")),),
            start=folder / "intent" / "checkpoint",
        ),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "draw", lambda metrics, picture: None)
        for name, inputs in given.items():
            run(folder, name, inputs)
    return folder


def run(folder: Path, name: str, inputs: Inputs, said: list[str] | None = None) -> Path:
    lines = said if said is not None else []
    return recipe.run(
        folder / f"{name}.toml", folder / name, inputs, device="cpu", threads=1, note="", report=lines.append
    )


def state(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder)[0].state_dict()


def changed(before: Path, after: Path) -> set[str]:
    old, new = state(before), state(after)
    return {name for name in old if not torch.equal(old[name], new[name])}


def test_each_stage_moves_its_parts(staged: Path) -> None:
    perception, intent, joint = (staged / name / "checkpoint" for name in ("perception", "intent", "joint"))
    assert {name.split(".")[-2] for name in changed(perception, intent)} == {"q_proj", "v_proj", "down_proj"}
    assert {name.split(".")[0] for name in changed(intent, joint)} == {
        "encoder", "projector", "decoder", "markers", "ctc"}  # fmt: skip
    for name in ("perception", "joint"):
        rows = [row for row in read_growing(staged / name / "metrics.jsonl") if "loss" in row]
        assert len(rows) == 4 and any(row["ctc_loss"] > 0 for row in rows)
    intents = read_growing(staged / "intent" / "metrics.jsonl")
    assert [set(row["dev"]) for row in intents if "dev" in row] == [{"intent"}]
    assert all(row["ctc_loss"] == 0 for row in intents if "loss" in row)


def test_the_adapter_and_the_merged_checkpoint_are_one(staged: Path) -> None:
    model, _ = checkpoint.load(staged / "perception" / "checkpoint")
    config = lora.load(staged / "intent" / "adapter", model)
    assert (config.r, config.alpha) == (2, 8.0)
    merged = state(staged / "intent" / "checkpoint")
    for name, tensor in lora.merged_tensors(model):
        torch.testing.assert_close(merged[name], tensor, rtol=1e-5, atol=1e-6)


def test_the_best_weights_become_a_checkpoint(staged: Path) -> None:
    for name in ("perception", "intent", "joint"):
        assert checkpoint.load(staged / name / "best")[1]["tasks"] == ["asr", "srwt", "sgc", "ast", "sttc"]


def test_what_follows_what_goes_with_the_checkpoint(staged: Path) -> None:
    """Counted in the transcripts; a stage without any passes on what it began with."""
    tokenizer = Tokenizer.from_file(str(staged / "perception" / "tokenizer.json"))
    ids = tokenizer.encode("one two", add_special_tokens=False).ids
    found = [Bigram.load(staged / name / "checkpoint" / "bigram.npz") for name in ("perception", "intent", "joint")]
    for one in found:
        assert one.logprob(ids[0], ids[1]) > one.logprob(ids[0], ids[0])
    assert (staged / "intent" / "checkpoint" / "bigram.npz").read_bytes() == (
        staged / "perception" / "checkpoint" / "bigram.npz"
    ).read_bytes()


def test_a_run_folder_says_everything(staged: Path) -> None:
    [about] = json.loads((staged / "perception" / "run.json").read_text(encoding="utf-8"))
    sources = about["data"]["train"]
    assert [(Path(s["path"]).name, s["weight"], s["num_records"]) for s in sources] == [
        ("train.jsonl", 2.0, 6), ("shards", 1.0, 4)]  # fmt: skip
    assert all(len(s["sha256"]) == 64 for s in (*sources, *about["data"]["dev"]))
    assert about["packages"]["torch"] == torch.__version__.split("+")[0] or about["packages"]["torch"]
    assert about["device"].startswith("cpu") and about["processes"] == 1 and about["start"] == ""
    settings = json.loads((staged / "perception" / "stage.json").read_text(encoding="utf-8"))
    assert settings == about["settings"] and settings["loader"]["variants"] == 1
    if (ROOT / ".git").exists():
        asked = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
        head = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        assert about["revision"].rstrip("+") == head


def test_what_changed_since_the_last_start_is_said(staged: Path, tmp_path: Path) -> None:
    for path in staged.iterdir():
        if path.suffix in (".flac", ".jsonl", ".toml"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    shards.write(records(tmp_path, "ghij"), tmp_path / "shards", per_shard=3)
    run(tmp_path, "perception", Inputs())
    rows = (tmp_path / "train.jsonl").read_text().replace("one two", "one one")
    (tmp_path / "train.jsonl").write_text(rows)
    stage = (tmp_path / "perception.toml").read_text()
    (tmp_path / "perception.toml").write_text(stage.replace("steps = 4", "steps = 6"))
    said: list[str] = []
    run(tmp_path, "perception", Inputs(), said)
    assert "note: the train data are not those the run began with" in said
    assert "note: [optimizer] is not what it was" in said and sum(line.startswith("note") for line in said) == 2
    assert len(json.loads((tmp_path / "perception" / "run.json").read_text())) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("manifests = [", "manifest = ["), "no setting 'manifest'; did you mean 'manifests'"),
        (("weight = 2.0", "weight = -1.0"), "its weight is -1.0"),
        (("train.jsonl", "trian.jsonl"), "trian.jsonl: there is no such file"),
        (("labels = {}", 'labels = { sgc = ["woman", "man"] }'), "the sgc label 'female'.*the stage allows woman, man"),
    ],
)
def test_a_wrong_stage_is_refused_before_anything_is_trained(
    staged: Path, tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    (staged / "wrong.toml").write_text(PERCEPTION.replace(*change), encoding="utf-8")
    with pytest.raises(UserError, match=said):
        recipe.run(
            staged / "wrong.toml", tmp_path, Inputs(), device="cpu", threads=1, note="", report=lambda line: None
        )
    assert not (tmp_path / "state.pt").exists()


def test_no_data_is_said(tmp_path: Path) -> None:
    (tmp_path / "joint.toml").write_text(JOINT, encoding="utf-8")
    with pytest.raises(UserError, match="training: no data; give --data"):
        run(tmp_path, "joint", Inputs())


@pytest.mark.slow
def test_the_command_with_two_processes(staged: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zhiyin", "train", str(staged / "perception.toml"), "--run", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "--processes", "2"], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "run" / "checkpoint")]
    assert "cpu (auto: torch has no other device), 2 processes" in done.stderr and done.stderr.count("records: ") == 1
    assert checkpoint.load(tmp_path / "run" / "checkpoint")
