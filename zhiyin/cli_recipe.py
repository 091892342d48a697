"""`zhiyin train` and `eval`: from a stage file to a checkpoint, and a model's figures."""

import hashlib
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhiyin.cli_progress import Progress
from zhiyin.errors import UserError
from zhiyin.model import files

if TYPE_CHECKING:
    from zhiyin.data.sources import Corpus, Source


@dataclass(frozen=True)
class Given:
    """What `zhiyin train` was given."""

    stage: Path
    run: Path
    data: tuple[str, ...]
    dev: tuple[str, ...]
    pack: Path | None
    start: str
    parts: tuple[str, ...]
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
    inputs = recipe.Inputs(given.pack, data, dev, _checkpoint(given.start), tuple(map(_part, given.parts)))
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


def _part(text: str) -> tuple[str, Path]:
    """The name of a part and the checkpoint that it comes from: ``decoder=runs/intent/checkpoint``."""
    name, mark, folder = text.partition("=")
    found = _checkpoint(folder)
    if not mark or not name or found is None:
        raise UserError(f"--part {text}: give a part and a checkpoint, as in decoder=runs/intent/checkpoint")
    return name, found


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


@dataclass(frozen=True)
class Asked:
    """What `zhiyin eval` was given; `wordings` are those of requests in plain language, from the split's name."""

    pack: Path | None
    data: tuple[str, ...]
    split: str
    out: Path
    limit: int
    ask: tuple[str, ...]

    @property
    def wordings(self) -> str:
        return "dev" if self.split in ("train", "dev") else "test"


def evaluate(asked: Asked, where: tuple[str, str, str, int | None, bool]) -> str:
    """Run a split of the speech pack, manifests or both through the main job and score it; returns the table.

    `where` is the model, the device, the backend, the threads, and whether another device will do.
    `results.jsonl` in `out` is resumed when it belongs to the same model, data, device and way of asking; else it is
    replaced.

    Raises:
        UserError: there is nothing to run, the data does not fit, or the folder holds something else.
    """
    import zhiyin
    from zhiyin.cli_score import write
    from zhiyin.data.manifest import read_growing
    from zhiyin.evaluate import report, run, score, summary
    from zhiyin.evaluate.measures import Options

    corpus = _records(asked)
    model, device, backend, threads, fallback = where
    loaded = zhiyin.load(model or None, device, backend, threads=threads, allow_fallback=fallback).loaded
    spec = loaded.backend.spec
    about: dict[str, Any] = {
        "model": spec.name,
        "sha256": _identity(Path(loaded.source)),
        **({"split": asked.split} if asked.pack else {}),
        "device": str(loaded.backend.device),
    }
    if asked.ask and not spec.can_follow_instructions:
        raise UserError(f"model {spec.name} does not understand requests in plain language; drop --ask")
    about |= {"ask": list(asked.ask), "wordings": asked.wordings} if asked.ask else {}
    about |= {"data": [[part.path, part.sha256] for part in corpus.parts]} if asked.data else {}
    _begin(asked.out, about)
    chosen = corpus.records[:: max(1, len(corpus.records) // asked.limit)] if asked.limit else corpus.records
    with Progress(len(chosen)) as progress:
        progress.say(f"device: {loaded.backend.device}")
        results = run.run(
            chosen,
            loaded,
            asked.out,
            report=lambda entry: progress.start(entry.id),
            ask=asked.ask,
            wordings=asked.wordings,
            stored=corpus.stored,
        )
    rows = read_growing(results)
    figures = score.score(rows)
    lines = json.dumps([asdict(figure) for figure in figures], indent=1)
    (asked.out / "scores.json").write_text(lines, encoding="utf-8")
    table = report.markdown(figures)
    (asked.out / "report.md").write_text(table, encoding="utf-8")
    named = [asked.split] if asked.pack else []
    write(summary.summarize(rows, Options()), asked.out, ", ".join([spec.name, *named, *asked.data]))
    return table


def _records(asked: Asked) -> "Corpus":
    """Everything that is to be run; records without a truth for one of our tasks are left out."""
    from zhiyin.data import sources
    from zhiyin.data.corpora import speech_pack

    if asked.pack is None and not asked.data:
        raise UserError("evaluation: of what? give --data FILE.jsonl (may be repeated), --pack DIR, or both")
    corpus = sources.read([sources.Source(path) for path in asked.data], Path())
    if asked.pack is not None:
        corpus = sources.of_records(speech_pack.read(asked.pack, asked.split), f"{asked.pack}").joined(corpus)
    records = [record for record in corpus.records if record.tasks]
    if not records:
        raise UserError("evaluation: no record has a truth for one of our tasks; `zhiyin data stats` counts them")
    return replace(corpus, records=records)


def _begin(out: Path, about: dict[str, Any]) -> None:
    """A folder for what `about` says: the one that is there if it says the same, else a new one."""
    from zhiyin.cli_score import OUTPUTS

    record = out / "about.json"
    if out.exists() and (not record.exists() or json.loads(record.read_text(encoding="utf-8")) != about):
        known = ("about.json", "results.jsonl", "scores.json", "report.md", *OUTPUTS)
        if any(path.name not in known for path in out.iterdir()):
            raise UserError(f"evaluation folder {out}: holds other files; choose another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(about), encoding="utf-8")


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
