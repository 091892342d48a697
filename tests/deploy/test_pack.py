"""`zhiyin pack`: made of tiny wheels with a real pip, carried, damaged, installed with the network blocked."""

import importlib.util
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from zhiyin import cli
from zhiyin.deploy import pack, pack_install, pack_wheels
from zhiyin.deploy.pack import Packed, Request
from zhiyin.errors import UserError

_SPEC = importlib.util.spec_from_file_location("tiny_wheels", Path(__file__).with_name("tiny_wheels.py"))
tiny_wheels = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(tiny_wheels)

pytestmark = pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() not in pack_wheels.ARCHS, reason="packs are for Linux"
)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which pip finds wheels: two that are needed, one too new for the constraints, and pip."""
    folder = tmp_path_factory.mktemp("index")
    for version in ("1.0", "1.5", "2.0"):
        tiny_wheels.wheel(folder, "tinydep", version, "tinydeep")
    tiny_wheels.wheel(folder, "tinydeep", "3.0", "tinyold; python_version < '3'")
    tiny_wheels.wheel(folder, "tinymore", "1.0")
    tiny_wheels.pip(folder)
    return folder


@pytest.fixture(autouse=True)
def only(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip knows that folder and nothing else."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in tiny_environment(index).items():
        monkeypatch.setenv(name, value)


def tiny_environment(index: Path) -> dict[str, str]:
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_CONFIG_FILE": os.devnull}


@pytest.fixture(scope="module")
def made(index: Path, tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Packed]:
    """A pack with a model, its wheel built by pip from a checkout."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("made")
    source = tiny_wheels.checkout(folder / "source", repository / "deploy" / "start.sh")
    model = folder / "my-model"
    shutil.copytree(repository / "zhiyin" / "pocket" / "bundle", model)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**tiny_environment(index), "PIP_NO_BUILD_ISOLATION": "0"}.items():
            patch.setenv(name, value)
        yield pack.make(Request(folder / "pack", (str(model),), ("more",), source=source), lambda line: None)


@pytest.fixture
def copied(made: Packed, tmp_path: Path) -> Path:
    """A pack that may be damaged."""
    return Path(shutil.copytree(made.folder, tmp_path / "copy"))


def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path, *needs: str) -> Path:
    """A checkout whose wheel is not built by pip, which takes seconds."""

    def build(source: Path, folder: Path) -> Path:
        return tiny_wheels.wheel(folder, "zhiyin", "1.0", *needs, extras="more")

    monkeypatch.setattr(pack_wheels, "build", build)
    return tiny_wheels.checkout(tmp_path / "source", repository / "deploy" / "start.sh")


def install(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(folder / "install.sh"), *words],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHON": sys.executable, **environment},
        timeout=120,  # a pip that asks the network waits for minutes
    )


def test_what_is_in_a_pack(made: Packed) -> None:
    versions = {name.split("-")[0]: name.split("-")[1] for name in made.wheels}
    assert versions.pop("pip") and versions == {"zhiyin": "1.0", "tinydep": "1.5", "tinydeep": "3.0", "tinymore": "1.0"}
    facts = json.loads((made.folder / "pack.json").read_text())
    here = (f"{sys.version_info[0]}.{sys.version_info[1]}", platform.machine(), ["more"], ["my-model"])
    assert (facts["python"], facts["arch"], facts["extras"], facts["models"]) == here
    assert pack.check(made.folder) == []
    sums = subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=made.folder, capture_output=True, text=True
    )
    files = [path for path in made.folder.rglob("*") if path.is_file()]
    assert sums.returncode == 0 and sums.stdout.count(": OK\n") == len(files) - 1
    assert not list(made.folder.parent.glob(".pack*")) and not list(made.folder.parent.glob("source/build"))


def test_it_installs_without_a_network_and_again(made: Packed, copied: Path, tmp_path: Path) -> None:
    place = tmp_path / "opt" / "zhiyin"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        hostile = {
            "PIP_INDEX_URL": address,
            "PIP_EXTRA_INDEX_URL": address,
            "http_proxy": address,
            "HOME": str(tmp_path),
        }
        done = install(copied, str(place), **hostile)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert done.returncode == 0, done.stderr
    assert made.digest in done.stderr and done.stdout.startswith(f"zhiyin 1.0 is in {place}: ")
    ran = subprocess.run(
        [place / "bin" / "zhiyin", "a", "b c"], capture_output=True, text=True, env={"PATH": "/usr/bin"}
    )
    assert ran.stdout.startswith("[['a', 'b c'], '1.5', ") and os.path.samefile(eval(ran.stdout)[2], place), ran.stderr
    assert pack_install.sums(place / "models" / "my-model") == pack_install.sums(copied / "models" / "my-model")
    packages = {path.name.split("-")[0] for path in place.glob("env-*/lib/python*/site-packages/*.dist-info")}
    assert packages == {"zhiyin", "tinydep", "tinydeep", "tinymore", "pip"}
    assert not (copied / "__pycache__").exists() and pack.check(copied) == []

    def upgrade(python: Path, folder: Path, facts: dict) -> None:
        raise pack_install.Refused("pip failed: the disk is full")

    before = (place / "bin" / "zhiyin").read_text()
    with pytest.MonkeyPatch.context() as patch:  # another pack that fails half-way: the first one still runs
        (copied / "SHA256SUMS").write_text((copied / "SHA256SUMS").read_text() + "\n")
        patch.setattr(pack_install, "_pip", upgrade)
        with pytest.raises(pack_install.Refused, match="disk is full"):
            pack_install.install(copied, place)
    assert (place / "bin" / "zhiyin").read_text() == before and len(list(place.glob("env-*"))) == 2
    assert subprocess.run([place / "bin" / "zhiyin", "--version"], capture_output=True).returncode == 0
    assert "zhiyin 1.0 is in" in pack_install.install(copied, place)
    assert (place / "bin" / "zhiyin").read_text() != before and len(list(place.glob("env-*"))) == 1


DAMAGE = {
    "wheel": (
        lambda folder: flip(next(folder.glob("wheels/tinydep-*.whl"))),
        "wheels/tinydep-1.5-py3-none-any.whl is damaged",
    ),
    "model": (lambda folder: flip(folder / "models/my-model/encoder.onnx"), "models/my-model/encoder.onnx is damaged"),
    "missing": (
        lambda folder: next(folder.glob("wheels/tinydeep-*.whl")).unlink(),
        "wheels/tinydeep-3.0-py3-none-any.whl is missing",
    ),
    "foreign": (
        lambda folder: tiny_wheels.wheel(folder / "wheels", "tinydep", "1.9"),
        "wheels/tinydep-1.9-py3-none-any.whl does not belong",
    ),
    "link": (lambda folder: (folder / "wheels/x.whl").symlink_to("/etc/passwd"), "wheels/x.whl is a link"),
    "no list": (lambda folder: (folder / "SHA256SUMS").unlink(), "SHA256SUMS is missing"),
    "record": (lambda folder: (folder / "pack.json").write_text("{"), "pack.json is damaged"),
    "format": (lambda folder: (folder / "pack.json").write_text('{"format": 9}'), "pack.json is not of format 1"),
}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_refused(copied: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    act, words = DAMAGE[kind]
    act(copied)
    done = install(copied, str(tmp_path / "place"))
    assert done.returncode == 2 and f"install: {words}" in done.stderr
    assert "copy it again" in done.stderr and not (tmp_path / "place").exists()
    with pytest.raises(SystemExit) as left:
        cli.main(["pack", "--check", str(copied)])
    assert left.value.code == 1 and words in capsys.readouterr().out


def test_a_whole_pack_passes_both_checks(copied: Path, made: Packed, capsys: pytest.CaptureFixture[str]) -> None:
    assert install(copied, "--check").returncode == 0
    with pytest.raises(SystemExit) as left:
        cli.main(["pack", "--check", str(copied)])
    assert left.value.code == 0 and made.digest in capsys.readouterr().out


def test_places_and_machines_that_do_not_fit(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    refused = install(copied, str(tmp_path / "full"))
    assert refused.returncode == 2 and "is there and no installation of zhiyin" in refused.stderr
    for place in (copied, copied / "inner"):
        assert "is inside the pack" in install(copied, str(place)).stderr
    assert install(copied).returncode == 2 and install(copied, "--force").returncode == 2
    none = install(copied, str(tmp_path / "new"), PYTHON=str(tmp_path / "python9"))
    assert none.returncode == 2 and none.stderr.startswith("install: no Python 3.")
    facts = pack_install.record(copied)
    assert pack_install.machine_faults(facts) == []
    for name, value, words in (
        ("python", "3.99", "for Python 3.99, this is 3."),
        ("arch", "riscv64", "for Linux on riscv64, this is Linux on"),
        ("glibc", "9.9", "needs glibc 9.9, here is 2."),
    ):
        (fault,) = pack_install.machine_faults({**facts, name: value})
        assert words in fault


def test_an_interrupted_pack_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path, index: Path
) -> None:
    source = built(tmp_path, monkeypatch, repository, "tinydep", "tinylate; python_version >= '3'")
    own = Path(shutil.copytree(index, tmp_path / "own"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(own))
    tiny_wheels.wheel(own, "tinylate", "1.0", "tinynext")
    request = Request(tmp_path / "pack", source=source)
    with pytest.raises(UserError, match=r"pip cannot download 2 wheels: ERROR: No matching .*tinynext"):
        pack.make(request, lambda line: None)
    assert not (tmp_path / "pack").exists()
    tiny_wheels.wheel(own, "tinynext", "1.0")
    said: list[str] = []
    assert len(pack.make(request, said.append).wheels) == 6
    assert [line for line in said if "wheels:" in line] == ["2 wheels: tinydeep tinynext"]
    with pytest.raises(UserError, match="is there already; give a new folder"):
        pack.make(request, said.append)


def test_another_request_does_not_take_over_old_wheels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path, index: Path
) -> None:
    source = built(tmp_path, monkeypatch, repository, "tinydep")

    def download(folder: Path, target: pack_wheels.Target, pins: Path) -> Callable[[Sequence[str]], None]:
        return lambda names: [shutil.copy(sorted(index.glob(f"{name}-*"))[0], folder) for name in names] and None

    monkeypatch.setattr(pack_wheels, "download", download)
    part = tmp_path / ".pack.part"
    tiny_wheels.wheel(part / "wheels", "tinydep", "9.0")
    (part / "request.json").write_text("{}")
    (part / "models" / "old").mkdir(parents=True)
    done = pack.make(Request(tmp_path / "pack", python="3.12", source=source), lambda line: None)
    assert "tinydep-1.0-py3-none-any.whl" in done.wheels and "tinydeep-3.0-py3-none-any.whl" in done.wheels
    assert not list((tmp_path / "pack" / "models").iterdir()) and pack.check(tmp_path / "pack") == []


WRONG = {
    "python": ({"python": "3.9"}, "--python 3.9; two numbers from 3.10 on"),
    "python words": ({"python": "new"}, "--python new; two numbers"),
    "platform": ({"platform": "windows-x86_64"}, "platform 'windows-x86_64'; --platform linux-aarch64 or linux-x86_64"),
    "source": ({"source": Path("/usr")}, "/usr is no checkout of zhiyin .pyproject.toml is missing"),
    "extra": ({"extras": ("mor",)}, "zhiyin has no extra 'mor'; it has more"),
    "model": ({"models": ("no-such",)}, "no model 'no-such' here"),
    "built in": ({"models": ("pocket",)}, "pocket is inside zhiyin's own wheel"),
    "no model": ({"models": ("/usr",)}, "/usr is no model"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_requests(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    source = built(tmp_path, monkeypatch, repository, "tinydep")
    monkeypatch.setenv("ZHIYIN_HOME", str(tmp_path / "home"))
    changes, words = WRONG[kind]
    with pytest.raises(UserError, match=words):
        pack.make(Request(**{"out": tmp_path / "pack", "source": source, **changes}), lambda line: None)
    assert not (tmp_path / "pack").exists()


def test_models_are_whole_and_have_names(tmp_path: Path, repository: Path) -> None:
    from zhiyin.deploy import pack_models

    bundle = repository / "zhiyin" / "pocket" / "bundle"
    for place in ("a/m", "b/m", "odd name"):
        shutil.copytree(bundle, tmp_path / place)
    with pytest.raises(UserError, match="two models are called 'm'"):
        pack_models.choose([str(tmp_path / "a/m"), str(tmp_path / "b/m")])
    with pytest.raises(UserError, match="'odd name' is no name for a model"):
        pack_models.choose([str(tmp_path / "odd name")])
    (model,) = pack_models.choose([str(tmp_path / "a/m")])
    assert model.size_bytes == sum(path.stat().st_size for path in bundle.iterdir())
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "left-over").write_text("of another model")
    (tmp_path / "copy" / "bundle.json").write_text("cut off")
    pack_models.copy(model, tmp_path / "copy")
    assert pack_install.sums(tmp_path / "copy") == pack_install.sums(bundle)
    flip(tmp_path / "a/m/embeddings.npy")
    with pytest.raises(UserError, match=r"embeddings.npy is damaged"):
        pack_models.choose([str(tmp_path / "a/m")])
