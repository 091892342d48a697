"""A set of synthetic recordings on disk: made in parallel, and after any interruption to the same files.

The unit of work is a chunk of recordings, made by a process of its own, because the engines remember what they said
before. A chunk is there whole (its folder renamed into place, then its part of the manifest) or not at all.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import soundfile

from zhiyin.audio.features import SAMPLE_RATE_HZ
from zhiyin.data import manifest, synth_engines, synth_grammar, synth_make
from zhiyin.data import shards as packing
from zhiyin.data.manifest import Record
from zhiyin.data.synth_rules import SPLITS, Source
from zhiyin.data.synth_voices import DEFAULT_ENGINES, engines_of
from zhiyin.errors import UserError

FORMAT = "zhiyin-synth-2"
PLAN = "plan.json"
PER_CHUNK = 200


@dataclass(frozen=True)
class Plan:
    """What a folder holds; a run goes on only with the same plan.

    Attributes:
        grammar: name or file.
        records: how many; 0 where `hours` says.
        hours: until so many are there; 0 where `records` says.
        seed: another one gives other recordings.
        dev: percent of the recordings, and of the sentences.
        test: likewise.
        clips: a manifest of sounds to join, or empty.
        per_chunk: recordings made by one process.
        engines: those that speak, in any order; espeak-ng is one.
    """

    grammar: str
    records: int = 0
    hours: float = 0.0
    seed: int = 1
    dev: float = 5.0
    test: float = 5.0
    clips: str = ""
    per_chunk: int = PER_CHUNK
    engines: tuple[str, ...] = DEFAULT_ENGINES


@dataclass(frozen=True)
class Made:
    """What is in the folder: each split's manifest or folder of shards, its records, its seconds; and how many of all
    the seconds are new.
    """

    parts: tuple[tuple[Path, int, float], ...]
    new_s: float


def run(
    plan: Plan,
    out: Path,
    *,
    jobs: int = 1,
    resume: bool = False,
    shards: bool = False,
    progress: Callable[[float], None] = lambda _: None,
) -> Made:
    """Make the recordings of a plan: ``out/audio/*/*.flac`` and ``train.jsonl``, ``dev.jsonl``, ``test.jsonl``.

    Args:
        plan: what to make.
        out: a new folder, or with `resume` one that was begun with the same plan.
        jobs: processes at a time; the files are the same for any number.
        resume: go on where a run ended. One that is complete is only read.
        shards: pack each split into tars instead (`shards.write`): ``out/train``, ``out/dev``, ``out/test``.
        progress: told the seconds of sound that are there.

    Raises:
        UserError: the plan or the grammar does not fit, the folder holds something else, or an engine is missing.
    """
    _check(plan)
    identity = {**_identity(plan), "shards": shards}
    if not _begin(identity, out, resume=resume):
        return _there(out, shards=shards)
    new_s = _make_chunks(plan, out, jobs, progress)
    found = _merge(plan, out)
    if shards:
        _pack(found, out)
    _write_json(out / PLAN, {**identity, "complete": True})
    shutil.rmtree(out / "parts", ignore_errors=True)
    return replace(_there(out, shards=shards), new_s=new_s)


def kit(plan: Plan) -> synth_make.Kit:
    """What every recording of a plan is made from; grammars and clips are read.

    Raises:
        UserError: they do not fit.
    """
    shares = {"dev": plan.dev / 100, "test": plan.test / 100}
    clips = synth_make.sorted_clips(manifest.read(Path(plan.clips)), shares) if plan.clips else {}
    sources = tuple(synth_grammar.read(plan.grammar))
    parts = [plan.seed, *shares.values(), _sha256(sources), _clips_sha256(plan)]
    engines = engines_of(plan.engines)
    if engines != DEFAULT_ENGINES:
        parts.append(engines)
    run = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:6]
    return synth_make.Kit(sources, plan.seed, shares, clips, run, engines)


def make_chunk(plan: Plan, out: Path, number: int) -> None:
    """Make chunk `number` in this process, which should be a fresh one; for `run`."""
    things = kit(plan)
    folder = out / "audio" / f"{number:05d}"
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    temporary.mkdir(parents=True)
    last = (number + 1) * plan.per_chunk
    rows = []
    for place in range(number * plan.per_chunk, min(last, plan.records) if plan.records else last):
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            os._exit(1)  # it was killed; whoever goes on makes this chunk again
        made = synth_make.make(things, place)
        name = f"{made.record.id}.flac"
        soundfile.write(temporary / name, made.samples_T, SAMPLE_RATE_HZ, subtype="PCM_16")
        rows.append({"split": made.split, **manifest.to_row(replace(made.record, audio=folder / name), out)})
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)
    manifest.write_lines(_part(out, number), (json.dumps(row, ensure_ascii=False) for row in rows))


def _work(plan: Plan, out: Path, number: int) -> None:
    """`make_chunk` in a process: what the user can mend is left in a file, for the parent to say."""
    try:
        make_chunk(plan, out, number)
    except (UserError, OSError) as error:
        (out / "parts").mkdir(parents=True, exist_ok=True)
        _trouble(out, number).write_text(str(error), encoding="utf-8")
        raise SystemExit(2) from None


def _make_chunks(plan: Plan, out: Path, jobs: int, progress: Callable[[float], None]) -> float:
    """Make the chunks that are missing; how many seconds of sound are new."""
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload([__name__])
    running: dict[int, Any] = {}
    seconds: dict[int, float] = {}
    number, new_s = 0, 0.0
    try:
        while not _is_enough(plan, seconds):
            while len(running) < jobs and (not plan.records or number * plan.per_chunk < plan.records):
                if _part(out, number).is_file():
                    seconds[number] = _seconds(out, number)
                else:
                    running[number] = context.Process(target=_work, args=(plan, out, number), daemon=True)
                    running[number].start()
                number += 1
                if _is_enough(plan, seconds):
                    break
            if running and not _is_enough(plan, seconds):
                wait([process.sentinel for process in running.values()])
                for done in [one for one, process in running.items() if process.exitcode is not None]:
                    _finish(out, done, running.pop(done).exitcode)
                    seconds[done] = _seconds(out, done)
                    new_s += seconds[done]
            progress(sum(seconds.values()))
    finally:
        for process in running.values():
            process.terminate()
            process.join()
        for left in (out / "audio").glob("*.part"):
            shutil.rmtree(left, ignore_errors=True)
    return new_s


def _is_enough(plan: Plan, seconds: dict[int, float]) -> bool:
    if plan.records:
        return len(seconds) * plan.per_chunk >= plan.records
    total, number = 0.0, 0
    while number in seconds:  # chunks that are there without a gap
        total += seconds[number]
        number += 1
    return total >= plan.hours * 3600


def _finish(out: Path, number: int, code: int) -> None:
    if code == 0:
        return
    trouble = _trouble(out, number)
    if trouble.is_file():
        message = trouble.read_text(encoding="utf-8")
        trouble.unlink()
        raise UserError(message)
    raise UserError(
        f"synthesis: the process of chunk {number} ended with {code}; give the command again, with --resume"
    )


def _merge(plan: Plan, out: Path) -> dict[str, list[Record]]:
    """Manifests of all chunks, cut where there is enough; what is beyond is deleted."""
    found: dict[str, list[Record]] = {split: [] for split in SPLITS}
    total_s, number, enough = 0.0, 0, False
    while _part(out, number).is_file() and not enough:
        for _, row in manifest.rows(_part(out, number)):
            split = row.pop("split")
            record = manifest.from_row(row, out, f"{_part(out, number)}")
            if enough:
                record.audio.unlink(missing_ok=True)
                continue
            found[split].append(record)
            total_s += record.duration_s
            enough = bool(plan.hours) and total_s >= plan.hours * 3600
        number += 1
    kept = {f"{place:05d}" for place in range(number)}
    for folder in (out / "audio").iterdir():
        if folder.name not in kept:
            shutil.rmtree(folder)
    for split, records in found.items():
        manifest.write(out / f"{split}.jsonl", records)
    return found


def _pack(found: dict[str, list[Record]], out: Path) -> None:
    for split, records in found.items():
        shutil.rmtree(out / split, ignore_errors=True)  # of a run that was cut here
        if records:
            packing.write(records, out / split)
    for split in found:
        (out / f"{split}.jsonl").unlink()
    shutil.rmtree(out / "audio")


def _there(out: Path, *, shards: bool) -> Made:
    parts = []
    for split in SPLITS:
        if not shards:
            records = manifest.read(out / f"{split}.jsonl")
            parts.append((out / f"{split}.jsonl", len(records), sum(record.duration_s for record in records)))
        elif (out / split).is_dir():
            packed = packing.open_shards(str(out / split))
            parts.append((out / split, packed.num_samples, sum(shard.duration_s for shard in packed.shards)))
    return Made(tuple(parts), 0.0)


def _begin(identity: dict[str, Any], out: Path, *, resume: bool) -> bool:
    """Whether there is something to make; the plan is written into the folder."""
    path = out / PLAN
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise UserError(f"synthesis: {path} cannot be read ({error.msg}); give another folder") from error
        complete = before.pop("complete", False)
        if before != identity:
            names = [name for name in identity if before.get(name) != identity[name]]
            raise UserError(f"synthesis: {out} was begun with another {' and '.join(names)}; give another folder")
        if not complete and not resume:
            raise UserError(f"synthesis: {out} was begun and is not complete; give --resume to go on")
        if complete:
            return False
    elif out.is_dir() and any(out.iterdir()):
        raise UserError(f"synthesis: {out} is not empty and no synthesis; give a new folder")
    synth_engines.require(identity["engines"])
    out.mkdir(parents=True, exist_ok=True)
    _write_json(path, identity)
    return True


def _identity(plan: Plan) -> dict[str, Any]:
    things = kit(plan)
    row = {"format": FORMAT, **asdict(plan), "engines": list(things.engines), "grammar_sha256": _sha256(things.sources)}
    return row | ({"clips_sha256": _clips_sha256(plan)} if plan.clips else {})


def _sha256(sources: Sequence[Source]) -> str:
    content = json.dumps([asdict(source) for source in sources], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _clips_sha256(plan: Plan) -> str:
    return hashlib.sha256(Path(plan.clips).read_bytes()).hexdigest() if plan.clips else ""


def _check(plan: Plan) -> None:
    if (plan.records > 0) == (plan.hours > 0) or plan.records < 0 or plan.hours < 0:
        raise UserError("synthesis: how much? give either --hours or --records, above 0")
    if plan.dev < 0 or plan.test < 0 or plan.dev + plan.test >= 100:
        raise UserError(f"synthesis: {plan.dev:g} % for dev and {plan.test:g} % for test; from 0, together below 100")


def _part(out: Path, number: int) -> Path:
    return out / "parts" / f"{number:05d}.jsonl"


def _trouble(out: Path, number: int) -> Path:
    return out / "parts" / f"{number:05d}.error"


def _seconds(out: Path, number: int) -> float:
    return float(sum(row["duration_s"] for _, row in manifest.rows(_part(out, number))))


def _write_json(path: Path, row: dict[str, Any]) -> None:
    manifest.write_lines(path, [json.dumps(row, ensure_ascii=False, indent=1)])
