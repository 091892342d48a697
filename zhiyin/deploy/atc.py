"""From a bundle of fixed sizes to one for an Ascend chip, by ATC, the offline compiler of CANN.

Where `atc` is not installed, a folder with `build.sh` and `build.json` is written instead; the script runs on any
machine with CANN, and the same command seals what it made. Not run on hardware by this project.

Source: ATC documentation of CANN 8 (options and the words of `--precision_mode_v2`), sherpa-onnx (a line in use).
"""

import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from zhiyin.deploy import out
from zhiyin.errors import UserError
from zhiyin.model.files import BIGRAM
from zhiyin.runtime import bundle
from zhiyin.runtime.bundle import Graph, Target

SCRIPT, RECORD = "build.sh", "build.json"
LIMIT_S = 3600.0
SOCS = (
    *("Ascend310", "Ascend310B1", "Ascend310B4", "Ascend310P1", "Ascend310P3"),
    *("Ascend910A", "Ascend910B1", "Ascend910B2", "Ascend910B3", "Ascend910B4"),
)
HOSTS = ("linux-aarch64", "linux-x86_64")
_CPUS = {"arm64": "aarch64", "amd64": "x86_64"}
# `mixed` and not ATC's own `mixed_float16`: there a list inside ATC decides which sums are made in half precision.
PRECISIONS = {"fp32": "origin", "fp16": "fp16", "mixed": "cube_fp16in_fp32out"}
_CAUSE = re.compile(r"\bE[0-9A-Z]{5}\b.*")
TRAPS = (
    "source set_env.sh of CANN first; atc is not on PATH without it",
    "the chip's name is what npu-smi info shows, with Ascend in front; a model of another chip does not load",
    "the graphs' weights lie in *.weights beside them: keep the folder whole",
    "with a host given, some versions of atc append it to the file's name; the script takes it off again",
    "fp16: a square above 65504 overflows in the norms of large decoders; take mixed there",
    "fp32: chips whose matrix unit has half precision only (310 family) refuse it; take mixed",
    "an operator is refused (LayerNormalization, E19010): export again with --opset 11, which has plain operators only",
    "a graph with more than 2 GB of weights: see docs/export.md",
    "a model of 1.5 GB takes more than a minute to load for the first time",
)


@dataclass(frozen=True)
class Step:
    """One graph to compile: the entry of the ONNX bundle and the command, which is run in an empty folder."""

    graph: Graph
    command: tuple[str, ...]

    @property
    def result(self) -> Graph:
        """The entry of the compiled graph."""
        return replace(self.graph, file=f"{Path(self.graph.file).stem}.om")

    def candidates(self, target: Target) -> tuple[str, str]:
        """The names under which ATC may have written it."""
        stem = Path(self.graph.file).stem
        return f"{stem}.om", f"{stem}_{target.host_os}_{target.host_cpu}.om"


@dataclass(frozen=True)
class Job:
    """A bundle to compile.

    Attributes:
        source: the ONNX bundle.
        folder: where the compiled one goes.
        target: what for.
        steps: one per graph.
    """

    source: Path
    folder: Path
    target: Target
    steps: tuple[Step, ...]

    def lines(self) -> list[str]:
        """The commands, ready to be pasted into a shell."""
        return [shlex.join(step.command) for step in self.steps]


def find_soc(word: str) -> str:
    """The chip of a name, with or without ``Ascend`` in front.

    Raises:
        UserError: it is none we know.
    """
    known = {soc.lower().removeprefix("ascend"): soc for soc in SOCS}
    found = known.get(word.strip().lower().removeprefix("ascend"))
    if found is None:
        raise UserError(f"soc '{word}' is not known; known: {' '.join(SOCS)} (npu-smi info shows the chip's name)")
    return found


def find_host(word: str) -> tuple[str, str]:
    """Operating system and CPU of ``linux-aarch64``; of this machine where nothing is given.

    Raises:
        UserError: it is none that CANN runs on.
    """
    machine = platform.machine().lower()
    asked = word.strip().lower() or f"{platform.system().lower()}-{_CPUS.get(machine, machine)}"
    if asked not in HOSTS:
        raise UserError(f"host '{asked}': CANN runs on {' and '.join(HOSTS)}; say with --host where the device is")
    system, _, cpu = asked.partition("-")
    return system, cpu


def plan(source: Path, folder: Path, soc: str, *, precision: str = "mixed", host: str = "") -> Job:
    """What is to be done, after a look at every file of the bundle.

    Args:
        source: an ONNX bundle of fixed sizes.
        folder: new, empty, an older bundle, or one with an older `build.sh`.
        soc: see `find_soc`.
        precision: ``fp32`` keeps float32; ``fp16`` computes in half precision; ``mixed`` multiplies matrices in half
            precision and does everything else, sums included, in float32.
        host: see `find_host`.

    Raises:
        UserError: a word is not known, the bundle is damaged or of another kind, or the folder holds something else.
    """
    chip = find_soc(soc)
    if precision not in PRECISIONS:
        raise UserError(f"precision '{precision}' is not known to the compiler; known: {' '.join(PRECISIONS)}")
    system, cpu = find_host(host)
    bundle.read(source)
    made_for = bundle.read_target(source)
    if made_for is None:
        raise UserError(f"bundle {source}: its graphs take any length; export it again with --buckets 5,10,15")
    if made_for.kind != "onnx":
        raise UserError(f"bundle {source}: it is compiled already, for {made_for.soc}; give the ONNX bundle it is from")
    place = _check_folder(folder)
    target = Target("om", chip, precision, system, cpu)
    graphs = bundle.read_graphs(source)
    return Job(source, place, target, tuple(Step(g, command(g, source.absolute() / g.file, target)) for g in graphs))


def command(graph: Graph, model: Path, target: Target) -> tuple[str, ...]:
    """The compiler's command for one graph; the result lands in the current folder."""
    shapes = ";".join(f"{port.name}:{','.join(map(str, port.shape))}" for port in graph.inputs)
    return (
        "atc",
        f"--model={model}",
        "--framework=5",
        f"--output={Path(graph.file).stem}",
        f"--soc_version={target.soc}",
        "--input_format=ND",
        f"--input_shape={shapes}",
        f"--precision_mode_v2={PRECISIONS[target.precision]}",
        f"--host_env_os={target.host_os}",
        f"--host_env_cpu={target.host_cpu}",
        "--log=error",
    )


def run(job: Job, *, limit_s: float = LIMIT_S) -> Iterator[str]:
    """Do it with the `atc` on PATH; without one, seal what `build.sh` made, or write it.

    Args:
        job: of `plan`.
        limit_s: seconds that one graph may take.

    Yields:
        A line about each thing done.

    Raises:
        UserError: the compiler fails (with the cause its log gives) or takes too long; then nothing was replaced.
    """
    compiler = shutil.which("atc")
    if compiler is not None:
        yield from _compile(job, limit_s)
    elif any(_found(job, step) for step in job.steps):
        yield from _collect(job)
    elif (job.folder / bundle.RECORD).is_file():
        raise UserError(
            f"{job.folder}: a bundle is there, and atc is not installed here to replace it; give a new folder"
        )
    else:
        with out.fresh(job.folder) as folder:
            (folder / SCRIPT).write_text(script(job), encoding="utf-8")
            (folder / SCRIPT).chmod(0o755)
            text = json.dumps(_record(job), ensure_ascii=False, indent=2)
            (folder / RECORD).write_text(text + "\n", encoding="utf-8")
        yield (
            f"atc is not installed here: run {job.folder / SCRIPT} where CANN is (both folders beside each other), "
            "then give this command again"
        )


def script(job: Job) -> str:
    """`build.sh`: the commands, for a machine that has CANN and needs nothing else."""
    near = shlex.quote(os.path.relpath(job.source.absolute(), job.folder))
    lines = ["#!/bin/sh", f"# Compiles the graphs of a zhiyin bundle for {job.target.soc} ({job.target.precision})."]
    lines += ["# Usage: build.sh [FOLDER OF THE ONNX BUNDLE]", "#", "# What is known to go wrong:"]
    lines += [f"# - {trap}" for trap in TRAPS]
    lines += ["set -eu", 'cd "$(dirname "$0")"', f"bundle=${{1:-{near}}}", ""]
    for step in job.steps:
        model, *rest = step.command[1:]
        words = [f'--model="$bundle"/{shlex.quote(Path(model).name)}', *map(shlex.quote, rest)]
        plain, suffixed = step.candidates(job.target)
        lines.append(" \\\n    ".join(["atc", *words]))
        lines.append(f"[ -f {plain} ] || mv {suffixed} {plain}")
    lines.append('echo "done: give the same zhiyin atc command again, and it seals the bundle"')
    return "\n".join(lines) + "\n"


def _compile(job: Job, limit_s: float) -> Iterator[str]:
    with out.fresh(job.folder) as folder:
        for step in job.steps:
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:  # atc leaves its own files around
                _call(step, Path(scratch), limit_s)
                made = [Path(scratch) / name for name in step.candidates(job.target)]
                found = next((path for path in made if path.is_file()), None)
                if found is None:
                    raise UserError(f"atc {step.graph.file}: it ended well but wrote no {made[0].name}; see its log")
                os.replace(found, folder / step.result.file)
            yield f"{step.graph.file} -> {step.result.file}"
        _seal(job, folder)
    yield f"{job.folder}: for {job.target.soc}, {job.target.precision}"


def _call(step: Step, folder: Path, limit_s: float) -> None:
    where = f"atc {step.graph.file}"
    try:
        process = subprocess.Popen(
            step.command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # it starts compilers of its own, which must end with it
        )
    except OSError as error:
        raise UserError(f"{where}: cannot be started ({error.strerror})") from error
    try:
        log, _ = process.communicate(timeout=limit_s)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise UserError(f"{where}: not done after {limit_s:g} s; give it more with --limit-s") from error
        raise
    if process.returncode:
        raise UserError(f"{where}: {cause(log)}; nothing was replaced")


def cause(log: str) -> str:
    """The line of ATC's output that says why it failed."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    coded = [found[0] for line in lines if (found := _CAUSE.search(line))]
    return (coded or lines[-1:] or ["it failed and said nothing; see the newest file under ~/ascend/log"])[0]


def _collect(job: Job) -> Iterator[str]:
    """Seal what the script compiled elsewhere."""
    record = _read_record(job.folder)
    if record is None or record != _record(job):
        raise UserError(
            f"{job.folder}: its compiled graphs are of another bundle, chip or precision than asked for; "
            "give another folder, or the options they were made with"
        )
    found = [(step, _found(job, step)) for step in job.steps]
    missing = [step.result.file for step, path in found if path is None]
    if missing:
        raise UserError(f"{job.folder}: {', '.join(missing)} missing; let {SCRIPT} run to its end first")
    with out.fresh(job.folder) as folder:
        for step, path in found:
            assert path is not None
            shutil.copyfile(path, folder / step.result.file)
        _seal(job, folder)
    yield f"{job.folder}: sealed for {job.target.soc}, {job.target.precision}"


def _seal(job: Job, folder: Path) -> None:
    """Put beside the compiled graphs what else the bundle holds, and write its record."""
    for name in (bundle.EMBEDDINGS, bundle.MARKERS, bundle.TOKENIZER, BIGRAM):
        if (job.source / name).is_file():
            shutil.copyfile(job.source / name, folder / name)
    bundle.seal(folder, bundle.read(job.source), job.target, [step.result for step in job.steps])


def _found(job: Job, step: Step) -> Path | None:
    paths = [job.folder / name for name in step.candidates(job.target)]
    return next((path for path in paths if path.is_file()), None) if _read_record(job.folder) else None


def _check_folder(folder: Path) -> Path:
    return out.check(folder, marker=RECORD if _read_record(Path(folder)) else bundle.RECORD)


def _record(job: Job) -> dict[str, Any]:
    source = hashlib.sha256((job.source / bundle.RECORD).read_bytes()).hexdigest()
    graphs = [{**asdict(step.result), "from": step.graph.file, "command": step.command[2:]} for step in job.steps]
    record = {"target": asdict(job.target), "bundle_sha256": source, "traps": TRAPS, "graphs": graphs}
    return dict(json.loads(json.dumps(record)))


def _read_record(folder: Path) -> dict[str, Any] | None:
    """`build.json` where it is one of ours."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and "bundle_sha256" in record else None
