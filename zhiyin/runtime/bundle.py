"""A bundle: the folder that runs a model without torch. What is in it, and whether it is whole.

`bundle.json` holds the fields of `ModelSpec`, ``"format": 1`` and the size and SHA-256 of every other file. A *static*
bundle, for devices whose compilers want fixed shapes, also lists its graphs with their ports (``"graphs"``) and says
what they were compiled for (``"target"``).
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhiyin.config import build
from zhiyin.errors import UserError
from zhiyin.runtime.base import ModelSpec

FORMAT = 1
RECORD = "bundle.json"
ENCODER_WEIGHTS, DECODER_WEIGHTS = "encoder.weights", "decoder.weights"
ENCODER, PREFILL, STEP = "encoder.onnx", "decoder_prefill.onnx", "decoder_step.onnx"
EMBEDDINGS, MARKERS, TOKENIZER = "embeddings.npy", "markers.npy", "tokenizer.json"
FILES = (ENCODER, PREFILL, STEP, EMBEDDINGS, MARKERS, TOKENIZER)  # weights lie beside them, as many files as needed
KINDS, COMPONENTS = ("onnx", "om"), ("encoder", "decoder")
MAX_HASHED_BYTES = 64 * 2**20  # larger files are checked by size alone: hashing gigabytes would delay every start


@dataclass(frozen=True)
class Port:
    """An input or output of a graph; `dtype` is numpy's name, every size in `shape` is a number."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    """One graph of a static bundle.

    Attributes:
        file: its file in the bundle.
        component: ``encoder`` (with projector and CTC head) or ``decoder``.
        size: feature frames of an encoder bucket, tokens per call of a decoder graph.
        batch: rows.
        inputs: in the order of the graph, as `outputs`.
    """

    file: str
    component: str
    size: int
    batch: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True)
class Target:
    """What the graphs of a static bundle were made for.

    Attributes:
        kind: ``onnx``, or ``om`` after `deploy.atc`.
        soc: chip, e.g. ``Ascend310P3``; nothing for ONNX.
        precision: ``fp32``, ``fp16`` or ``mixed``, as asked of the compiler.
        host_os: of the machine the device sits in, e.g. ``linux``.
        host_cpu: ``aarch64`` or ``x86_64``.
    """

    kind: str
    soc: str = ""
    precision: str = "fp32"
    host_os: str = ""
    host_cpu: str = ""


def seal(folder: Path, spec: ModelSpec, target: Target | None = None, graphs: Sequence[Graph] = ()) -> None:
    """Write `bundle.json` for the files in a folder; a static bundle has a target and lists its graphs."""
    record = {"format": FORMAT, **spec.to_record()}
    if target is not None:
        record |= {"target": dataclasses.asdict(target), "graphs": [dataclasses.asdict(graph) for graph in graphs]}
    record["files"] = {path.name: _facts(path) for path in sorted(folder.iterdir()) if path.name != RECORD}
    (folder / RECORD).write_text(json.dumps(record, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def read(folder: Path) -> ModelSpec:
    """What a bundle says of itself, after a look at every file.

    Raises:
        UserError: not a bundle, made for another version, incomplete or damaged.
    """
    record = _record(folder)
    files = record.pop("files", None)
    if not isinstance(files, dict) or not all(isinstance(facts, dict) for facts in files.values()):
        raise UserError(f"bundle {folder}: {RECORD} has no table 'files'; export or copy the bundle again")
    for name in (*_needed(folder, record), *files):
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise UserError(f"bundle {folder}: {name} is missing; export or copy the bundle again")
        if name not in files:
            raise UserError(f"bundle {folder}: {RECORD} does not list {name}; export or copy the bundle again")
    for name, facts in files.items():
        size = (folder / name).stat().st_size
        if size != facts.get("bytes"):
            wrong = f"{size} bytes instead of {facts.get('bytes')}"
            raise UserError(f"bundle {folder}: {name} is damaged ({wrong}); export or copy it again")
        if size <= MAX_HASHED_BYTES and _facts(folder / name) != facts:
            raise UserError(f"bundle {folder}: {name} is damaged (its SHA-256 differs); export or copy it again")
    record = {name: value for name, value in record.items() if name not in ("target", "graphs")}
    return ModelSpec.from_record(record, f"bundle {folder}: {RECORD}")


def read_target(folder: Path) -> Target | None:
    """What a static bundle was made for; nothing for a bundle whose graphs take any length.

    Raises:
        UserError: not a bundle, or the record is damaged.
    """
    return _target(folder, _record(folder))


def read_graphs(folder: Path) -> tuple[Graph, ...]:
    """The graphs of a static bundle, smaller sizes first; none for a bundle whose graphs take any length.

    Raises:
        UserError: not a bundle, or the record is damaged.
    """
    return _graphs(folder, _record(folder))


def _needed(folder: Path, record: dict[str, Any]) -> tuple[str, ...]:
    """Files without which the bundle does not run; one that holds no decoder needs nothing of its side."""
    if _target(folder, record) is None:
        return FILES
    graphs = _graphs(folder, record)
    tables = (EMBEDDINGS, MARKERS) if any(graph.component == "decoder" for graph in graphs) else ()
    return (*(graph.file for graph in graphs), *tables, TOKENIZER)


def _target(folder: Path, record: dict[str, Any]) -> Target | None:
    found = record.get("target")
    if found is None:
        return None
    where = f"bundle {folder}: {RECORD}: target"
    target = build(Target, found, where) if isinstance(found, dict) else None
    if target is None or target.kind not in KINDS:
        raise UserError(f"{where}: {found!r}; a table whose kind is {' or '.join(KINDS)} was expected; export again")
    return target


def _graphs(folder: Path, record: dict[str, Any]) -> tuple[Graph, ...]:
    found, where = record.get("graphs", []), f"bundle {folder}: {RECORD}: graphs"
    try:
        graphs = [_graph(entry) for entry in found]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: an entry is damaged ({error!r}); export or copy the bundle again") from error
    if record.get("target") is not None and not graphs:
        raise UserError(f"{where}: none is listed; export or copy the bundle again")
    return tuple(sorted(graphs, key=lambda graph: (graph.component, graph.batch, graph.size)))


def _graph(entry: dict[str, Any]) -> Graph:
    component, size, batch = str(entry["component"]), int(entry["size"]), int(entry["batch"])
    if component not in COMPONENTS or size < 1 or batch < 1:
        raise ValueError(f"component {component}, size {size}, batch {batch}")
    inputs, outputs = (tuple(_port(port) for port in entry[side]) for side in ("inputs", "outputs"))
    return Graph(str(entry["file"]), component, size, batch, inputs, outputs)


def _port(entry: dict[str, Any]) -> Port:
    shape = tuple(int(size) for size in entry["shape"])
    if min(shape, default=1) < 1:
        raise ValueError(f"{entry['name']} has the shape {shape}")
    return Port(str(entry["name"]), str(entry["dtype"]), shape)


def _record(folder: Path) -> dict[str, Any]:
    wanted = f"a bundle is a folder with {', '.join((RECORD, *FILES))}"
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"bundle {folder}: no {RECORD} there; {wanted}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"bundle {folder}: {RECORD} is damaged ({error}); export or copy it again") from error
    version = record.pop("format", None) if isinstance(record, dict) else None
    if version is None:
        raise UserError(f"bundle {folder}: {RECORD} is not zhiyin's; {wanted}")
    if version != FORMAT:
        raise UserError(
            f"bundle {folder}: format {version}, this zhiyin reads {FORMAT}; upgrade zhiyin or export again"
        )
    return record


def _facts(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
