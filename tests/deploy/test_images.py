"""The files of deploy/ as far as they can be checked without building: sources, users, tags, mounts, what runs."""

import configparser
import http.server
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from zhiyin.cli import app
from zhiyin.deploy.doctor_ascend import MANAGERS
from zhiyin.serve.settings import Settings

DRAIN_S = Settings(data=Path()).drain_s
IMAGES = ("Dockerfile.cpu", "Dockerfile.ascend")


@pytest.fixture(params=IMAGES)
def image(request: pytest.FixtureRequest, repository: Path) -> list[tuple[str, str]]:
    """Instructions of a Dockerfile with their words, lines joined, comments left out."""
    text = (repository / "deploy" / request.param).read_text(encoding="utf-8")
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [(name, words.strip()) for name, _, words in (line.partition(" ") for line in lines if line.strip())]


@pytest.fixture
def compose(repository: Path) -> dict[str, Any]:
    return yaml.safe_load((repository / "deploy" / "compose.yaml").read_text(encoding="utf-8"))


def of(image: list[tuple[str, str]], name: str) -> list[str]:
    return [words for instruction, words in image if instruction == name]


def final(image: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The last stage: what is shipped."""
    return image[max(i for i, (name, _) in enumerate(image) if name == "FROM") :]


def test_bases_are_chosen_from_outside(image: list[tuple[str, str]]) -> None:
    (argument,) = [words for name, words in image[:1] if name == "ARG"]
    name, _, default = argument.partition("=")
    assert {words.split()[0] for words in of(image, "FROM")} == {f"${{{name}}}"}
    assert "/" not in default and not default.endswith(("latest", ":")) and (":" in default or not default)


def test_what_is_copied_is_there_and_is_sent(image: list[tuple[str, str]], repository: Path) -> None:
    sources = [word for words in of(image, "COPY") if "--from" not in words for word in words.split()[:-1]]
    kept = (repository / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert len(sources) == 6
    for source in sources:
        assert (repository / source).exists() and f"!{source}" in kept
    needed = {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "zhiyin"}  # the first is read by pip, it
    assert needed < set(sources) and not of(image, "ADD")  # names the third and fourth


def test_what_is_shipped(image: list[tuple[str, str]], repository: Path) -> None:
    shipped = final(image)
    users = of(shipped, "USER")
    assert users[-1] == "10001:10001" and of(shipped, "VOLUME") == ["/data"]
    after = shipped[shipped.index(("USER", "10001:10001")) :]
    assert not of(after, "RUN") and not of(after, "COPY")
    (health,) = of(shipped, "HEALTHCHECK")
    assert re.search(r"--interval=\w+ --timeout=\w+ .*CMD python3 -c .*http://127\.0\.0\.1:7860/healthz", health)
    assert of(shipped, "EXPOSE") == ["7860"] and of(shipped, "STOPSIGNAL") == ["SIGTERM"]
    assert of(shipped, "ENTRYPOINT") == ['["start.sh"]']
    (words,) = (yaml.safe_load(text) for text in of(shipped, "CMD"))
    assert words[:3] == ["serve", "--host", "0.0.0.0"] and "--insecure" not in words  # a token is needed
    assert {word for word in words if word.startswith("--")} <= options_of(words[0])
    assert {"ZHIYIN_HOME=/data", "ZHIYIN_DATA=/data/service"} <= set(of(shipped, "ENV")[0].split())


def options_of(command: str) -> set[str]:
    """The options of a command of zhiyin."""
    return {option for one in typer.main.get_command(app).commands[command].params for option in one.opts}


def test_health_is_asked_of_the_service(image: list[tuple[str, str]]) -> None:
    """The line is run: 0 where /healthz answers, 1 where nobody does or something else does."""
    (health,) = of(final(image), "HEALTHCHECK")
    line = health.partition("CMD ")[2].replace("python3", sys.executable)
    answers = {"/healthz": 200}

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answers.get(self.path, 404))
            self.end_headers()

        def log_message(self, *words: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = line.replace(":7860", f":{server.server_port}")
        assert subprocess.run(["sh", "-c", here], capture_output=True).returncode == 0
        answers["/healthz"] = 503
        assert subprocess.run(["sh", "-c", here], capture_output=True).returncode == 1
        server.shutdown()
    assert subprocess.run(["sh", "-c", here], capture_output=True).returncode == 1


def test_only_the_image_for_the_cpu_allows_it(repository: Path) -> None:
    cpu, ascend = ((repository / "deploy" / name).read_text(encoding="utf-8") for name in IMAGES)
    assert "ZHIYIN_ALLOW_CPU=1" in cpu and "ALLOW_CPU" not in ascend


def test_both_architectures_and_no_other(image: list[tuple[str, str]]) -> None:
    """The shell line that checks it is run, with each word the builder may give."""
    assert "TARGETARCH" in of(image, "ARG")
    (check,) = [words for words in of(image, "RUN") if "TARGETARCH" in words]
    for arch, code in (("amd64", 0), ("arm64", 0), ("riscv64", 1), ("s390x", 1)):
        assert subprocess.run(["sh", "-c", check], env={"TARGETARCH": arch}, capture_output=True).returncode == code


def test_shell_lines_are_shell(image: list[tuple[str, str]]) -> None:
    for words in of(image, "RUN"):
        assert subprocess.run(["sh", "-n", "-c", words], capture_output=True).returncode == 0 and shlex.split(words)
        assert "pip install" not in words or ("--no-cache-dir" in words and "-c constraints.txt" in words)


def test_containers_may_do_little(compose: dict[str, Any], repository: Path) -> None:
    assert set(compose["services"]) == {"cpu", "ascend", "serve-cpu", "serve-ascend"}
    for name, service in compose["services"].items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["tmpfs"] == ["/tmp"]
        assert service["security_opt"] == ["no-new-privileges:true"] and service["profiles"] == [name]
        if name.startswith("serve-"):
            assert service["ports"] == ["${BIND:-127.0.0.1}:${PORT:-7860}:7860"] and "command" not in service
            assert service["restart"] == "unless-stopped" and int(service["stop_grace_period"][:-1]) > DRAIN_S * 2
        else:
            assert service["network_mode"] == "none" and service["restart"] == "no" and "ports" not in service
            words = service["command"]
            assert {word for word in words if word.startswith("--")} <= options_of(words[0])
        assert "privileged" not in service and not service["image"].endswith("latest")
        build = service["build"]
        assert (repository / "deploy" / build["context"] / build["dockerfile"]).is_file()
        assert (
            f"ARG {'CANN_IMAGE' if name.endswith('ascend') else 'BASE'}"
            in (repository / build["dockerfile"]).read_text()
        )
        for mount in service["volumes"]:
            assert mount.startswith("data:/data") or mount.endswith(":ro")
    assert set(compose["volumes"]) == {"data"}


def test_the_card_and_its_driver_are_handed_in(compose: dict[str, Any]) -> None:
    service = compose["services"]["ascend"]
    assert service["devices"] == compose["services"]["serve-ascend"]["devices"]
    assert service["volumes"] == compose["services"]["serve-ascend"]["volumes"]
    inside = {device.rpartition(":/")[2] for device in service["devices"] if "NPU" not in device}
    assert inside == {f"dev/{name}" for name in MANAGERS} and len(service["devices"]) == len(MANAGERS) + 1
    mounts = {mount.split(":")[-2] for mount in service["volumes"]}
    assert {"/usr/local/dcmi", "/usr/local/bin/npu-smi", "/etc/ascend_install.info"} < mounts
    assert {"/usr/local/Ascend/driver/lib64", "/usr/local/Ascend/driver/version.info"} < mounts
    assert service["cap_add"] == ["SYS_NICE"] and "devices" not in compose["services"]["cpu"]


def test_the_unit(repository: Path) -> None:
    """What systemd runs exists, may write to its state alone, and has time to drain."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(repository / "deploy" / "zhiyin.service")
    service = unit["Service"]
    program, command, *words = service["ExecStart"].split()
    assert program.endswith("/start.sh") and {word for word in words if word.startswith("--")} <= options_of(command)
    variables = dict(word.split("=") for word in service["Environment"].split())
    assert variables["ZHIYIN_DATA"] == "/var/lib/zhiyin/service" and service["StateDirectory"] == "zhiyin"
    assert service["User"] == "zhiyin" and service["UMask"] == "0077" and service["StateDirectoryMode"] == "0700"
    assert int(service["TimeoutStopSec"]) > DRAIN_S * 2 and service["KillMode"] == "mixed"
    assert service["Restart"] == "on-failure" and service["RestartPreventExitStatus"] == "2"
    for name in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "RestrictNamespaces", "LockPersonality"):
        assert service[name] == "yes"
    assert service["ProtectSystem"] == "strict" and service["CapabilityBoundingSet"] == ""
