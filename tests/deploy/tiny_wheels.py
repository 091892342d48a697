"""Wheels of a few lines and a checkout of a zhiyin that does nothing, for the tests of packs."""

import ensurepip
import shutil
import textwrap
import zipfile
from pathlib import Path


def wheel(folder: Path, name: str, version: str, *requires: str, tag: str = "py3-none-any", extras: str = "") -> Path:
    """A wheel with one module of its name, which knows its version."""
    folder.mkdir(parents=True, exist_ok=True)
    path, info = folder / f"{name}-{version}-{tag}.whl", f"{name}-{version}.dist-info"
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"]
    lines += [f"Provides-Extra: {extra}\n" for extra in extras.split()]
    lines += [f"Requires-Dist: {text}\n" for text in requires]
    files = {
        f"{name}.py": f'VERSION = "{version}"\n',
        f"{info}/METADATA": "".join(lines),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(inside, text)
    return path


def pip(folder: Path) -> Path:
    """The wheel of pip that every Python carries."""
    found = next(iter(sorted((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))))
    return Path(shutil.copy(found, folder))


def checkout(folder: Path, start: Path, *, version: str = "1.0", needs: str = "tinydep>=1") -> Path:
    """A checkout whose zhiyin shows its version, or its words and where it looks for models."""
    project = f"""
        [build-system]
        requires = ["setuptools"]
        build-backend = "setuptools.build_meta"
        [project]
        name = "zhiyin"
        version = "{version}"
        dependencies = ["{needs}"]
        optional-dependencies = {{ more = ["tinymore"] }}
        scripts = {{ zhiyin = "zhiyin:main" }}
        [tool.setuptools]
        packages = ["zhiyin"]
    """
    code = f"""
        import os, sys, tinydep
        def main():
            words = sys.argv[1:]
            print("zhiyin {version}" if words == ["--version"] else [words, tinydep.VERSION, os.environ["ZHIYIN_HOME"]])
    """
    files = {
        "pyproject.toml": project,
        "zhiyin/__init__.py": code,
        "constraints.txt": "tinydep==1.5\n",
        "deploy/start.sh": start.read_text(encoding="utf-8"),
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text if name.endswith(".sh") else textwrap.dedent(text), encoding="utf-8")
    return folder
