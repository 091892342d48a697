"""The house stays the house: who may import whom, where torch and device words live, sizes, docstrings, packaging.

docs/design.md says why. The checks read source text; only the import tests execute anything.
"""

import ast
import fnmatch
import graphlib
import importlib
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "zhiyin"

TORCH_ROOMS = (
    "model/",
    "train/",
    *(f"deploy/{part}" for part in ("export", "verify_", "doctor_child")),
    "runtime/eager",
    "runtime/hf",
)
SERVE_ROOM = ("serve/",)
NOT_IN_BASE = ("torch", "transformers", "onnx", "safetensors", "accelerate", "peft", "lhotse", "matplotlib")
ONLY_FOR_SERVING = (
    *("alembic", "anyio", "fastapi", "gradio", "prometheus_client", "pydantic", "python_multipart"),
    *("sqlalchemy", "starlette", "uvicorn", "websockets"),
)
DEVICE_WORD_FILES = ("runtime/device.py", "deploy/")
PRINT_FILES = ("cli.py",)
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 90
MIN_DOCSTRINGS = 0.85
MAX_BUNDLE_BYTES = 16 * 2**20
MAX_CHECKPOINT_BYTES = 24 * 2**20

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def rooms() -> tuple[str, ...]:
    """Room names from the table of docs/design.md, top to bottom."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    section = text.partition("\n## Rooms\n")[2].partition("\n## ")[0]
    return tuple(re.findall(r"^\| `(\w+)(?:\.py|/)` \|", section, re.MULTILINE))


@cache
def sources() -> dict[str, str]:
    """Path inside the package -> text, of every module."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in paths}


@cache
def tree(path: str) -> ast.Module:
    """The syntax tree of a module; the grammar is that of the oldest Python we support."""
    return ast.parse(sources()[path], filename=path, feature_version=(3, 10))


def dotted(path: str) -> str:
    """`audio/io.py` -> `zhiyin.audio.io`."""
    return ("zhiyin." + path.removesuffix(".py").replace("/", ".")).removesuffix(".__init__")


@cache
def modules() -> dict[str, str]:
    """Dotted name -> path inside the package; `__main__` would run when imported."""
    return {dotted(path): path for path in sources() if path != "__main__.py"}


def room(path: str) -> str:
    """`audio/io.py` -> `audio`; the command line is one room: `cli.py`, its helpers and `__main__.py`."""
    first = path.split("/")[0].removesuffix(".py")
    return "cli" if first == "__main__" or first.startswith("cli_") else first


def imported(path: str) -> set[str]:
    """Full dotted names a module imports, at its top or inside functions; of our own only real modules."""
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the full name"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in modules() else str(node.module) for name in full}
    return names


def functions(path: str) -> Iterator[tuple[str, Function]]:
    """Functions of a module and methods of its classes, with their names; what is nested in functions is left out."""
    for node in tree(path).body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        for member in members:
            if isinstance(member, Function):
                yield prefix + member.name, member


def allowed(path: str, places: tuple[str, ...]) -> bool:
    """Whether a path lies in one of the places (a prefix of a path each)."""
    return path.startswith(places)


def test_the_table_of_rooms_is_true() -> None:
    assert set(rooms()) == {room(path) for path in sources()}


def test_rooms_import_only_rooms_above() -> None:
    order = {name: place for place, name in enumerate(rooms())}
    wrong = []
    for path in sources():
        for name in imported(path) & modules().keys():
            target = room(modules()[name])
            if target != room(path) and order[target] > order[room(path)]:
                wrong.append(f"{path} imports {name}")
            if target == "train" and room(path) not in ("train", "cli"):
                wrong.append(f"{path} imports {name}: only cli may")
    assert not wrong, wrong


def test_no_import_cycles() -> None:
    graph = {dotted(path): (imported(path) & modules().keys()) - {dotted(path)} for path in sources()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_torch_and_other_extras_stay_in_their_rooms() -> None:
    wrong = []
    for path in sources():
        if not allowed(path, (*TORCH_ROOMS, "runtime/device")):
            wrong += [f"{path} imports {name}" for name in imported(path) if name.split(".")[0] in NOT_IN_BASE]
        if not allowed(path, SERVE_ROOM):
            wrong += [f"{path} imports {name}" for name in imported(path) if name.split(".")[0] in ONLY_FOR_SERVING]
    assert not wrong, f"the base install has none of these: {wrong}"


def test_device_words_live_in_two_places() -> None:
    wrong = []
    for path, text in sources().items():
        if not allowed(path, DEVICE_WORD_FILES):
            lines = enumerate(text.splitlines(), 1)
            wrong += [f"{path}:{number}" for number, line in lines if re.search(r"\b(cuda|npu|mps)\b", line)]
    assert not wrong, wrong


def test_files_and_functions_are_short() -> None:
    long = [f"{path}: {text.count(chr(10))}" for path, text in sources().items() if text.count("\n") > MAX_FILE_LINES]
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, Function) and (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION_LINES:
                long.append(f"{path}:{node.lineno} {node.name}")
    assert not long, long


def test_public_functions_have_docstrings() -> None:
    public, bare = 0, []
    for path in sources():
        for name, node in functions(path):
            if not any(part.startswith("_") for part in name.split(".")):
                public += 1
                if ast.get_docstring(node) is None:
                    bare.append(f"{path}:{node.lineno} {name}")
    assert len(bare) <= (1 - MIN_DOCSTRINGS) * public, f"{len(bare)} of {public} have none: {bare}"


def test_modules_say_what_they_are_for() -> None:
    bare = [path for path, text in sources().items() if text.strip() and ast.get_docstring(tree(path)) is None]
    assert not bare, bare


def test_functions_are_annotated() -> None:
    bare = []
    for path in sources():
        for name, node in functions(path):
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            without = [a.arg for a in every if a.annotation is None and a.arg not in ("self", "cls")]
            if without or (node.returns is None and node.name != "__init__"):
                bare.append(f"{path}:{node.lineno} {name} {without}")
    assert not bare, bare


def test_no_leftovers() -> None:
    wrong = []
    for path, text in sources().items():
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT and re.search(r"\b(TODO|FIXME|XXX)\b", token.string):
                wrong.append(f"{path}:{token.start[0]} {token.string}")
        for node in ast.walk(tree(path)):
            is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            if is_print and not allowed(path, PRINT_FILES):
                wrong.append(f"{path}:{node.lineno} print")
            if isinstance(node, ast.ExceptHandler) and _swallows_all(node):
                wrong.append(f"{path}:{node.lineno} swallows every exception")
    assert not wrong, wrong


def _swallows_all(node: ast.ExceptHandler) -> bool:
    every = node.type is None or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException"))
    return every and all(isinstance(statement, ast.Pass) for statement in node.body)


def test_nothing_names_a_machine_or_a_registry() -> None:
    patterns = r"(?<![\w.])/(home|root|work|Users|mnt)/|index-url|find-links|pypi\.|://[^\s/]*pytorch\.org/whl"
    kept_out = {"runs", "build", "dist"}
    suffixes = {".py", ".md", ".toml", ".txt", ".json", ".jsonl", ".yaml", ".yml", ""}
    wrong = []
    for path in sorted(ROOT.rglob("*")):
        inside = path.relative_to(ROOT)
        hidden = any(part.startswith(".") and part != ".ci" for part in inside.parts)
        if hidden or kept_out & set(inside.parts) or path == Path(__file__) or "egg-info" in str(inside):
            continue
        if path.is_file() and path.suffix in suffixes and path.stat().st_size < 2**20:
            found = re.search(patterns, path.read_text(encoding="utf-8"))
            wrong += [f"{inside}: {found[0]}"] if found else []
    assert not wrong, wrong


def test_every_module_can_be_imported() -> None:
    for name in modules():
        importlib.import_module(name)


def test_the_base_install_is_enough_outside_the_torch_rooms() -> None:
    names = [name for name, path in modules().items() if not allowed(path, (*TORCH_ROOMS, *SERVE_ROOM))]
    code = (
        "import importlib, sys\n"
        f"for extra in {(*NOT_IN_BASE, *ONLY_FOR_SERVING)!r}: sys.modules[extra] = None\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """pyproject.toml."""
    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    return importlib.import_module(name).loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_data_file_is_packaged(project: dict[str, Any]) -> None:
    listed = [
        f"{package.replace('.', '/')}/{pattern}"
        for package, patterns in project["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
    ]
    files = [path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*") if path.is_file()]
    data = [name for name in files if not name.endswith((".py", ".pyc"))]
    forgotten = [name for name in data if not any(fnmatch.fnmatch(name, pattern) for pattern in listed)]
    assert not forgotten, f"not in [tool.setuptools.package-data]: {forgotten}"


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    bare = [folder.relative_to(ROOT).as_posix() for folder in folders if not (folder / "__init__.py").exists()]
    assert not bare, f"setuptools leaves these out, they have no __init__.py: {bare}"


@pytest.mark.parametrize(("folder", "limit"), [("bundle", MAX_BUNDLE_BYTES), ("checkpoint", MAX_CHECKPOINT_BYTES)])
def test_the_pocket_model_is_small(folder: str, limit: int) -> None:
    size = sum(path.stat().st_size for path in (PACKAGE / "pocket" / folder).rglob("*") if path.is_file())
    assert 0 < size <= limit


def test_base_dependencies_are_what_the_code_imports(project: dict[str, Any]) -> None:
    """No dependency nobody imports, and no import the base install does not bring."""
    names = {re.split(r"[<>=;\[ ]", line)[0].replace("-", "_") for line in project["project"]["dependencies"]}
    used = {
        name.split(".")[0]
        for path in sources()
        if not allowed(path, (*TORCH_ROOMS, *SERVE_ROOM))
        for name in imported(path)
    } - set(sys.stdlib_module_names)
    assert used - {"zhiyin", *NOT_IN_BASE} <= names, used - names
    assert names <= used | {"tomli"}, f"listed but imported nowhere: {names - used}"


def test_torch_has_one_range(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    ranges = {line for lines in extras.values() for line in lines if re.match(r"torch\b(?!-)", line)}
    script = (ROOT / "scripts" / "make_env.py").read_text(encoding="utf-8")
    assert ranges == {"torch>=2.6,<2.14"} and all(f'"{line}"' in script for line in ranges)


def test_constraints_are_plain_pins() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    wrong = [line for line in pins if not re.fullmatch(r'[a-z0-9-]+==[\w.]+(; python_version >= "3\.\d+")?', line)]
    assert not wrong, wrong
    device_builds = [line for line in pins if re.match(r"nvidia|triton|cuda", line)]
    assert not device_builds, f"pinned on a machine with another build of torch: {device_builds}"
