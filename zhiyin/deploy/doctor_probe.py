"""Asks libraries whether they work, each in a process of its own with a time limit, all at once."""

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zhiyin.deploy.doctor_child import MARK

NAMES = ("packages", "onnxruntime", "torch", "torch_npu", "autoload", "acl")
LIMIT_S = 90.0  # a first use of torch_npu on a loaded server takes half a minute
_ALONE = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
_SCRIPT = Path(__file__).with_name("doctor_child.py")


@dataclass(frozen=True)
class Probe:
    """What became of one library.

    Attributes:
        name: which.
        installed: whether there is such a module.
        fault: why it does not work: the error, the signal that ended it, or that it did not answer.
        facts: what it said before that.
    """

    name: str
    installed: bool = False
    fault: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def works(self) -> bool:
        """Whether it is there and did all that was asked."""
        return self.installed and not self.fault


def ask(interpreter: str, environment: Mapping[str, str], *, limit_s: float = LIMIT_S) -> dict[str, Probe]:
    """Probe every library of `NAMES` with the Python at `interpreter`."""
    with ThreadPoolExecutor(len(NAMES)) as pool:
        answers = pool.map(lambda name: _ask(interpreter, name, environment, limit_s), NAMES)
        return dict(zip(NAMES, answers, strict=True))


def _ask(interpreter: str, name: str, environment: Mapping[str, str], limit_s: float) -> Probe:
    own = {**environment, **({} if name == "autoload" else _ALONE)}
    try:
        child = subprocess.Popen(
            [interpreter, str(_SCRIPT), name],
            env=own,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return Probe(name, True, f"{interpreter} does not run ({(error.strerror or str(error)).lower()})")
    try:
        out, err = child.communicate(timeout=limit_s)
        silent = ""
    except subprocess.TimeoutExpired:
        _end(child)
        out, err = child.communicate()
        silent = f"no answer in {limit_s:g} s"
    facts: dict[str, Any] = {}
    for line in out.splitlines():
        if line.startswith(MARK):
            facts |= json.loads(line.removeprefix(MARK))
    installed, done = facts.pop("installed", True), facts.pop("done", False)
    fault = "" if done or not installed else silent or _reason(child.returncode, err.splitlines())
    return Probe(name, installed, fault, facts)


def _end(child: "subprocess.Popen[str]") -> None:
    """The child and what it started, if it has not ended meanwhile."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        child.kill()


def _reason(code: int, lines: Sequence[str]) -> str:
    if code < 0:
        return f"ended by signal {-code} ({signal.Signals(-code).name})"
    spoken = [line.strip() for line in lines if line.strip()]
    # torch puts the cause above a piece of advice: the last exception of the first chain says most
    named = [line for line in spoken if line.split(":")[0].endswith(("Error", "Exception")) and ":" in line]
    return (named or spoken or [f"exit code {code}"])[0 if named else -1]
