"""The documents keep their word: commands, options, links and tables in them are real, in both languages."""

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from zhiyin.tasks.table import TASKS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
GROUPS = ("data", "history", "token")  # commands of commands
READMES = (ROOT / "README.md", ROOT / "README_CN.md")


def commands(path: Path) -> list[str]:
    """Lines of the shell blocks of a document, without comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"\s+#.*", "", line).strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def zhiyin_calls() -> list[str]:
    """Every call of `zhiyin` in the shell blocks of all documents."""
    calls = [re.search(r"\bzhiyin [a-z].*", command) for path in DOCUMENTS for command in commands(path)]
    return sorted({call[0] for call in calls if call})


@cache
def help_of(*command: str) -> str:
    """What `zhiyin COMMAND --help` prints."""
    code = f"from zhiyin.cli import main; main([*{command!r}, '--help'])"
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"zhiyin {command}: {done.stderr}"
    return done.stdout


@pytest.mark.parametrize("call", zhiyin_calls())
def test_commands_and_options_exist(call: str) -> None:
    words = call.split()
    command = words[1 : 3 if words[1] in GROUPS else 2]
    text = help_of(*command)
    unknown = [word for word in words if word.startswith("--") and not re.search(rf"{word.split('=')[0]}\b", text)]
    assert f"zhiyin {' '.join(command)} " in text and not unknown


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    asked = {command.split()[1] for path in DOCUMENTS for command in commands(path) if command.startswith("make ")}
    assert asked and asked <= targets


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)
def test_the_first_result_comes_first(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("make demo") for line in lines[:20])


def test_both_languages_show_the_same_commands() -> None:
    english, chinese = ([re.sub(r'--ask "[^"]*"', "--ask", command) for command in commands(path)] for path in READMES)
    assert english == chinese


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)
def test_the_table_of_tasks_is_whole(path: Path) -> None:
    shown = re.findall(r"^\| `(\w+)` \|", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name in shown if name in {task.id for task in TASKS}] == [task.id for task in TASKS]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere_and_nothing_is_left_to_fill(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", text)
    dead = [link for link in links if not (path.parent / link).exists()]
    assert not dead
    assert "<!--" not in text
