"""`zhiyin train` and `eval`: from a stage file to a checkpoint, and a model's figures."""

import hashlib
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhiyin.cli_progress import Progress
from zhiyin.errors import UserError
from zhiyin.model import files

if TYPE_CHECKING:
    from zhiyin.data.sources import Source


@dataclass(frozen=True)
class Given:
    """What `zhiyin train` was given."""

    stage: Path
    run: Path
    data: tuple[str, ...]
    dev: tuple[str, ...]
    pack: Path | None
    start: str
    device: str
    processes: int
    threads: int | None


def train(given: Given) -> tuple[int, Path | None]:
    """Train a stage in a run folder, or go on where it stopped; an exit code, and the checkpoint's folder.

    With several processes this one only starts them, and the first of them shows the folder.

    Raises:
        UserError: an extra is missing, or a setting, the data or the run folder does not fit.
    """
    _need("torch", "matplotlib", extra="train")
    if given.processes > 1 and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        from zhiyin.train.launch import launch

        _need("accelerate", extra="train")
        return launch(given.processes, [sys.executable, "-m", "zhiyin", *sys.argv[1:]]), None
    from zhiyin.runtime.device import before_torch

    note = before_torch()
    from zhiyin.train import recipe

    data, dev = (tuple(map(_source, named)) for named in (given.data, given.dev))
    inputs = recipe.Inputs(given.pack, data, dev, _checkpoint(given.start))
    with Progress(0) as progress:
        folder = recipe.run(
            given.stage,
            given.run,
            inputs,
            device=given.device,
            threads=given.threads,
            note=note,
            report=progress.say,
        )
    return 0, folder


def _source(text: str) -> "Source":
    """A manifest, or a manifest and the weight of its hours: ``more.jsonl=0.5``."""
    from zhiyin.data.sources import Source

    path, mark, weight = text.rpartition("=")
    try:
        return Source(path, float(weight)) if mark and path else Source(text)
    except ValueError:
        return Source(text)  # a file with = in its name


def _checkpoint(start: str) -> Path | None:
    """The folder to begin with; `pocket` is the one in the package, unless there is a folder of that name."""
    if not start:
        return None
    if start == "pocket" and not Path(start).exists():
        return Path(__file__).parent / "pocket" / "checkpoint"
    if not files.is_checkpoint(start):
        raise UserError(
            f"starting from {start}: it is no checkpoint of zhiyin; give a folder with config.json, or pocket"
        )
    return Path(start)


def evaluate(
    pack: Path, split: str, out: Path, where: tuple[str, str, str, int | None, bool], limit: int, ask: str
) -> str:
    """Run a split of the speech pack through the main job and score it; returns the table.

    `where` is the model, the device, the backend, the threads, and whether another device will do.
    `results.jsonl` in `out` is resumed when it belongs to the same model, split, device and way of asking; else it is
    replaced.
    """
    import zhiyin
    from zhiyin.cli_score import OUTPUTS, write
    from zhiyin.data.corpora import speech_pack
    from zhiyin.data.manifest import read_growing
    from zhiyin.evaluate import report, run, score, summary
    from zhiyin.evaluate.measures import Options

    records = [record for record in speech_pack.read(pack, split) if record.tasks]
    model, device, backend, threads, fallback = where
    loaded = zhiyin.load(model or None, device, backend, threads=threads, allow_fallback=fallback).loaded
    about: dict[str, Any] = {
        "model": loaded.backend.spec.name,
        "sha256": _identity(Path(loaded.source)),
        "split": split,
        "device": str(loaded.backend.device),
    }
    languages = list(filter(None, ask.split(",")))
    if languages and not loaded.backend.spec.can_follow_instructions:
        raise UserError(f"model {loaded.backend.spec.name} does not understand requests in plain language; drop --ask")
    wordings = "dev" if split in ("train", "dev") else "test"
    about |= {"ask": languages, "wordings": wordings} if languages else {}
    record = out / "about.json"
    if out.exists() and (not record.exists() or json.loads(record.read_text(encoding="utf-8")) != about):
        known = ("about.json", "results.jsonl", "scores.json", "report.md", *OUTPUTS)
        if any(path.name not in known for path in out.iterdir()):
            raise UserError(f"evaluation folder {out}: holds other files; choose another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(about), encoding="utf-8")
    chosen = records[:: max(1, len(records) // limit)] if limit else records
    with Progress(len(chosen)) as progress:
        progress.say(f"device: {loaded.backend.device}")
        results = run.run(
            chosen, loaded, out, report=lambda entry: progress.start(entry.id), ask=languages, wordings=wordings
        )
    rows = read_growing(results)
    figures = score.score(rows)
    (out / "scores.json").write_text(json.dumps([asdict(figure) for figure in figures], indent=1), encoding="utf-8")
    table = report.markdown(figures)
    (out / "report.md").write_text(table, encoding="utf-8")
    write(summary.summarize(rows, Options()), out, f"{loaded.backend.spec.name}, {split}")
    return table


def _identity(folder: Path) -> str:
    """Hash of a bundle's record, which holds the hashes of its files, or of the weights of another model."""
    record = folder / "bundle.json"
    parts = [record] if record.exists() else files.shards(folder, f"model {folder}")[0]
    digest = hashlib.sha256()
    for part in parts:
        with part.open("rb") as file:
            while block := file.read(2**22):
                digest.update(block)
    return digest.hexdigest()


def _need(*packages: str, extra: str) -> None:
    import importlib.util

    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"this command needs {', '.join(missing)}: pip install 'zhiyin[{extra}]'")
