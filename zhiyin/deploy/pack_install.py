"""Checks a pack and installs zhiyin from it; `zhiyin pack` puts this very file into the pack as install.py.

Standard library only, and nothing of zhiyin: it runs where nothing is installed yet. Nothing here asks the network, and
pip is told not to: no index, no configuration, a proxy where nobody listens.
"""

from __future__ import annotations  # so that a Python that is too old gets as far as being told so

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

RECORD, SUMS = "pack.json", "SHA256SUMS"
FORMAT = 1
_SPARE_BYTES = 64 * 2**20  # left free on the disk
_UNFINISHED = ".unfinished"  # in the installation's folder until it is whole
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_NOWHERE = "127.0.0.1:9"  # the discard port: what asks the network in spite of everything fails at once


class Refused(Exception):
    """Why a pack is not installed, in one line."""


def sums(folder: Path) -> dict[str, str]:
    """Path below a folder -> SHA-256 of every file in it, in the order of their names; the list itself is left out."""
    paths = sorted(path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    names = [path.relative_to(folder).as_posix() for path in paths]
    return {name: sha256(folder / name) for name in names if name != SUMS}


def sha256(path: Path) -> str:
    """The hash of a file, as sha256sum prints it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(2**20), b""):
            digest.update(block)
    return digest.hexdigest()


def faults(folder: Path) -> list[str]:
    """What is wrong with a pack, a line each: missing, damaged and foreign files. Every file is read."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
        listed = {name: value for value, _, name in (line.partition("  ") for line in lines)}
        record(folder)
    except FileNotFoundError as error:
        return [f"{Path(str(error.filename)).name} is missing: not a pack, or copied in part"]
    except (OSError, ValueError, Refused) as error:
        return [str(error)]
    links = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink()]
    if links:
        return [f"{name} is a link; a pack has none" for name in links]
    found = sums(folder)
    wrong = [f"{name} is missing" for name in listed if name not in found]
    wrong += [
        f"{name} is damaged (its SHA-256 differs)" for name in found if listed.get(name, found[name]) != found[name]
    ]
    return wrong + [f"{name} does not belong to the pack" for name in found if name not in listed]


def record(folder: Path) -> dict:
    """The pack's pack.json.

    Raises:
        Refused: it is damaged or of another format.
    """
    try:
        facts = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except ValueError as error:
        raise Refused(f"{RECORD} is damaged ({error})") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise Refused(f"{RECORD} is not of format {FORMAT}, which this installer reads")
    return facts


def blocked(environment: dict[str, str]) -> dict[str, str]:
    """An environment in which pip has no index and programs that respect proxies reach nobody."""
    kept = {
        name: value for name, value in environment.items() if not name.startswith(("PIP_", "PYTHON", "VIRTUAL_ENV"))
    }
    ways = {name: _NOWHERE for proxy in _PROXIES for name in (proxy, proxy.upper())}
    return {**kept, **ways, "no_proxy": "", "NO_PROXY": "", "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}


def machine_faults(facts: dict) -> list[str]:
    """Why what is packed does not run under this interpreter on this machine."""
    wrong = []
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if python != facts["python"]:
        wrong.append(f"the pack is for Python {facts['python']}, this is {python} ({sys.executable}); give PYTHON=...")
    arch = {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    if (platform.system(), arch) != ("Linux", facts["arch"]):
        wrong.append(f"the pack is for Linux on {facts['arch']}, this is {platform.system()} on {arch}")
    name, version = platform.libc_ver()
    if name == "glibc" and _numbers(version) < _numbers(facts["glibc"]):
        wrong.append(f"the pack needs glibc {facts['glibc']}, here is {version}")
    return wrong


def install(pack: Path, place: Path) -> str:
    """Install a pack, or finish or replace what is there; what ran before runs until the new one is whole.

    Args:
        pack: the folder, checked already.
        place: gets `bin/zhiyin`, `bin/start.sh`, `models/` and the environment; new, empty, or of an installation.

    Returns:
        What is there now, in one line.

    Raises:
        Refused: it cannot be installed here, with the reason.
    """
    facts = record(pack)
    wrong = machine_faults(facts)
    if wrong:
        raise Refused("; ".join(wrong))
    if pack in (place, *place.parents):
        raise Refused(f"{place} is inside the pack; give another folder")
    is_ours = (place / "bin" / "zhiyin").is_file() or (place / _UNFINISHED).is_file()
    if place.exists() and not is_ours and (not place.is_dir() or any(place.iterdir())):
        raise Refused(f"{place} is there and no installation of zhiyin; give a new folder")
    environment = place / f"env-{facts['version']}-{sha256(pack / SUMS)[:8]}"
    _make_room(pack, place)
    (place / _UNFINISHED).write_text("", encoding="utf-8")
    shutil.rmtree(environment, ignore_errors=True)
    python = _environment(environment)
    _pip(python, pack, facts)
    _try(environment, facts["version"])
    for name in facts["models"]:
        _place_model(pack / "models" / name, place / "models" / name)
    _switch(pack, place, environment)
    return f"zhiyin {facts['version']} is in {place}: {place / 'bin' / 'start.sh'} understand RECORDING"


def _make_room(pack: Path, place: Path) -> None:
    packed = sum(info.file_size for path in pack.glob("wheels/*.whl") for info in zipfile.ZipFile(path).infolist())
    # Bytecode adds about half of the sources' size to what the wheels hold.
    needed = packed * 3 // 2 + sum(path.stat().st_size for path in pack.glob("models/**/*") if path.is_file())
    existing = next(folder for folder in (place, *place.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < needed + _SPARE_BYTES:
        raise Refused(f"needs {needed / 1e9:.1f} GB, {existing} has {free / 1e9:.1f} GB free; give another folder")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"{place} cannot be made ({error.strerror}); give another folder") from error


def _environment(folder: Path) -> Path:
    """A bare environment; pip runs from its wheel, because some systems package ensurepip by itself."""
    try:
        import venv
    except ImportError as error:
        raise Refused(
            f"this Python lacks the module venv ({error}); install it (python3-venv, python3-devel)"
        ) from error
    venv.create(str(folder), with_pip=False, symlinks=True)
    return folder / "bin" / "python"


def _pip(python: Path, pack: Path, facts: dict) -> None:
    wheel = next(iter(sorted((pack / "wheels").glob("pip-*.whl"))), None)
    if wheel is None:
        raise Refused("the pack has no wheel of pip")
    extras = f"[{','.join(facts['extras'])}]" if facts["extras"] else ""
    words = ["install", "--no-index", "-f", str(pack / "wheels"), "--only-binary", ":all:", "--no-cache-dir", "-q"]
    what = [f"zhiyin{extras}=={facts['version']}", "pip", "--no-compile", "--disable-pip-version-check", "--no-input"]
    done = _run([str(python), str(wheel / "pip"), *words, *what])
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise Refused(f"pip failed: {lines[0] if lines else f'exit code {done.returncode}'}")
    # Bytecode now, for those who run it may not write it; pip would compile the packages' own tests as well.
    site = next(iter(python.parent.parent.glob("lib/python*/site-packages")))
    _run([str(python), "-m", "compileall", "-qq", "-x", r"/(tests|pip)/", str(site)])


def _try(environment: Path, version: str) -> None:
    done = _run([str(environment / "bin" / "zhiyin"), "--version"])
    if done.returncode or version not in done.stdout:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Refused(f"zhiyin does not start: {said[-1] if said else f'exit code {done.returncode}'}")


def _run(words: list[str]) -> subprocess.CompletedProcess[str]:
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    return subprocess.run(words, env=blocked(dict(os.environ)), stdin=nothing, stdout=pipe, stderr=pipe, text=True)


def _place_model(source: Path, target: Path) -> None:
    """A model, whole; an older one of this name gives way."""
    if target.is_dir() and sums(target) == sums(source):
        return
    part, old = target.with_name(f".{target.name}.part"), target.with_name(f".{target.name}.old")
    for leftover in (part, old):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(source, part)
    if sums(part) != sums(source):
        raise Refused(f"the copy of model {target.name} differs from the pack; look at the disk")
    if target.exists():
        os.replace(target, old)
    os.replace(part, target)
    shutil.rmtree(old, ignore_errors=True)


def _switch(pack: Path, place: Path, environment: Path) -> None:
    """From here on the new one is what `bin/zhiyin` starts; older environments go."""
    (place / "bin").mkdir(exist_ok=True)
    inner = f'"$(dirname "$(readlink -f "$0")")/../{environment.name}/bin/zhiyin"'
    lines = ["#!/bin/sh", "# Models are looked for beside this installation.", _HOME, f'exec {inner} "$@"', ""]
    _write(place / "bin" / "start.sh", (pack / "start.sh").read_bytes(), 0o755)
    _write(place / "bin" / "zhiyin", "\n".join(lines).encode(), 0o755)
    _write(place / RECORD, (pack / RECORD).read_bytes(), 0o644)
    (place / _UNFINISHED).unlink()
    for folder in place.glob("env-*"):
        if folder != environment:
            shutil.rmtree(folder, ignore_errors=True)


_HOME = 'export ZHIYIN_HOME="${ZHIYIN_HOME:-$(dirname "$(readlink -f "$0")")/..}"'


def _write(path: Path, data: bytes, mode: int) -> None:
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(data)
    new.chmod(mode)
    os.replace(new, path)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def main(words: list[str], pack: Path) -> int:
    """`install.sh FOLDER` or `install.sh --check`; the exit code."""
    if len(words) != 1 or (words[0].startswith("-") and words[0] != "--check"):
        sys.stderr.write("usage: install.sh FOLDER, or install.sh --check\n")
        return 2
    wrong = faults(pack)
    for line in wrong[:10]:
        sys.stderr.write(f"install: {line}\n")
    if wrong:
        sys.stderr.write(f"install: {len(wrong)} of the pack's files are not as they were packed; copy it again\n")
        return 2
    sys.stderr.write(f"every file is as it was packed; SHA-256 of the list: {sha256(pack / SUMS)}\n")
    if words[0] == "--check":
        return 0
    try:
        sys.stdout.write(install(pack, Path(words[0]).absolute()) + "\n")
    except Refused as error:
        sys.stderr.write(f"install: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).resolve().parent))
