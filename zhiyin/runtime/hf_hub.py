"""The one place that touches the network: the files of a model repository, over the hub's HTTP interface.

Two of its routes are used, the ones `huggingface_hub` uses: ``/api/models/<repository>/revision/<revision>?blobs=true``
lists the files with their sizes and hashes, ``/<repository>/resolve/<commit>/<file>`` gives one and takes `Range`.
That library is not used for the files themselves: it does not check their hashes and cannot resume all of them.

Settings are those of that library: HF_ENDPOINT (where the hub or its mirror is), HF_TOKEN (for repositories that
want a login), HF_HUB_OFFLINE (refuses everything here).
"""

import hashlib
import http.client
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from zhiyin.errors import UserError

ATTEMPTS = 5  # in a row without a single new byte
RETRY_WAIT_S = 1.0  # doubled with every such attempt
PARTIAL = ".partial"  # ending of a file that has not come whole yet
_TIMEOUT_S = 30.0
_BLOCK_BYTES = 2**20
_LISTING_BYTES = 64 * 2**20  # more is no list of files


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository.

    Attributes:
        path: relative, with ``/``; nothing in it leads out of a folder.
        size: bytes.
        sha256: of the content, for files in large-file storage; else empty.
        blob: git's object id, for the others; else empty.
    """

    path: str
    size: int
    sha256: str = ""
    blob: str = ""


@dataclass(frozen=True)
class Repository:
    """What the hub says of a repository at one commit; `licence` is empty where its card names none."""

    name: str
    commit: str
    licence: str
    files: tuple[RemoteFile, ...]


def look_up(name: str, revision: str) -> Repository:
    """The files of a repository at a branch, tag or commit.

    Raises:
        UserError: the hub cannot be reached, does not give it to us, or answers nonsense; or the network is forbidden.
    """
    where = f"{_endpoint()}/api/models/{quote(name)}/revision/{quote(revision, safe='')}?blobs=true"
    wait_s = RETRY_WAIT_S
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with _open(where, name) as answer:
                return _repository(name, answer.read(_LISTING_BYTES))
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS:
                raise UserError(f"pull {name}: the hub cannot be reached ({_reason(error)}); try again") from error
            time.sleep(wait_s)
            wait_s *= 2
    raise AssertionError


def download(
    repository: Repository, file: RemoteFile, folder: Path, on_bytes: Callable[[int], None] = lambda done: None
) -> str:
    """One file into a folder; goes on where an earlier attempt stopped, and keeps what came if it fails.

    Args:
        repository: from `look_up`.
        file: one of its files.
        folder: the file gets its final name in it only when it is whole and its hash is right.
        on_bytes: told how many bytes are there.

    Returns:
        The SHA-256 of the content.

    Raises:
        UserError: the connection fails `ATTEMPTS` times in a row, the disk is full, or the content is not what the
            hub's list says; then the file is removed.
    """
    target = folder / file.path
    partial = target.with_name(target.name + PARTIAL)
    if not target.is_file() or target.stat().st_size != file.size:
        _complete(repository, file, partial, on_bytes)
        found = partial
    else:
        found = target
    sha256, blob = _hashes(found, file.size)
    wrong = (file.sha256 and sha256 != file.sha256) or (file.blob and not file.sha256 and blob != file.blob)
    if wrong:
        found.unlink()
        raise UserError(
            f"pull {repository.name}: {file.path} came with another checksum than the hub's list says and was "
            "removed; give the same command again"
        )
    os.replace(found, target)
    on_bytes(file.size)
    return sha256


def _complete(repository: Repository, file: RemoteFile, partial: Path, on_bytes: Callable[[int], None]) -> None:
    address = f"{_endpoint()}/{quote(repository.name)}/resolve/{repository.commit}/{quote(file.path)}"
    idle = 0
    while True:
        before = _prepare(partial, file.size)
        if before == file.size:
            return
        reason = "it ended too early"
        try:
            _append(address, repository.name, file.size, partial, on_bytes)
        except (OSError, http.client.HTTPException) as error:
            reason = _reason(error)
        idle = idle + 1 if partial.stat().st_size <= before else 0
        if idle >= ATTEMPTS:
            raise UserError(
                f"pull {repository.name}: {file.path}: the connection failed {ATTEMPTS} times in a row ({reason}); "
                "what came is kept, the same command goes on"
            )
        if partial.stat().st_size < file.size:
            time.sleep(RETRY_WAIT_S * 2**idle)


def _prepare(partial: Path, size: int) -> int:
    """Make room for a file; returns how many of its bytes are there already."""
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        if partial.exists() and partial.stat().st_size > size:
            partial.unlink()
        with partial.open("ab"):
            return partial.stat().st_size
    except OSError as error:
        raise UserError(
            f"pull: {partial.parent} cannot be written ({error.strerror}); choose another --dest"
        ) from error


def _append(address: str, name: str, size: int, partial: Path, on_bytes: Callable[[int], None]) -> None:
    have = partial.stat().st_size
    with _open(address, name, {"Range": f"bytes={have}-"} if have else {}) as answer:
        if have and not (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
            have = 0  # this server does not go on, it begins again
        with partial.open("ab" if have else "wb") as out:
            while have < size and (block := answer.read1(min(_BLOCK_BYTES, size - have))):
                try:
                    out.write(block)
                except OSError as error:
                    raise UserError(f"pull {name}: {partial} cannot be written ({error.strerror})") from error
                have += len(block)
                on_bytes(have)


class _Redirects(HTTPRedirectHandler):
    """The token goes to the hub itself (a repository may have been renamed) and to no other host."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        token = req.unredirected_hdrs.get("Authorization")
        if new is not None and token and urlsplit(newurl)[:2] == urlsplit(req.full_url)[:2]:
            new.add_unredirected_header("Authorization", token)
        return new


def _open(address: str, name: str, headers: dict[str, str] | None = None) -> Any:
    request = Request(address, headers={"User-Agent": "zhiyin", **(headers or {})})
    if token := os.environ.get("HF_TOKEN", "").strip():
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        return build_opener(_Redirects).open(request, timeout=_TIMEOUT_S)
    except HTTPError as error:
        error.close()
        code = f"{error.code} {error.headers.get('X-Error-Code') or error.reason}"
        if error.code in (408, 429) or error.code >= 500:
            raise OSError(f"the hub answered {code}") from error  # may pass: tried again
        if error.code in (401, 403):
            todo = "check the name; if its page asks for a login or terms, accept them there and set HF_TOKEN"
        else:
            todo = "check the name and --revision"
        raise UserError(f"pull {name}: the hub does not give it ({code}); {todo}") from error


def _endpoint() -> str:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise UserError("pull: HF_HUB_OFFLINE is set, nothing is downloaded; unset it, or copy the model by hand")
    address = os.environ.get("HF_ENDPOINT", "").strip()
    if not address:
        try:
            from huggingface_hub.constants import ENDPOINT as address
        except ImportError as error:
            raise UserError("pull: set HF_ENDPOINT to the address of the hub, or install huggingface_hub") from error
    if urlsplit(address).scheme not in ("http", "https"):
        raise UserError(f"pull: HF_ENDPOINT is '{address}'; the http address of a hub was expected")
    return address.rstrip("/")


def _repository(name: str, raw: bytes) -> Repository:
    try:
        record = json.loads(raw)
        files = tuple(_file(entry) for entry in record["siblings"])
        card = record.get("cardData") or {}
        licence = card.get("license") or ""
        licence = ", ".join(licence) if isinstance(licence, list) else str(licence)
        commit = str(record["sha"])
        if not commit.isalnum():
            raise ValueError(f"commit {commit!r}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"pull {name}: the hub's list of files is not understood ({_reason(error)})") from error
    for file in files:
        if not _is_safe(file.path):
            raise UserError(f"pull {name}: refused, its list of files names {file.path!r}, which leads elsewhere")
    return Repository(name, commit, str(card.get("license_name") or licence), files)


def _file(entry: dict[str, Any]) -> RemoteFile:
    large = entry.get("lfs") or {}
    size = entry.get("size", large.get("size"))
    if not isinstance(entry["rfilename"], str) or not isinstance(size, int) or size < 0:
        raise ValueError(f"entry {entry!r}")
    return RemoteFile(entry["rfilename"], size, str(large.get("sha256") or ""), str(entry.get("blobId") or ""))


def _is_safe(path: str) -> bool:
    """Whether a path stays in the folder it is joined to, on any system."""
    parts = path.split("/")
    return (
        path.isprintable()
        and not set(path) & set('\\:*?"<>|')
        and not any(part in ("", ".", "..") for part in parts)
        and not PurePosixPath(path).is_absolute()
    )


def _hashes(path: Path, size: int) -> tuple[str, str]:
    """SHA-256 of a file, and the object id git gives it: SHA-1 of ``blob <size>\\0`` and the content."""
    sha256 = hashlib.sha256()
    blob = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            sha256.update(block)
            blob.update(block)
    return sha256.hexdigest(), blob.hexdigest()


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", None) or error
    return str(inner).strip().split("\n")[0] or type(error).__name__
