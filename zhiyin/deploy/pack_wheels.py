"""The wheels that a zhiyin for another machine needs, none missing and none too many.

pip downloads for other platforms, but asks the conditions of requirements (`python_version < '3.11'`,
`platform_machine == 'x86_64'`) of the machine it runs on. So the requirements are followed here, with the conditions of
the target, and pip fetches one round of wheels after the other; at the end every requirement of every wheel is met by
what is in the folder. Markers and tags: packaging specifications of PyPA (dependency specifiers, platform tags).
"""

import email.parser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename

from zhiyin.errors import UserError

GLIBC = (2, 28)  # every wheel of the base set is built for it; openEuler 22.03 has 2.34, Kylin V10 2.28
ARCHS = ("aarch64", "x86_64")
_OLDEST_GLIBC = 17  # manylinux_2_17, which is also called manylinux2014
_MAX_ROUNDS = 30
_DEVICE_PACKAGES = re.compile(r"(nvidia|cuda|triton)\b")


@dataclass(frozen=True)
class Target:
    """The machine that is packed for: Linux with glibc.

    Attributes:
        python: e.g. ``3.11``.
        arch: ``aarch64`` or ``x86_64``.
    """

    python: str
    arch: str

    def markers(self) -> dict[str, str]:
        """What requirements may ask of it."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.arch,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }

    def pip_words(self) -> list[str]:
        """The same for `pip download`."""
        numbers = self.python.replace(".", "")
        tags = [f"manylinux_{GLIBC[0]}_{minor}_{self.arch}" for minor in range(GLIBC[1], _OLDEST_GLIBC - 1, -1)]
        platforms = [*tags, f"manylinux2014_{self.arch}"]
        kinds = ["--abi", f"cp{numbers}", "--abi", "abi3", "--abi", "none", "--only-binary=:all:"]
        return ["--python-version", self.python, "--implementation", "cp", *kinds] + [
            word for platform in platforms for word in ("--platform", platform)
        ]


def build(source: Path, folder: Path) -> Path:
    """The wheel of the zhiyin in a checkout; built from a copy, so that nothing is left in the checkout.

    Raises:
        UserError: pip cannot build it.
    """
    shutil.rmtree(folder, ignore_errors=True)
    copy = folder / "source"
    copy.mkdir(parents=True)
    for path in (source / name for name in ("pyproject.toml", "README.md", "LICENSE") if (source / name).is_file()):
        shutil.copy2(path, copy)
    shutil.copytree(source / "zhiyin", copy / "zhiyin", ignore=shutil.ignore_patterns("__pycache__"))
    _pip(["wheel", "--no-deps", "-w", str(folder), str(copy)], "build the wheel of zhiyin")
    shutil.rmtree(copy)
    return next(folder.glob("zhiyin-*.whl"))


def pins(constraints: Path, target: Target) -> str:
    """The constraints that hold for a target, without conditions: pip would ask them of the machine it runs on."""
    lines = [line for line in constraints.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    kept = [requirement for requirement in map(Requirement, lines) if _holds(requirement, target, "")]
    return "".join(f"{requirement.name}{requirement.specifier}\n" for requirement in kept)


def gather(
    roots: Sequence[Requirement],
    folder: Path,
    target: Target,
    fetch: Callable[[Sequence[str]], None],
    *,
    with_cuda: bool,
) -> dict[str, Path]:
    """Fetch until all requirements are met.

    Args:
        roots: what is to be installed; zhiyin's own wheel is in the folder already.
        folder: of the wheels, kept from call to call.
        target: the machine.
        fetch: puts wheels for these requirements into the folder.
        with_cuda: whether libraries of CUDA may be among them; they come as a dependency of torch, gigabytes of them.

    Returns:
        Wheels by name; others in the folder are not needed.

    Raises:
        UserError: requirements contradict each other, or bring CUDA unasked.
    """
    before: set[str] = set()
    for _ in range(_MAX_ROUNDS):
        needed, wheels = _follow(roots, folder, target), by_name(folder)
        cuda = sorted(name for name in needed if _DEVICE_PACKAGES.match(name))
        if cuda and not with_cuda:
            raise UserError(
                f"pack: the torch that pip finds is a build for CUDA and brings {len(cuda)} packages ({cuda[0]} ...); "
                "let pip find a CPU build (its option extra-index), or give --gpu"
            )
        lacking = {f"{name}{specifier}" for name, specifier in needed.items() if not _has(wheels, name, specifier)}
        if not lacking:
            return {name: wheels[name] for name in needed}
        if lacking <= before:
            raise UserError(f"pack: no wheels satisfy {', '.join(sorted(lacking))} together; loosen constraints.txt")
        for name in needed:
            if name in wheels and not _has(wheels, name, needed[name]):
                wheels[name].unlink()
        fetch(sorted(lacking))
        before = lacking
    raise UserError(f"pack: still not all there after {_MAX_ROUNDS} rounds, lacking {', '.join(sorted(before))}")


def download(folder: Path, target: Target, constraints: Path) -> Callable[[Sequence[str]], None]:
    """A `fetch` for `gather`: pip, with the index it is set up for; wheels appear in the folder when they are whole."""

    def fetch(requirements: Sequence[str]) -> None:
        new = folder.with_name(f".{folder.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        words = ["download", "--no-deps", "-d", str(new), "-c", str(constraints), *target.pip_words()]
        _pip([*words, *requirements], f"download {len(requirements)} wheels")
        for path in new.glob("*.whl"):
            os.replace(path, folder / path.name)
        shutil.rmtree(new)

    return fetch


def by_name(folder: Path) -> dict[str, Path]:
    """The wheels of a folder, by canonical name."""
    return {str(parse_wheel_filename(path.name)[0]): path for path in sorted(folder.glob("*.whl"))}


def requires(wheel: Path) -> list[Requirement]:
    """What a wheel says it needs."""
    return [Requirement(line) for line in _said(wheel, "Requires-Dist")]


def extras(wheel: Path) -> list[str]:
    """The extras a wheel says it has."""
    return _said(wheel, "Provides-Extra")


def _said(wheel: Path, field: str) -> list[str]:
    """A field of the core metadata."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        metadata = email.parser.HeaderParser().parsestr(archive.read(name).decode("utf-8"))
    return list(metadata.get_all(field) or ())


def _follow(roots: Iterable[Requirement], folder: Path, target: Target) -> dict[str, SpecifierSet]:
    """Name -> version wanted by all, of everything that can be reached through the wheels that are there."""
    wheels, needed, seen = by_name(folder), dict[str, SpecifierSet](), set[tuple[str, str]]()
    open_ = [(requirement, "") for requirement in roots]
    while open_:
        requirement, extra = open_.pop()
        if not _holds(requirement, target, extra):
            continue
        name = str(canonicalize_name(requirement.name))
        needed[name] = needed.get(name, SpecifierSet()) & requirement.specifier
        for wanted in ("", *requirement.extras):
            if name in wheels and (name, wanted) not in seen:
                seen.add((name, wanted))
                open_ += [(inner, wanted) for inner in requires(wheels[name])]
    return needed


def _holds(requirement: Requirement, target: Target, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({**target.markers(), "extra": extra})


def _has(wheels: dict[str, Path], name: str, specifier: SpecifierSet) -> bool:
    return name in wheels and specifier.contains(parse_wheel_filename(wheels[name].name)[1], prereleases=True)


def _pip(words: list[str], doing: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.splitlines()
        said = [line for line in lines if line.startswith("ERROR")] or lines or [f"exit code {done.returncode}"]
        raise UserError(f"pack: pip cannot {doing}: {said[-1]}; packing needs an index that pip reaches")
