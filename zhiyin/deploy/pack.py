"""`zhiyin pack`: all that a machine without a network needs, in one folder that checks and installs itself.

Packing needs an index that pip reaches, for the wheels; checking and installing need no network.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename

from zhiyin.deploy import pack_install, pack_models, pack_wheels
from zhiyin.deploy.pack_wheels import ARCHS, GLIBC, Target
from zhiyin.errors import UserError

_BEGUN = "request.json"  # beside the pack that grows: what was asked
_CONTENT = ("wheels", "models", "install.sh", "install.py", "start.sh", pack_install.RECORD, pack_install.SUMS)
_SOURCE = Path(__file__).resolve().parents[2]
_OLDEST = (3, 10)
_INSTALLER = """\
#!/bin/sh
# ./install.sh FOLDER checks every file of this pack and installs zhiyin {version} into FOLDER, without a network;
# ./install.sh --check only checks. PYTHON=/path/to/python{python} chooses the interpreter.
set -eu
right='import sys; sys.exit("%d.%d" % sys.version_info[:2] != "{python}")'
for python in "${{PYTHON:-python{python}}}" "${{PYTHON:-python3}}" ""; do
    if "$python" -c "$right" >/dev/null 2>&1; then break; fi
done
if [ -z "$python" ]; then
    echo "install: no Python {python} here; install it and give PYTHON=/path/to/python{python}" >&2
    exit 2
fi
exec "$python" -I -B "$(dirname "$0")/install.py" "$@"
"""


@dataclass(frozen=True)
class Request:
    """What to pack.

    Attributes:
        out: the new folder.
        models: names or folders.
        extras: of zhiyin, e.g. ``serve``.
        python: of the target, e.g. ``3.11``; empty for the one that runs.
        platform: ``linux-aarch64`` or ``linux-x86_64``; empty for this machine.
        source: a checkout of zhiyin; none for the one this runs from.
        with_cuda: whether CUDA libraries may come with torch.
    """

    out: Path
    models: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    python: str = ""
    platform: str = ""
    source: Path | None = None
    with_cuda: bool = False


@dataclass(frozen=True)
class Packed:
    """A pack: where, its wheels and models, its size, and the SHA-256 of its list of checksums."""

    folder: Path
    wheels: tuple[str, ...]
    models: tuple[str, ...]
    size_bytes: int
    digest: str


def make(request: Request, report: Callable[[str], None]) -> Packed:
    """Make a pack; what an interrupted one fetched is used again. It gets its name when it is whole.

    Raises:
        UserError: it cannot be made, with the reason.
    """
    target = _target(request)
    source = _checkout(request.source or _SOURCE)
    out = request.out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"pack: {out} is there already; give a new folder, or look at it: zhiyin pack --check {out}")
    chosen = pack_models.choose(request.models)
    part = _begin(out, request, target, source)
    wheels = _wheels(request, target, source, part, report)
    version = str(parse_wheel_filename(wheels["zhiyin"].name)[1])
    for model in chosen:
        report(f"model {model.name}: {model.size_bytes / 1e6:.1f} MB")
        pack_models.copy(model, part / "models" / model.name)
    _forget(part / "models", {model.name for model in chosen})
    _write(part, "start.sh", (source / "deploy" / "start.sh").read_text(encoding="utf-8"), 0o755)
    _write(part, "install.py", Path(pack_install.__file__).read_text(encoding="utf-8"), 0o644)
    _write(part, "install.sh", _INSTALLER.format(version=version, python=target.python), 0o755)
    _write(part, pack_install.RECORD, _record(request, target, version, wheels, chosen), 0o644)
    _forget(part, {*_CONTENT, _BEGUN})
    report("checksums")
    lines = [f"{value}  {name}\n" for name, value in pack_install.sums(part).items() if name != _BEGUN]
    _write(part, pack_install.SUMS, "".join(lines), 0o644)
    (part / _BEGUN).unlink()
    if out.exists():
        out.rmdir()
    os.replace(part, out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    names = tuple(sorted(path.name for path in wheels.values()))
    return Packed(out, names, tuple(model.name for model in chosen), size, digest(out))


def check(folder: Path) -> list[str]:
    """What is wrong with a pack, a line each; every file is read."""
    return pack_install.faults(folder)


def digest(folder: Path) -> str:
    """The SHA-256 of a pack's list of checksums: it stands for all files, and is short enough to read out."""
    return pack_install.sha256(folder / pack_install.SUMS)


def _target(request: Request) -> Target:
    python = request.python or f"{sys.version_info[0]}.{sys.version_info[1]}"
    numbers = re.fullmatch(r"(\d+)\.(\d+)", python)
    if not numbers or (int(numbers[1]), int(numbers[2])) < _OLDEST:
        raise UserError(f"pack: --python {python}; two numbers from {_OLDEST[0]}.{_OLDEST[1]} on are wanted, e.g. 3.11")
    asked = request.platform or f"{platform.system().lower()}-{platform.machine()}"
    system, _, arch = asked.partition("-")
    if system != "linux" or arch not in ARCHS:
        allowed = " or ".join(f"linux-{arch}" for arch in ARCHS)
        raise UserError(f"pack: platform '{asked}'; --platform {allowed}")
    return Target(python, arch)


def _checkout(source: Path) -> Path:
    needed = ("pyproject.toml", "constraints.txt", "deploy/start.sh", "zhiyin/__init__.py")
    missing = [name for name in needed if not (source / name).is_file()]
    if missing:
        raise UserError(f"pack: {source} is no checkout of zhiyin ({missing[0]} is missing); give --source DIR")
    return source


def _begin(out: Path, request: Request, target: Target, source: Path) -> Path:
    """The folder in which the pack grows; wheels of another request are not kept."""
    part = out.with_name(f".{out.name}.part")
    asked = {
        "python": target.python,
        "arch": target.arch,
        "extras": sorted(request.extras),
        "constraints": hashlib.sha256((source / "constraints.txt").read_bytes()).hexdigest(),
    }
    text = json.dumps(asked)
    try:
        if not (part / _BEGUN).is_file() or (part / _BEGUN).read_text(encoding="utf-8") != text:
            shutil.rmtree(part / "wheels", ignore_errors=True)
        (part / "wheels").mkdir(parents=True, exist_ok=True)
        _write(part, _BEGUN, text, 0o644)
    except OSError as error:
        raise UserError(f"pack: {part} cannot be written ({error.strerror}); give another folder") from error
    return part


def _wheels(
    request: Request, target: Target, source: Path, part: Path, report: Callable[[str], None]
) -> dict[str, Path]:
    """All wheels, in the part's folder `wheels`, and nothing else there; by name."""
    folder = part / "wheels"
    report("wheel of zhiyin")
    built = pack_wheels.build(source, part / "build")
    for old in folder.glob("zhiyin-*.whl"):
        old.unlink()
    os.replace(built, folder / built.name)
    shutil.rmtree(part / "build")
    extras = _extras(request.extras, folder / built.name)
    pins = part / "pins.txt"
    pins.write_text(pack_wheels.pins(source / "constraints.txt", target), encoding="utf-8")
    fetch = pack_wheels.download(folder, target, pins)

    def say_and_fetch(requirements: Sequence[str]) -> None:
        report(f"{len(requirements)} wheels: {' '.join(requirements)}")
        fetch(requirements)

    roots = [Requirement(f"zhiyin{extras}"), Requirement("pip")]
    wheels = pack_wheels.gather(roots, folder, target, say_and_fetch, with_cuda=request.with_cuda)
    _forget(folder, {path.name for path in wheels.values()})
    return wheels


def _extras(asked: tuple[str, ...], wheel: Path) -> str:
    known = pack_wheels.extras(wheel)
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise UserError(f"pack: zhiyin has no extra '{unknown[0]}'; it has {' '.join(known)}")
    return f"[{','.join(asked)}]" if asked else ""


def _record(
    request: Request,
    target: Target,
    version: str,
    wheels: dict[str, Path],
    models: tuple[pack_models.Model, ...],
) -> str:
    facts: dict[str, Any] = {
        "format": pack_install.FORMAT,
        "version": version,
        "python": target.python,
        "arch": target.arch,
        "glibc": ".".join(map(str, GLIBC)),
        "extras": list(request.extras),
        "models": [model.name for model in models],
        "wheels": {name: str(parse_wheel_filename(wheels[name].name)[1]) for name in sorted(wheels)},
    }
    return json.dumps(facts, indent=1) + "\n"


def _forget(folder: Path, kept: set[str]) -> None:
    """Remove what an earlier attempt left and this one does not need."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _write(folder: Path, name: str, text: str, mode: int) -> None:
    (folder / name).write_text(text, encoding="utf-8")
    (folder / name).chmod(mode)
