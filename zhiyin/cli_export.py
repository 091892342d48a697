"""`zhiyin export` and `zhiyin atc`: a checkpoint as a bundle, and a bundle for a chip."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zhiyin.deploy import atc as compiler
from zhiyin.deploy import buckets
from zhiyin.errors import UserError

TARGETS = ("onnx", "om")
COMPUTED = tuple(compiler.PRECISIONS)


@dataclass(frozen=True)
class Export:
    """What `zhiyin export` was given; see its help."""

    target: str
    precision: str
    buckets: str
    batches: str
    opset: int
    components: str
    soc: str
    host: str


def export(checkpoint: Path, out: Path, asked: Export) -> Iterator[str]:
    """Write a checkpoint as a bundle, for target ``om`` also compile it; yields lines about what was written.

    Raises:
        UserError: a word is not known, an extra is missing, the checkpoint is damaged, a graph differs from PyTorch, or
            the compiler fails.
    """
    if asked.target not in TARGETS:
        raise UserError(f"target '{asked.target}' is not known; known: {' '.join(TARGETS)}")
    if asked.target == "onnx":
        if asked.soc or asked.host:
            raise UserError("--soc and --host are for --target om; leave them out, or give --target om")
        yield from _onnx(checkpoint, out, asked, asked.precision or "float32")
        return
    precision = _compiled_precision(asked)
    between = out.with_name(f"{out.name}-onnx")
    yield from _onnx(checkpoint, between, asked, "float32")
    yield from atc(between, out, asked.soc, precision, asked.host, False, compiler.LIMIT_S)


def atc(
    source: Path, out: Path, soc: str, precision: str, host: str, only_print: bool, limit_s: float
) -> Iterator[str]:
    """Compile a bundle; yields each command, then what was done.

    Raises:
        UserError: see `deploy.atc.plan` and `run`.
    """
    job = compiler.plan(source, out, soc, precision=precision, host=host)
    yield from job.lines()
    if not only_print:
        yield from compiler.run(job, limit_s=limit_s)


def _onnx(checkpoint: Path, out: Path, asked: Export, precision: str) -> Iterator[str]:
    for name in ("torch", "onnx"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"this command needs {name}: pip install 'zhiyin[export]'")
    lengths_s = buckets.parse(asked.buckets)
    from zhiyin.deploy import export as exporting
    from zhiyin.deploy.export_plan import COMPONENTS, Options

    components = tuple(word.strip() for word in asked.components.split(",")) if asked.components else COMPONENTS
    options = Options(precision, lengths_s, buckets.parse_batches(asked.batches), asked.opset, components)
    done = exporting.export(checkpoint, out, options)
    differences = ", ".join(f"{graph} {value:.1e}" for graph, value in done.differences.items())
    yield f"{done.folder}: {done.size_bytes / 1e6:.1f} MB; largest difference to PyTorch, relative: {differences}"


def _compiled_precision(asked: Export) -> str:
    """The compiler's precision, after a look at all that target ``om`` needs: export takes minutes."""
    if not asked.buckets:
        raise UserError("--target om needs fixed lengths; add --buckets 5,10,15")
    if not asked.soc:
        raise UserError(f"--target om needs the chip: --soc, one of {' '.join(compiler.SOCS)}")
    compiler.find_soc(asked.soc)
    compiler.find_host(asked.host)
    precision = asked.precision or "mixed"
    if precision not in COMPUTED:
        raise UserError(f"precision '{precision}' is not one of --target om; known: {' '.join(COMPUTED)}")
    return precision
