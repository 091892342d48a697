"""Models known by name (`models.toml`), and what a folder is by its small files; nothing is loaded."""

import difflib
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from zhiyin.config import read_toml
from zhiyin.errors import UserError
from zhiyin.runtime import bundle, hf_spec
from zhiyin.tasks import families

# Patterns of weight files in the order of preference: some repositories hold the same weights several times.
WEIGHTS = ("model.safetensors", "model-*.safetensors", "*.safetensors")
RUN, CONVERT, PART = "run", "convert", "part"


@dataclass(frozen=True)
class Known:
    """A row of `models.toml`, which says what each column means."""

    name: str
    family: str
    use: str
    repository: str
    weights: tuple[str, ...] = WEIGHTS
    size_gb: float = 0.0
    licence: str = ""
    licence_note: str = ""
    then: str = ""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task ids its family can do; none for a part."""
        return families.find(self.family).tasks if self.family in families.NAMES else ()


@dataclass(frozen=True)
class About:
    """What a folder says of itself; empty where it says nothing."""

    family: str = ""
    tasks: tuple[str, ...] = ()
    licence: str = ""


@dataclass(frozen=True)
class _Table:
    model: tuple[Known, ...]


@cache
def known() -> dict[str, Known]:
    """Name -> model, of those known by name."""
    table = read_toml(Path(__file__).with_name("models.toml"), _Table)
    return {model.name: model for model in table.model}


def is_name(name: str) -> bool:
    """Whether something can be the name of a model in the store, or ``OWNER/REPOSITORY``."""
    return re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name, re.ASCII) is not None and ".." not in name


def row(name: str) -> Known:
    """The row of a known name or repository; a new one for any other ``OWNER/REPOSITORY``.

    Raises:
        UserError: it is neither.
    """
    if name in known():
        return known()[name]
    if "/" in name and is_name(name):
        first = {model.repository: model for model in reversed(known().values())}  # later rows are parts of it
        return first.get(name) or Known(name, family="", use=RUN, repository=name)
    near = difflib.get_close_matches(name, known(), n=1)
    meant = f" (did you mean '{near[0]}'?)" if near else ""
    raise UserError(f"pull: no model '{name}'; known: {' '.join(known())}, or OWNER/REPOSITORY on the hub{meant}")


def hint(name: str) -> str:
    """What to do about a model that is not there: pull it, or a name like it; empty if nothing is known."""
    if name in known():
        model = known()[name]
        size = f" ({model.size_gb:g} GB)" if model.size_gb else ""
        return f"zhiyin pull {name} downloads it{size}"
    near = difflib.get_close_matches(name, known(), n=1)
    return f"did you mean '{near[0]}'? zhiyin models lists what is known" if near else ""


def identify(folder: Path) -> About:
    """What a folder is: a bundle, one of our checkpoints, or a model of the hub, by `bundle.json` or `config.json`."""
    record = _json(folder / bundle.RECORD)
    if not record:
        record = _json(folder / "config.json")
        spec = record.get("spec")
        if isinstance(spec, dict):
            record = {"family": record.get("family"), **spec}
    if isinstance(record.get("family"), str):
        tasks = record.get("tasks")
        names = tuple(str(task) for task in tasks) if isinstance(tasks, list) else ()
        return About(record["family"], names, str(record.get("licence") or ""))
    for kind in hf_spec.KINDS:
        if kind.model_type == record.get("model_type"):
            return About(kind.family, families.find(kind.family).tasks, kind.licence)
    return About()


def _json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
