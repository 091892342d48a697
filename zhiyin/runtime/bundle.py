"""A bundle: the folder that runs a model without torch. What is in it, and whether it is whole.

`bundle.json` holds the fields of `ModelSpec`, ``"format": 1`` and the size and SHA-256 of every other file.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from zhiyin.errors import UserError
from zhiyin.runtime.base import ModelSpec

FORMAT = 1
RECORD = "bundle.json"
ENCODER, PREFILL, STEP = "encoder.onnx", "decoder_prefill.onnx", "decoder_step.onnx"
EMBEDDINGS, MARKERS, TOKENIZER = "embeddings.npy", "markers.npy", "tokenizer.json"
FILES = (ENCODER, PREFILL, STEP, EMBEDDINGS, MARKERS, TOKENIZER)  # weights lie beside them, as many files as needed
MAX_HASHED_BYTES = 64 * 2**20  # larger files are checked by size alone: hashing gigabytes would delay every start


def seal(folder: Path, spec: ModelSpec) -> None:
    """Write `bundle.json` for the files in a folder."""
    files = {path.name: _facts(path) for path in sorted(folder.iterdir()) if path.name != RECORD}
    record = {"format": FORMAT, **spec.to_record(), "files": files}
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
    for name in (*FILES, *files):
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
    return ModelSpec.from_record(record, f"bundle {folder}: {RECORD}")


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
