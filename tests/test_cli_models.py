"""`zhiyin pull` and `zhiyin models` as a person meets them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.runtime.fake_hub import COMMIT, Hub, serving
from zhiyin import cli, cli_models
from zhiyin.runtime import hf_hub, known, store
from zhiyin.tasks import families

NAME = "granite-speech-4.1-2b"
FILES = {
    "config.json": b'{"model_type": "granite_speech"}',
    "model.safetensors": bytes(range(256)) * 4000,
    "tokenizer.json": b"{}",
}


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command in this process with a store of its own."""
    monkeypatch.setenv("ZHIYIN_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(hf_hub, "RETRY_WAIT_S", 0.0)

    def command(*arguments: str) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main(list(arguments))
        captured = capsys.readouterr()
        return Outcome(int(stop.value.code or 0), captured.out, captured.err)

    return command


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub(dict(FILES))) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        yield running


def test_pull_prints_the_folder_and_says_the_rest_aside(run, hub: Hub) -> None:
    outcome = run("pull", NAME)
    folder = store.home() / "models" / NAME
    assert (outcome.code, outcome.out) == (0, f"{folder}\n")
    assert outcome.err.splitlines() == [
        f"ibm-granite/granite-speech-4.1-2b at {COMMIT[:12]}; licence: Apache-2.0",
        "[1/3] tokenizer.json 0.0 MB",
        "[2/3] config.json 0.0 MB",
        "[3/3] model.safetensors 1.0 MB",
        f"next: zhiyin understand RECORDING --model {NAME}",
    ]


def test_a_terminal_gets_a_bar(run, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    outcome = run("pull", NAME)
    assert (
        outcome.code == 0 and "licence: Apache-2.0" in outcome.err and "[1/3] tokenizer.json 0.0 MB" not in outcome.err
    )
    assert outcome.out == f"{store.home() / 'models' / NAME}\n"


def test_a_restricted_model_needs_a_yes(run, hub: Hub) -> None:
    refused = run("pull", "openpangu-embedded-7b")
    assert refused.code == 2 and refused.err.count("\n") == 1 and "European Union" in refused.err
    agreed = run("pull", "openpangu-embedded-7b", "--accept-licence")
    assert agreed.code == 0 and "European Union" in agreed.err and "next" not in agreed.err


def test_what_to_do_with_weights_that_have_to_be_converted(run, hub: Hub, tmp_path: Path) -> None:
    hub.files = {"infer.pt": b"weights"}
    outcome = run("pull", "osum", "--dest", str(tmp_path / "weights"))
    assert f"next: zhiyin convert {tmp_path / 'weights'} OUT --from osum --lora-scale 4 --tokenizer" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pull", "osun"), "did you mean 'osum'?"),
        (("pull", "a/b/c"), "no model 'a/b/c'"),
        (("models", "osun"), "no model 'osun'; did you mean 'osum'?"),
        (("models", NAME, "--check"), f"'{NAME}' is not here; zhiyin pull {NAME} downloads it (4.6 GB)"),
    ],
)
def test_wrong_names_are_one_line(run, hub: Hub, arguments: tuple[str, ...], message: str) -> None:
    outcome = run(*arguments)
    assert outcome.code == 2 and outcome.out == "" and outcome.err.count("\n") == 1 and message in outcome.err


def test_models_lists_what_is_here_and_what_could_be(run, hub: Hub) -> None:
    before = run("models").out.splitlines()
    assert before[0].split() == ["NAME", "FAMILY", "SIZE", "TASKS", "LICENCE", "WHERE"]
    assert [line.split()[0] for line in before[1 : 2 + len(known.known())]] == ["pocket", *known.known()]
    assert any(line.startswith("openpangu-embedded-7b: not to be used within the European Union") for line in before)
    run("pull", NAME)
    after = run("models").out.splitlines()
    assert after[2].split() == [NAME, "granite-speech", "1.0", "MB", "asr", "ast", "Apache-2.0", "local"]
    assert len([line for line in after if line.startswith(NAME + " ")]) == 1


def test_models_as_json(run, hub: Hub) -> None:
    run("pull", NAME)
    everything = json.loads(run("models", "--json").out)
    assert [line["where"] for line in everything[:3]] == ["built in", "local", "hub"]
    [line] = json.loads(run("models", NAME, "--json").out)
    size = sum(path.stat().st_size for path in (store.home() / "models" / NAME).iterdir())
    assert (line["size_bytes"], line["tasks"], line["fault"]) == (size, ["asr", "ast"], "")
    assert line["repository"] == f"ibm-granite/granite-speech-4.1-2b at {COMMIT[:12]}"
    assert [line] == json.loads(run("models", "ibm-granite/granite-speech-4.1-2b", "--json").out)


def test_check_reads_every_byte(run, hub: Hub, tmp_path: Path) -> None:
    assert run("models", "--check") == Outcome(0, f"no models in {tmp_path / 'home'}\n", "")
    run("pull", NAME)
    assert run("models", "--check") == Outcome(0, f"{NAME}: whole\n", "")
    weights = store.home() / "models" / NAME / "model.safetensors"
    weights.write_bytes(b"\1" + weights.read_bytes()[1:])
    damaged = Outcome(cli_models.DAMAGED, f"{NAME}: model.safetensors is damaged (its SHA-256 differs)\n", "")
    assert run("models", NAME, "--check") == damaged
    (store.home() / "models" / "mine").mkdir()
    (store.home() / "models" / "mine" / "config.json").write_text('{"model_type": "granite_speech"}')
    assert run("models", "mine", "--check").out == "mine: was not pulled, nothing to compare with\n"


def test_a_killed_pull_goes_on(run, hub: Hub, tmp_path: Path) -> None:
    """A process that is killed in the middle of a file leaves nothing that looks like a model."""
    hub.stall_after["model.safetensors"] = 300_000
    code = f"from zhiyin import cli; cli.main(['pull', {NAME!r}])"
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE)
    partial = store.home() / "models" / f".{NAME}.part" / "model.safetensors.partial"
    deadline = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
    process.communicate(timeout=60)
    hub.stall_after.clear()
    assert [line["where"] for line in json.loads(run("models", NAME, "--json").out)] == ["part"]
    assert f"{NAME}: only partly here; zhiyin pull {NAME} goes on" in run("models").out
    assert run("models", "--check").code == cli_models.DAMAGED
    kept = partial.stat().st_size
    assert 0 < kept < len(FILES["model.safetensors"])
    hub.seen.clear()
    assert run("pull", NAME).code == 0
    assert [wanted for _, path, wanted, _ in hub.seen if path.endswith("model.safetensors")] == [f"bytes={kept}-"]
    assert run("models", "--check").out == f"{NAME}: whole\n"


def test_the_document_names_what_there_is(repository: Path) -> None:
    """docs/models.md: every family with its tasks and options, every model that can be pulled."""
    text = (repository / "docs" / "models.md").read_text(encoding="utf-8")
    rows = dict(
        re.findall(r"^\| `([a-z0-9-]+)` \| ((?:[a-z]+ ?)+) \|.*\|$", text.partition("## Devices")[0], re.MULTILINE)
    )
    options = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (.*) \|$", text.partition("## Running")[2], re.MULTILINE))
    assert set(rows) == set(families.NAMES)
    for name in set(families.NAMES) - {"zhiyin"}:
        family = families.find(name)
        assert rows[name] == " ".join(family.tasks), name
        for option in family.options:
            assert f"--{option}" in options[name], (name, option)
    licences = text.partition("## Licences")[2]
    for model in known.known():
        assert f"`{model}`" in licences, model
