"""Once a model is here nothing asks the network, and one module alone could."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.fake_hub import Hub, serving
from zhiyin.runtime import store

NAME = "granite-speech-4.1-2b"
NETWORK_MODULES = {
    *("socket", "ssl", "http", "urllib", "ftplib", "smtplib", "xmlrpc", "socketserver", "asyncio", "webbrowser"),
    *("requests", "httpx", "httpx2", "aiohttp", "urllib3", "huggingface_hub", "hf_xet", "modelscope", "fsspec"),
}
MAY = "runtime/hf_hub.py"
WHEN_GIVEN_AN_ADDRESS = "data/shards.py"  # through fsspec, if the shards are asked for at an address
# The service is spoken to, and speaks to its own workers; tests/serve/test_alone.py shows that it asks nobody else.
LISTENS = ("serve/", "cli_serve.py", "cli_history.py")

# An audit hook sees every socket of the process, whichever library opens it. What is tried is remembered too, for a
# library may swallow the error.
BLOCKED = """
import sys

tried = []

def watch(event, details):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg"):
        tried.append(f"{event} {details[-1]}")
        raise OSError("no network here")

sys.addaudithook(watch)
"""
RUN = """
import zhiyin
from zhiyin import cli

def command(*words):
    try:
        cli.main(list(words))
    except SystemExit as stop:
        return stop.code
"""
MODELS = """
for backend in sys.argv[2:]:
    model = zhiyin.load(backend=backend, threads=1)
    print(model.understand(sys.argv[1], tasks=["asr", "ved"]).text)
assert command("understand", sys.argv[1]) == 0
assert command("info") == 0
assert command("models") == 0
assert command("models", "--check") == 0
assert not tried, tried
"""


def child(code: str, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code with the network blocked, and without the variable that asks libraries to stay offline."""
    kept = {name: value for name, value in os.environ.items() if not re.match(r"HF_|TRANSFORMERS_|ZHIYIN_HOME", name)}
    environment = {**kept, "ZHIYIN_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", BLOCKED + RUN + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment, timeout=300)


@pytest.mark.slow
def test_everything_runs_without_a_network(tmp_path: Path, repository: Path) -> None:
    backends = ["onnx", *(["eager"] if importlib.util.find_spec("torch") else [])]
    done = child(MODELS, tmp_path, str(repository / "samples" / "digits-1.flac"), *backends)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("four one seven two nine\n") == len(backends) and "\n41729\n" in done.stdout
    assert "granite-speech-4.1-2b" in done.stdout


def test_the_block_works(tmp_path: Path) -> None:
    """Pull is the one that asks: it must be stopped here, or the test above proves nothing."""
    code = (
        "from zhiyin.runtime import hf_hub\nhf_hub.RETRY_WAIT_S = 0\nassert command('pull', 'osum') == 2\nprint(tried)"
    )
    done = child(code, tmp_path)
    assert done.returncode == 0 and "socket.getaddrinfo" in done.stdout, done.stderr
    assert "the hub cannot be reached (no network here)" in done.stderr


@pytest.mark.slow
def test_a_pulled_model_runs_by_its_name(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests.runtime import hf_tiny

    made = hf_tiny.granite(tmp_path / "made")
    monkeypatch.setenv("ZHIYIN_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with serving(Hub({path.name: path.read_bytes() for path in made.iterdir()})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        store.pull(NAME)
    code = "assert command('understand', sys.argv[1], '--model', sys.argv[2], '--format', 'json') == 0\n"
    sample = str(repository / "samples" / "digits-1.flac")
    done = child(code + "assert not tried, tried", tmp_path, sample, NAME)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["family"] == "granite-speech"


@pytest.mark.parametrize("kind", ["imports", "addresses", "from_pretrained"])
def test_one_module_alone_could(repository: Path, kind: str) -> None:
    find = {"imports": _imports, "addresses": _addresses, "from_pretrained": _asks_the_hub}[kind]
    package = repository / "zhiyin"
    found = {}
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        found[name] = find(ast.parse(path.read_text(encoding="utf-8")))
    allowed = (MAY,) if kind == "from_pretrained" else (MAY, WHEN_GIVEN_AN_ADDRESS, *LISTENS)
    assert {name: what for name, what in found.items() if what and not name.startswith(allowed)} == {}
    assert found[MAY] or kind == "from_pretrained"


def _imports(tree: ast.Module) -> list[str]:
    """Modules that speak to a network, imported anywhere."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names += [word.value for word in node.args[:1] if isinstance(word, ast.Constant)]
    return [name for name in names if name.split(".")[0] in NETWORK_MODULES and name != "urllib.parse"]


def _addresses(tree: ast.Module) -> list[str]:
    """Text with a network address or scheme in it, docstrings left out: they name sources."""
    docstrings = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, _DOCUMENTED)}
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [text for text in texts if text not in docstrings and re.search(r"\b(https?|wss?|ftp)\b|://", text)]


_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _asks_the_hub(tree: ast.Module) -> list[str]:
    """Calls of `from_pretrained` that may download (they name a model and are not local only) or run foreign code."""
    wrong = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained":
            given = {word.arg: word.value for word in node.keywords}
            safe = [
                value for value in (*node.args[:1], given.get("local_files_only")) if isinstance(value, ast.Constant)
            ]
            if not any(value.value in (None, True) for value in safe) or "trust_remote_code" in given:
                wrong.append(ast.unparse(node))
    return wrong
