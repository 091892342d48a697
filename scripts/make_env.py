"""Make or complete the project's virtual environment: `python3 scripts/make_env.py .venv base|test`.

`base` is what running needs (no torch); `test` adds the extras train, export, hf, eval, serve and postgres, the group
dev, and beside the environment the wheel of torch_npu. Standard library only: this runs before anything is installed.

torch: a build that is already in the environment stays. Else pip chooses, unless that would bring gigabytes of CUDA to
a machine without such a device: then uv fetches the CPU build (it knows where PyTorch keeps it).
"""

from __future__ import annotations  # so that a Python that is too old gets as far as being told so

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 10)
TORCH = "torch>=2.6,<2.14"  # as in pyproject.toml; tests/test_structure.py compares


def attempt(*command: str | Path) -> int:
    """Run a command, shown first; its exit code. setuptools' general advice on editable installs is left out."""
    words = [str(word) for word in command]
    print("+", " ".join(words), flush=True)
    return subprocess.run(words, cwd=ROOT, env={**os.environ, "PYTHONWARNINGS": "ignore"}).returncode


def run(*command: str | Path) -> None:
    """Run a command; stop when it fails."""
    code = attempt(*command)
    if code:
        sys.exit(f"make_env: this command failed with code {code}: {' '.join(map(str, command))}")


def python_of(folder: Path) -> Path:
    """The interpreter of an environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def has(python: Path, module: str) -> bool:
    """Whether the environment can find a module."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([python, "-c", code]).returncode == 0


def install_base(python: Path) -> None:
    """The package, editable, with what running needs; kept small.

    Bytecode is compiled here, not by pip, because pip also compiles the packages' own test suites. setuptools is only a
    seed of older Pythons' venv; nothing here runs on it.
    """
    run(python, "-m", "pip", "install", "-q", "--no-compile", "-c", "constraints.txt", "-e", ".")
    if has(python, "setuptools") and not has(python, "torch"):
        run(python, "-m", "pip", "uninstall", "-q", "-y", "setuptools")
    site = next(path for path in python.parent.parent.rglob("site-packages") if path.is_dir())
    # Packages also carry files in the grammar of newer Pythons, so some files failing is no failure.
    attempt(python, "-m", "compileall", "-qq", "-j", "0", "-x", r"[/\\]tests[/\\]", site)


def torch_comes_with_cuda(python: Path) -> bool:
    """Whether pip would choose a CUDA build here; its report says so without downloading it."""
    command = [python, "-m", "pip", "install", "-q", "--dry-run", "--no-deps", "--report", "-", "-c", "constraints.txt"]
    answer = subprocess.run([*command, TORCH], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if answer.returncode:
        return False  # the real installation will say what is wrong
    metadata = json.loads(answer.stdout)["install"][0]["metadata"]
    needs = " ".join(metadata.get("requires_dist", ()))
    return not metadata["version"].endswith("+cpu") and ("nvidia" in needs or "cuda" in needs)


def install_torch(python: Path) -> None:
    """A CPU build of torch where pip alone would bring CUDA for nothing."""
    has_gpu = any(Path("/dev").glob("nvidia[0-9]*"))
    if has(python, "torch") or has_gpu or not torch_comes_with_cuda(python):
        return
    run(python, "-m", "pip", "install", "-q", "uv")
    choice = ("--torch-backend=cpu", "-c", "constraints.txt", TORCH)
    if attempt(python, "-m", "uv", "pip", "install", "-q", "--python", python, *choice):
        print(
            "make_env: no CPU build of torch can be reached from here; pip brings the one with CUDA (gigabytes)",
            flush=True,
        )


def install_test(python: Path) -> None:
    """What the tests need on top: torch, the extras, the dev group (`--group` came with pip 25.1)."""
    run(python, "-m", "pip", "install", "-q", "--upgrade", "-c", "constraints.txt", "pip>=25.1")
    install_torch(python)
    extras = ".[train,export,hf,eval,serve,postgres]"
    run(python, "-m", "pip", "install", "-q", "-c", "constraints.txt", "-e", extras, "--group", "dev")


def install_torch_npu(python: Path, folder: Path) -> None:
    """The wheel of torch_npu for this torch beside the environment, for tests over a stand-in of CANN.

    Never inside: there it would break `import torch` on every machine without CANN.
    """
    asked = subprocess.run([python, "-c", "import torch; print(torch.__version__)"], stdout=subprocess.PIPE, text=True)
    version = asked.stdout.strip().partition("+")[0]
    if sys.platform != "linux" or (folder / f"torch_npu-{version}.dist-info").is_dir():
        return
    wheel = ("--no-deps", "--target", folder, "--upgrade", f"torch-npu=={version}")
    if attempt(python, "-m", "pip", "install", "-q", *wheel):
        print(f"make_env: no torch-npu for torch {version} can be had here; its tests will be skipped", flush=True)


def main(arguments: list[str]) -> None:
    """Make the environment if it is missing, then install `base` or `test`."""
    if len(arguments) != 2 or arguments[1] not in ("base", "test"):
        sys.exit("usage: python3 scripts/make_env.py FOLDER base|test")
    if sys.version_info < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        sys.exit(f"make_env: this is Python {sys.version.split()[0]}; zhiyin needs {wanted} or newer: make PYTHON=...")
    folder = Path(arguments[0]).absolute()
    python = python_of(folder)
    if not python.exists():
        print(f"+ python -m venv {folder}", flush=True)
        venv.create(folder, with_pip=True, symlinks=os.name != "nt")
    if arguments[1] == "base":
        install_base(python)
    else:
        install_test(python)
        install_torch_npu(python, folder / "torch-npu")


if __name__ == "__main__":
    main(sys.argv[1:])
