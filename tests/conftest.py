"""What all tests share: the repository, the reference material beside it, the device; quiet, repeatable libraries."""

import importlib
import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch or transformers is imported, here or in a child process: the models of the tests are tiny, so threads
# only cost, and nothing may ask the network.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

REPOSITORY = Path(__file__).resolve().parent.parent

# A slow machine is no failure; in CI the same examples every time.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--device NAME` moves the tests that use the fixture `device` there."""
    parser.addoption("--device", default="cpu", help="device for tests that run a model (default: cpu)")


def pytest_configure(config: pytest.Config) -> None:
    """The plug-in that brings a device is loaded, or nothing runs: a suite that ran elsewhere proves nothing."""
    name = str(config.getoption("--device"))
    if not name.startswith("npu"):
        return
    try:
        plug_in = importlib.import_module("torch_npu")
    except (ImportError, OSError, RuntimeError) as error:
        raise pytest.UsageError(f"--device {name}: torch_npu does not load ({error}); see `zhiyin doctor`") from error
    if not plug_in.npu.is_available():
        raise pytest.UsageError(f"--device {name}: torch_npu has no device here; see `zhiyin doctor`")


def pytest_collection_finish() -> None:
    """One thread also where a test module has imported torch already."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """The device asked for with `--device`."""
    return str(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference material outside the repository (golden outputs, real speech).

    It is found through the variable ZHIYIN_SHARED or beside the repository. Where it is missing the test is skipped,
    with the reason; in CI it fails, so that no proof is lost in silence.
    """
    folder = Path(os.environ.get("ZHIYIN_SHARED") or REPOSITORY.parent / "shared")
    if (folder / "golden").is_dir() and (folder / "data").is_dir():
        return folder
    reason = f"no reference material (golden/, data/) in {folder}; set ZHIYIN_SHARED to its folder"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
