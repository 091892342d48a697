"""`zhiyin train` and `eval`: from a stage file to a checkpoint, and a model's figures."""

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zhiyin.cli_progress import Progress
from zhiyin.errors import UserError
from zhiyin.model import files


def train(stage: Path, pack: Path, run: Path, start: Path | None, device: str, threads: int | None) -> Path:
    """Train a stage in a run folder, or go on where it stopped; returns the checkpoint's folder.

    Raises:
        UserError: an extra is missing, or a setting, the data or the run folder does not fit.
    """
    _need("torch", "matplotlib", extra="train")
    from zhiyin.runtime.device import before_torch

    note = before_torch()
    from zhiyin.train import recipe

    with Progress(0) as progress:
        return recipe.run(stage, pack, run, start=start, device=device, threads=threads, note=note, report=progress.say)


def evaluate(
    pack: Path, split: str, out: Path, model: str, device: str, backend: str, threads: int | None, limit: int,
    ask: str = "",
) -> str:  # fmt: skip
    """Run a split of the speech pack through the main job and score it; returns the table.

    `results.jsonl` in `out` is resumed when it belongs to the same model, split and way of asking, else replaced.
    """
    import zhiyin
    from zhiyin.cli_score import OUTPUTS, write
    from zhiyin.data.corpora import speech_pack
    from zhiyin.data.manifest import read_growing
    from zhiyin.evaluate import report, run, score, summary
    from zhiyin.evaluate.measures import Options

    records = [record for record in speech_pack.read(pack, split) if record.tasks]
    loaded = zhiyin.load(model or None, device=device, backend=backend, threads=threads).loaded
    about: dict[str, Any] = {
        "model": loaded.backend.spec.name,
        "sha256": _identity(Path(loaded.source)),
        "split": split,
    }
    languages = list(filter(None, ask.split(",")))
    if languages and not loaded.backend.spec.can_follow_instructions:
        raise UserError(f"model {loaded.backend.spec.name} does not understand requests in plain language; drop --ask")
    about |= {"ask": languages} if languages else {}
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
        results = run.run(chosen, loaded, out, report=lambda entry: progress.start(entry.id), ask=languages)
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
