"""The torch path on an `npu`: what `device_checks.py` and the tests that run a model say, on two stand-ins.

`simulated` is a strict device of our own, `wheel` the real torch_npu over a stand-in of CANN: `make test` puts its
wheel beside the environment, never into it. They run in processes of their own, for a device that is registered once
stays. Where one cannot be built (no compiler, no wheel) or a real CANN is installed it is skipped, and says so. The
first run compiles for about half a minute each; what is compiled stays in pytest's cache.
"""

import importlib.util
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests" / "npu_sim" / "torch_device"
CHECKS = FOLDER / "device_checks.py"
WHEEL = Path(os.environ.get("TORCH_NPU_WHEEL") or Path(sys.prefix) / "torch-npu")  # where scripts/make_env.py puts it
ALSO = (
    "tests/model/test_decoder.py",
    "tests/model/test_encoder.py",
    "tests/model/test_golden.py",
    "tests/model/test_speech_lm.py",
    "tests/runtime/test_device_state.py",
    "tests/runtime/test_eager.py",
    "tests/train/test_loop.py",
)
MISSING = "no reference material"  # what the fixture `shared` says
ONLY_SIMULATED = "needs the simulated npu device"  # what counts transfers, or asks for another chip
# torch_npu tells once a process that it makes no tensors of private formats; they are switched off, as is its default.
FORMATS = "ignore:Cannot create tensor with internal format"
DEVICE = "npu:0"

_spec = importlib.util.spec_from_file_location("npusim", FOLDER / "simulated" / "npusim.py")
npusim = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(npusim)

pytestmark = pytest.mark.slow
Outcomes = dict[str, list[tuple[str, str]]]  # file and function -> what became of it, and why


def refusal(harness: str) -> str:
    """Why a harness cannot run here, or nothing."""
    if harness == "wheel" and not (WHEEL / "torch_npu").is_dir():
        return f"no wheel of torch_npu in {WHEEL}; `make test` puts it there where there is one for torch here"
    return npusim.refusal()


@pytest.fixture(scope="module", params=["simulated", "wheel"])
def harness(request: pytest.FixtureRequest) -> str:
    """Which stand-in."""
    why = refusal(request.param)
    if why:
        pytest.skip(f"no npu by the {request.param} harness: {why}")
    return request.param


@pytest.fixture(scope="module")
def outcomes(harness: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """One run of everything on an `npu`."""
    report = tmp_path_factory.mktemp("npu") / "report.xml"
    environment = {name: value for name, value in os.environ.items() if name != "TORCH_DEVICE_BACKEND_AUTOLOAD"}
    own = [str(FOLDER / harness), *([str(WHEEL)] if harness == "wheel" else [])]
    paths = [*own, environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    environment["NPUSIM_BUILD"] = environment.get("NPUSIM_BUILD") or str(request.config.cache.mkdir("npusim"))
    options = ["-q", "-p", "no:cacheprovider", "-W", FORMATS, "--device", DEVICE, f"--junit-xml={report}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(CHECKS), *ALSO],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    if not report.exists():
        pytest.fail(f"nothing ran on the {harness} npu: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    found: Outcomes = defaultdict(list)
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').split('.')[-1]}.{case.get('name', '').split('[')[0]}"
        wrong = [child for child in case if child.tag in ("failure", "error", "skipped")]
        found[name].append((wrong[0].tag, wrong[0].text or "") if wrong else ("passed", ""))
    return found


@pytest.mark.parametrize("name", re.findall(r"^def (test_\w+)", CHECKS.read_text(encoding="utf-8"), re.MULTILINE))
def test_on_an_npu(outcomes: Outcomes, harness: str, name: str) -> None:
    assert outcomes[f"device_checks.{name}"], "it did not run"
    for state, text in outcomes[f"device_checks.{name}"]:
        if harness == "wheel" and ONLY_SIMULATED in text:
            pytest.skip(ONLY_SIMULATED)
        assert state == "passed", text


@pytest.mark.parametrize("file", ALSO)
def test_the_suite_runs_on_an_npu(outcomes: Outcomes, file: str) -> None:
    module = Path(file).stem
    ran = {name: states for name, states in outcomes.items() if name.startswith(f"{module}.")}
    assert ran, "it did not run"
    wrong = [f"{name}: {text}" for name, states in ran.items() for state, text in states if state != "passed"]
    missing = [text for text in wrong if MISSING in text]
    assert missing == wrong, wrong
    if missing and not os.environ.get("CI"):
        pytest.skip(missing[0])
    assert not missing, missing[0]
