"""A model hub on this machine: the few routes that a client needs, and the faults of a real one."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE_BYTES = 1000  # files at least this large are in "large-file storage": listed with a SHA-256


@dataclass
class Hub:
    """What it holds and how it misbehaves.

    Attributes:
        files: path -> content, of every repository.
        listed: path -> content the list of files speaks of, where that differs from what is served.
        names: more paths the list names, e.g. hostile ones.
        drop_after: path -> after how many bytes the connection breaks, once for each entry of the list.
        stall_after: path -> after how many bytes nothing more comes, until it is taken out again.
        errors: status codes answered to the next requests.
        ranges: whether Range is understood.
        licence: in the card.
        redirect: files are given by this other address.
        seen: (method, path, Range, Authorization) of every request.
    """

    files: dict[str, bytes]
    listed: dict[str, bytes] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    drop_after: dict[str, list[int]] = field(default_factory=dict)
    stall_after: dict[str, int] = field(default_factory=dict)
    errors: list[int] = field(default_factory=list)
    ranges: bool = True
    licence: str | None = "apache-2.0"
    redirect: str = ""
    commit: str = COMMIT
    address: str = ""
    seen: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)

    def listing(self) -> dict[str, Any]:
        siblings = []
        for path, served in self.files.items():
            content = self.listed.get(path, served)
            entry: dict[str, Any] = {"rfilename": path, "size": len(content)}
            if len(content) >= LARGE_BYTES:
                digest = hashlib.sha256(content).hexdigest()
                entry |= {"lfs": {"sha256": digest, "size": len(content), "pointerSize": 134}, "blobId": "ab" * 20}
            else:
                entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            siblings.append(entry)
        siblings += [{"rfilename": name, "size": 1, "blobId": "ab" * 20} for name in self.names]
        card = {} if self.licence is None else {"license": self.licence}
        return {"id": "some/model", "sha": self.commit, "siblings": siblings, "cardData": card, "tags": []}


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub answers at `hub.address` while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            where = urlsplit(self.path)
            path = unquote(where.path)
            hub.seen.append((self.command, path, self.headers.get("Range"), self.headers.get("Authorization")))
            if hub.errors:
                self._send(hub.errors.pop(0), b"", {"X-Error-Code": "Sorry"}, with_body)
            elif path.startswith("/api/models/"):
                blobs = parse_qs(where.query).get("blobs") in (["true"], ["True"])
                assert blobs, "without it the hub gives no sizes"
                self._send(200, json.dumps(hub.listing()).encode(), {"Content-Type": "application/json"}, with_body)
            elif "/resolve/" in path and path.partition("/resolve/")[2].partition("/")[2] in hub.files:
                self._file(path.partition("/resolve/")[2].partition("/")[2], with_body)
            else:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body)

        def _file(self, path: str, with_body: bool) -> None:
            if hub.redirect and not self.path.startswith("/elsewhere"):
                self._send(302, b"", {"Location": f"{hub.redirect}/elsewhere{self.path}"}, with_body)
                return
            content = hub.files[path]
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": hub.commit}
            status, begin = 200, 0
            if hub.ranges and (wanted := self.headers.get("Range")):
                begin = int(wanted.removeprefix("bytes=").partition("-")[0])
                status = 206
                headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            if path in hub.stall_after:
                hub.drop_after[path] = [hub.stall_after[path]]
            self._send(status, content[begin:], headers, with_body, hub.drop_after.get(path))
            while path in hub.stall_after:
                time.sleep(0.01)

        def _send(
            self, status: int, body: bytes, headers: dict[str, str], with_body: bool, drops: list[int] | None = None
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body and drops:
                self.wfile.write(body[: drops.pop(0)])
                self.wfile.flush()
                self.close_connection = True
                return
            if with_body:
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
