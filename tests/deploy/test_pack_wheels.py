"""Which wheels another machine needs: conditions are asked of the target; compared with pip where it can say."""

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.tags import sys_tags

from zhiyin.deploy import pack_wheels
from zhiyin.deploy.pack_wheels import Target
from zhiyin.errors import UserError

_SPEC = importlib.util.spec_from_file_location("tiny_wheels", Path(__file__).with_name("tiny_wheels.py"))
tiny_wheels = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(tiny_wheels)

ARM = Target("3.10", "aarch64")


def world(folder: Path) -> Path:
    """An index in which conditions, extras, versions and a circle matter."""
    for name, version, *needs in (
        ("top", "1.0", "old; python_version < '3.11'", "arm; platform_machine == 'aarch64'", "other[fast]>=2", "loop"),
        ("old", "1.0"),
        ("arm", "1.0"),
        ("other", "1.0"),
        ("other", "2.5", "win; sys_platform == 'win32'", "quick; extra == 'fast'", "slow; extra == 'slow'", "both<2"),
        ("quick", "1.0", "both>=1"),
        ("both", "1.5"),
        ("both", "2.0"),
        ("loop", "1.0", "top"),
        ("win", "1.0"),
        ("slow", "1.0"),
    ):
        tiny_wheels.wheel(folder, name, version, *needs, extras="fast slow" if name == "other" else "")
    return folder


class Index:
    """Fetches the newest wheel that fits, as pip does, and remembers what was asked."""

    def __init__(self, folder: Path, house: Path):
        self.folder, self.house, self.asked = folder, house, []
        house.mkdir()

    def __call__(self, requirements: Sequence[str]) -> None:
        self.asked.append(list(requirements))
        for requirement in map(Requirement, requirements):
            fits = [
                path
                for path in sorted(self.folder.glob(f"{requirement.name}-*.whl"))
                if requirement.specifier.contains(path.name.split("-")[1])
            ]
            shutil.copy(fits[-1], self.house)


def gather(tmp_path: Path, root: str, target: Target, *, with_cuda: bool = False) -> tuple[set[str], Index]:
    index = Index(tmp_path / "index", tmp_path / "house")
    wheels = pack_wheels.gather([Requirement(root)], index.house, target, index, with_cuda=with_cuda)
    return {"-".join(path.name.split("-")[:2]) for path in wheels.values()}, index


def test_conditions_are_those_of_the_target(tmp_path: Path) -> None:
    world(tmp_path / "index")
    common = {"top-1.0", "other-2.5", "quick-1.0", "both-1.5", "loop-1.0"}
    found, index = gather(tmp_path, "top", ARM)
    assert found == common | {"old-1.0", "arm-1.0"}
    # `quick` alone would take both 2.0; `other` is known by then, so one download does.
    assert index.asked == [["top"], ["arm", "loop", "old", "other>=2"], ["both<2", "quick"]]
    shutil.rmtree(tmp_path / "house")
    assert gather(tmp_path, "top", Target("3.12", "x86_64"))[0] == common


def test_the_same_as_pip_for_this_machine(tmp_path: Path) -> None:
    if platform.system() != "Linux" or platform.machine() not in pack_wheels.ARCHS:
        pytest.skip("packs are for Linux")
    index = world(tmp_path / "index")
    here = Target(f"{sys.version_info[0]}.{sys.version_info[1]}", platform.machine())
    words = ["install", "--dry-run", "--ignore-installed", "-q", "--report", "-", "--no-index", "-f", str(index), "top"]
    environment = {**os.environ, "PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, env=environment)
    report = [entry["metadata"] for entry in json.loads(done.stdout)["install"]]
    assert {f"{entry['name']}-{entry['version']}" for entry in report} == gather(tmp_path, "top", here)[0]


def test_a_wheel_that_became_too_new_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    tiny_wheels.wheel(folder, "a", "1.0", "c", "b")
    tiny_wheels.wheel(folder, "b", "1.0", "c<2")
    for version in ("1.0", "2.0"):
        tiny_wheels.wheel(folder, "c", version)
    found, index = gather(tmp_path, "a", ARM)
    assert found == {"a-1.0", "b-1.0", "c-1.0"} and index.asked[-1] == ["c<2"]
    assert not list(index.house.glob("c-2*"))


def test_a_contradiction_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    tiny_wheels.wheel(folder, "a", "1.0", "c>=2", "b")
    tiny_wheels.wheel(folder, "b", "1.0", "c<2")
    tiny_wheels.wheel(folder, "c", "2.0")
    index = Index(folder, tmp_path / "house")

    def stubborn(requirements: Sequence[str]) -> None:
        index([requirement.split("<")[0] for requirement in requirements])

    with pytest.raises(UserError, match=r"no wheels satisfy c<2,>=2 together"):
        pack_wheels.gather([Requirement("a")], index.house, ARM, stubborn, with_cuda=False)


def test_cuda_does_not_come_along_unasked(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    tiny_wheels.wheel(folder, "torch", "2.9", "nvidia-cublas; platform_system == 'Linux'", "triton")
    tiny_wheels.wheel(folder, "nvidia_cublas", "13.0")
    tiny_wheels.wheel(folder, "triton", "3.0")
    with pytest.raises(UserError, match=r"a build for CUDA and brings 2 packages \(nvidia-cublas ...\).*--gpu"):
        gather(tmp_path, "torch", ARM)
    shutil.rmtree(tmp_path / "house")
    index = Index(folder, tmp_path / "house")
    fetch = lambda names: index([name.replace("nvidia-cublas", "nvidia_cublas") for name in names])  # noqa: E731
    found = pack_wheels.gather([Requirement("torch")], index.house, ARM, fetch, with_cuda=True)
    assert sorted(found) == ["nvidia-cublas", "torch", "triton"]


def test_constraints_lose_their_conditions(tmp_path: Path, repository: Path) -> None:
    path = tmp_path / "constraints.txt"
    path.write_text('# why\nnumpy==2.4.6; python_version >= "3.11"\nsoxr==1.1.0\n')
    assert pack_wheels.pins(path, ARM) == "soxr==1.1.0\n"
    assert pack_wheels.pins(path, Target("3.11", "aarch64")) == "numpy==2.4.6\nsoxr==1.1.0\n"
    whole = pack_wheels.pins(repository / "constraints.txt", Target("3.11", "x86_64"))
    assert "numpy==" in whole and ";" not in whole


def test_pip_is_asked_for_tags_that_this_machine_would_accept() -> None:
    """The tags of our platform words are a part of those that `packaging` computes for a machine like this."""
    if platform.system() != "Linux" or platform.machine() not in pack_wheels.ARCHS:
        pytest.skip("packs are for Linux")
    words = Target(f"{sys.version_info[0]}.{sys.version_info[1]}", platform.machine()).pip_words()
    asked = [words[i + 1] for i, word in enumerate(words) if word == "--platform"]
    accepted = {tag.platform for tag in sys_tags()}
    assert set(asked) <= accepted and len(asked) == 13 and asked[0] == f"manylinux_2_28_{platform.machine()}"
