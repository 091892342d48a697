"""The service asks nobody: started, used and stopped with every connection to another machine forbidden."""

from pathlib import Path

import httpx

from tests.serve.process import serving

# Before anything of ours is imported. Sockets of its own machine are how it listens and speaks to its workers.
FORBIDDEN = """
import os, sys

def watch(event, given):
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        asked = given[0]
    elif event in ("socket.connect", "socket.sendto"):
        asked = given[1][0] if isinstance(given[1], tuple) else None
    else:
        return
    if asked not in (None, "", "127.0.0.1", "::1", "localhost", "0.0.0.0"):
        os.write(2, f"FORBIDDEN {event} {asked}\\n".encode())
        raise OSError("no network here")

sys.addaudithook(watch)
"""


def test_it_serves_without_asking_anybody(tmp_path: Path, repository: Path) -> None:
    sample = repository / "samples" / "digits-1.flac"
    with serving(tmp_path / "data", prelude=FORBIDDEN) as process:
        with sample.open("rb") as file:
            answer = httpx.post(f"{process.url}/v1/audio/transcriptions", files={"file": file}, timeout=120)
        assert answer.status_code == 200 and answer.json()["text"]
        for path in ("/docs", "/api/system", "/api/history", "/metrics"):
            assert httpx.get(process.url + path, timeout=30).status_code == 200
    assert not [line for line in process.lines if "FORBIDDEN" in line]


def test_the_watch_works(tmp_path: Path) -> None:
    """Or the test above proves nothing: a service whose address is another machine's cannot even start."""
    ask = (
        FORBIDDEN
        + "\nimport socket\ntry:\n    socket.create_connection(('192.0.2.1', 9), 0.1)\nexcept OSError:\n    pass\n"
    )
    with serving(tmp_path / "data", prelude=ask, ready=False) as process:
        assert [line for line in process.lines if "FORBIDDEN" in line]
