"""What a run folder says of its run: settings, data with hashes, versions, revision; one entry for each start."""

import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from zhiyin.data.manifest import write_lines
from zhiyin.data.sources import Part
from zhiyin.train.stages import Stage

SETTINGS, ABOUT = "stage.json", "run.json"
_PACKAGES = ("torch", "numpy", "tokenizers", "safetensors", "accelerate", "soxr", "soundfile")


def write(
    run: Path, stage: Stage, *, train: Sequence[Part], dev: Sequence[Part], device: str, processes: int, start: str
) -> list[str]:
    """Write `stage.json` (the resolved settings) and add this start to `run.json`; returns what changed since the last.

    Args:
        run: the run folder.
        stage: settings.
        train: what is trained on.
        dev: what is looked at.
        device: and its chip.
        processes: how many.
        start: checkpoint the run begins with, "" for random weights.
    """
    settings = json.loads(json.dumps(asdict(stage)))
    entry: dict[str, Any] = {
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
        "zhiyin": _version("zhiyin"),
        "revision": revision(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in _PACKAGES},
        "device": device,
        "processes": processes,
        "start": start,
        "data": {"train": [asdict(part) for part in train], "dev": [asdict(part) for part in dev]},
        "settings": settings,
    }
    before: list[dict[str, Any]] = (
        json.loads((run / ABOUT).read_text(encoding="utf-8")) if (run / ABOUT).exists() else []
    )
    write_lines(run / SETTINGS, [json.dumps(settings, ensure_ascii=False, indent=1)])
    write_lines(run / ABOUT, [json.dumps([*before, entry], ensure_ascii=False, indent=1)])
    return _changes(before[-1], entry) if before else []


def revision() -> str:
    """Commit of the source tree this package runs from, with a + where it was changed; "" outside of one."""
    root = Path(__file__).resolve().parents[2]
    try:
        if not (root / ".git").exists():
            return ""
        asked = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"]
        return subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    changed = []
    for part in ("train", "dev"):
        hashes = [[source["sha256"] for source in entry["data"][part]] for entry in (old, new)]
        if hashes[0] != hashes[1]:
            changed.append(f"the {part} data are not those the run began with")
    for name, value in new["settings"].items():
        if old["settings"].get(name) != value:
            changed.append(f"[{name}] is not what it was")
    if old["start"] != new["start"]:
        changed.append(f"it began from {old['start'] or 'random weights'}")
    return changed


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
