"""Models on this machine: where they lie, what they are, whether they are whole, and how they get here.

The store is the folder `home()`; each model is a folder below ``models/``. One that was pulled holds
`zhiyin-manifest.json`: where it is from, its licence, and the size and SHA-256 of every file. While a model is being
pulled its folder is called ``.<name>.part``; it gets its name in one step when every file is right. Only `pull`
touches the network, through `runtime.hf_hub`; folders elsewhere are never searched.
"""

import fnmatch
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhiyin.errors import UserError
from zhiyin.runtime import bundle
from zhiyin.runtime.known import WEIGHTS, Known, identify, is_name, row

if TYPE_CHECKING:
    from zhiyin.runtime.hf_hub import RemoteFile, Repository

MANIFEST = "zhiyin-manifest.json"
FORMAT = 1
REVISION = "main"
# What is needed beside the weights: configuration, tokenizer, templates, and what a licence asks to be kept with them.
KINDS = ("*.json", "*.txt", "*.jinja", "*.model", "*.tiktoken", "LICEN[SC]E*", "*[Nn]otice*", "NOTICE*", "README*")
BUNDLE_FILES = ("*.onnx", "*.npy", "*.weights", "bigram.npz")  # only where a bundle.json stands beside them
# Licences that allow use without conditions worth a question; any other one has to be accepted.
FREE_LICENCES = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "cc0-1.0", "cc-by-4.0")
_SPARE_BYTES = 64 * 2**20  # left free on the disk
_BEGUN = "zhiyin-pull.json"  # in the folder of a pull under way: what is being pulled


@dataclass(frozen=True)
class Entry:
    """A model in the store.

    Attributes:
        name: of its folder.
        folder: where it is; of one that came only in part, where it will be.
        family: prompts and replies, ``encoder`` or ``decoder`` for a part of a model, empty if nothing says it.
        tasks: task ids.
        size_bytes: of all its files.
        licence: of the weights.
        licence_note: restrictions.
        complete: whether all its files are there in full size.
        fault: what is wrong with it, empty if nothing is.
        repository: on the hub, with its revision; empty for a model that was not pulled.
    """

    name: str
    folder: Path
    family: str
    tasks: tuple[str, ...]
    size_bytes: int
    licence: str
    licence_note: str
    complete: bool
    fault: str
    repository: str


@dataclass(frozen=True)
class Step:
    """How far a pull is: `file` is the `number`-th of `count` and has `done_bytes` of `file_bytes`."""

    file: str
    number: int
    count: int
    done_bytes: int
    file_bytes: int


def home() -> Path:
    """The store's folder: ZHIYIN_HOME, or where this system keeps a user's data; it may not exist yet."""
    if chosen := os.environ.get("ZHIYIN_HOME"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "zhiyin"


def find(name: str) -> Path | None:
    """The folder of a model in the store, by its name or ``OWNER/REPOSITORY``; nothing if there is none.

    Raises:
        UserError: it has come only in part, or a file is missing or cut short.
    """
    if not is_name(name):
        return None
    folder = _folder(row(name).name if "/" in name else name)
    if not folder.is_dir():
        if _part(folder).is_dir():
            raise UserError(f"model '{name}' is only partly here; zhiyin pull {name} goes on where it stopped")
        return None
    faults = check(folder, hashes=False)
    if faults:
        raise UserError(f"model '{name}' in {folder}: {faults[0]}; zhiyin pull {name} gets it again")
    return folder


def entries() -> list[Entry]:
    """The models in the store, by name, those that came only in part among them."""
    models = home() / "models"
    if not models.is_dir():
        return []
    found = [_entry(folder) for folder in models.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    part_way = [folder for folder in models.glob(".*.part") if folder.is_dir()]
    return sorted([*found, *map(_partial_entry, part_way)], key=lambda entry: entry.name)


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a pulled model, ``files`` as name -> (bytes, SHA-256); empty for a folder without one.

    Raises:
        UserError: it is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        files = {str(name): (int(facts["bytes"]), str(facts["sha256"])) for name, facts in record["files"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"model {folder}: {MANIFEST} is damaged ({error}); remove the folder and pull again") from error
    if record.get("format") != FORMAT:
        raise UserError(f"model {folder}: {MANIFEST} has format {record.get('format')}, this zhiyin reads {FORMAT}")
    return {**record, "files": files}


def check(folder: Path, *, hashes: bool = True) -> tuple[str, ...]:
    """What is wrong with the files of a pulled model, one line each; nothing can be said without a manifest.

    Args:
        folder: the model.
        hashes: also read every file and compare its SHA-256.
    """
    try:
        listed = manifest(folder).get("files", {})
    except UserError as error:
        return (str(error),)
    faults = []
    for name, (size, sha256) in listed.items():
        path = folder / name
        if not path.is_file():
            faults.append(f"{name} is missing")
        elif path.stat().st_size != size:
            faults.append(f"{name} has {path.stat().st_size} bytes instead of {size}")
        elif hashes and _sha256(path) != sha256:
            faults.append(f"{name} is damaged (its SHA-256 differs)")
    return tuple(faults)


def pull(
    name: str,
    *,
    revision: str = "",
    dest: str | os.PathLike[str] | None = None,
    accept_licence: bool = False,
    report: Callable[[str], None] = lambda line: None,
    on_step: Callable[[Step], None] = lambda step: None,
) -> Path:
    """Download a model, or go on with a download that was cut off; nothing happens if it is here already.

    Args:
        name: of a known model, or ``OWNER/REPOSITORY`` on the hub.
        revision: branch, tag or commit; by default what is here already, else the newest.
        dest: the model's folder, instead of one in the store.
        accept_licence: download also what has restrictions.
        report: gets lines for the user.
        on_step: told of progress.

    Returns:
        The folder.

    Raises:
        UserError: no such model, its licence was not accepted, it holds no weights that can be loaded safely, the disk
            is too small, or the hub fails. What has come is kept; the same call goes on.
    """
    from zhiyin.runtime import hf_hub

    model = row(name)
    folder = _folder(model.name) if dest is None else Path(dest).expanduser().absolute()
    here = _here(folder, model)
    if here and revision in ("", here):
        report(f"{folder}: already here")
        return folder
    if model.licence_note and not accept_licence:
        raise UserError(_question(model.name, model.licence, model.licence_note))
    part = _part(folder)
    repository = hf_hub.look_up(model.repository, _begun(part, model.repository, revision) or revision or REVISION)
    if here == repository.commit:
        report(f"{folder}: already here")
        return folder
    licence = model.licence or repository.licence
    if not model.licence and licence.lower() not in FREE_LICENCES and not accept_licence:
        raise UserError(_question(model.name, licence or "none stated on the hub", "read its page on the hub"))
    files = choose(repository, model)
    _make_room(part, model.name, files)
    note = f" ({model.licence_note})" if model.licence_note else ""
    report(f"{model.repository} at {repository.commit[:12]}; licence: {licence or 'none stated'}{note}")
    _write(part / _BEGUN, _asked(model.repository, revision, repository.commit))
    about = {"name": model.name, "family": model.family, "licence": licence, "licence_note": model.licence_note}
    source = {"repository": model.repository, "revision": repository.commit, "asked": revision or REVISION}
    listed = _download(repository, files, part, on_step)
    _write(part / MANIFEST, {"format": FORMAT, **about, **source, "files": listed})
    (part / _BEGUN).unlink()
    _settle(part, folder)
    return folder


def choose(repository: "Repository", model: Known) -> "tuple[RemoteFile, ...]":
    """The files of a repository that are needed, small ones first; never one that could carry code unasked.

    Raises:
        UserError: there are no weights among them.
    """
    files = [file for file in repository.files if "/" not in file.path and file.path not in (MANIFEST, _BEGUN)]
    names = [file.path for file in files]
    if bundle.RECORD in names:
        weights = _matching(names, BUNDLE_FILES)
    else:
        weights = next(filter(None, (_matching(names, [pattern]) for pattern in model.weights)), [])
    if not weights:
        pickles = _matching(names, ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl"))[:3]
        seen = f"{', '.join(pickles)}, which could run code when opened" if pickles else ", ".join(names[:5])
        wanted = " or ".join(("safetensors files", "a bundle") if model.weights == WEIGHTS else model.weights)
        raise UserError(f"pull {model.name}: {model.repository} has no {wanted}; found {seen or 'nothing'}")
    wanted_names = {*weights, *_matching(names, KINDS)}
    return tuple(sorted((file for file in files if file.path in wanted_names), key=lambda file: (file.size, file.path)))


def _download(
    repository: "Repository", files: "Sequence[RemoteFile]", part: Path, on_step: Callable[[Step], None]
) -> dict[str, dict[str, Any]]:
    from zhiyin.runtime import hf_hub

    listed = {}
    for number, file in enumerate(files, 1):

        def tell(done: int, file: "RemoteFile" = file, number: int = number) -> None:
            on_step(Step(file.path, number, len(files), done, file.size))

        tell(0)
        listed[file.path] = {"bytes": file.size, "sha256": hf_hub.download(repository, file, part, tell)}
    return listed


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def _question(name: str, licence: str, note: str) -> str:
    return f"pull {name}: licence: {licence}: {note}; if you accept that: zhiyin pull {name} --accept-licence"


def _folder(name: str) -> Path:
    return home() / "models" / name.replace("/", "--")


def _part(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.part")


def _here(folder: Path, model: Known) -> str:
    """The commit of the model that is whole in a folder; empty if there is none."""
    if not folder.exists():
        return ""
    record = manifest(folder) if folder.is_dir() else {}
    if not record and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"pull {model.name}: {folder} holds something that was not pulled; choose another --dest")
    if record and record.get("repository") != model.repository:
        raise UserError(f"pull {model.name}: {folder} holds {record.get('repository')}; choose another --dest")
    return "" if check(folder, hashes=False) else str(record.get("revision") or "")


def _asked(repository: str, revision: str, commit: str) -> dict[str, Any]:
    return {"repository": repository, "asked": revision, "commit": commit}


def _begun(part: Path, repository: str, revision: str) -> str:
    """The commit an earlier attempt began with; what is left of anything else is removed."""
    record = _read(part / _BEGUN)
    commit = str(record.get("commit") or "")
    if commit and record == _asked(repository, revision, commit):
        return commit
    shutil.rmtree(part, ignore_errors=True)
    return ""


def _make_room(part: Path, name: str, files: "Sequence[RemoteFile]") -> None:
    existing = next(folder for folder in (part, *part.parents) if folder.exists())
    missing = sum(file.size for file in files) - _size(part)
    try:
        free = shutil.disk_usage(existing).free
        if free >= missing + _SPARE_BYTES:
            part.mkdir(parents=True, exist_ok=True)
            return
    except OSError as error:
        raise UserError(f"pull {name}: {part} cannot be made ({error.strerror}); choose another --dest") from error
    raise UserError(
        f"pull {name}: needs {missing / 1e9:.1f} GB more, {existing} has {free / 1e9:.1f} GB free; "
        "make room or choose another --dest"
    )


def _settle(part: Path, folder: Path) -> None:
    """The finished folder gets its name; what had it before goes."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    try:
        if folder.exists():
            os.replace(folder, old)
        os.replace(part, folder)
    except OSError as error:
        raise UserError(f"pull: {part} cannot be renamed to {folder} ({error.strerror}); rename it") from error
    shutil.rmtree(old, ignore_errors=True)


def _entry(folder: Path) -> Entry:
    try:
        record, faults = manifest(folder), check(folder, hashes=False)
    except UserError as error:
        record, faults = {}, (str(error),)
    about = identify(folder)
    repository = str(record.get("repository") or "")
    known = row(repository) if "/" in repository and is_name(repository) else None
    source = f"{repository} at {str(record.get('revision'))[:12]}" if repository else ""
    if not record and not about.family:
        faults = (*faults, "no model that zhiyin knows")
    return Entry(
        folder.name,
        folder,
        about.family or str(record.get("family") or ""),
        about.tasks or (known.tasks if known else ()),
        _size(folder),
        about.licence or str(record.get("licence") or ""),
        str(record.get("licence_note") or ""),
        not faults,
        faults[0] if faults else "",
        source,
    )


def _partial_entry(part: Path) -> Entry:
    name = part.name.removeprefix(".").removesuffix(".part")
    repository = str(_read(part / _BEGUN).get("repository") or "")
    known = row(repository) if "/" in repository and is_name(repository) else Known(name, "", "", "")
    fault = f"only partly here; zhiyin pull {known.name} goes on"
    folder = part.with_name(name)
    notes = (known.licence, known.licence_note)
    return Entry(name, folder, known.family, known.tasks, _size(part), *notes, False, fault, repository)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _write(path: Path, record: dict[str, Any]) -> None:
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
