"""The page without a browser: its texts, what is open of Gradio, and that its scripts keep to themselves."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serve.page import Site
from tests.serve.server import SAMPLES
from zhiyin.serve import ui_words
from zhiyin.serve.job import MODES, STATES
from zhiyin.tasks.table import TASKS

STATIC = Path(ui_words.__file__).parent / "ui_static"
SCRIPTS = {path.name: path.read_text(encoding="utf-8") for path in sorted(STATIC.glob("*.js"))}
BLOCKS = (STATIC.parent / "ui_blocks.py").read_text(encoding="utf-8")


def test_every_text_is_there_in_both_languages() -> None:
    zh, en = ui_words.words("zh"), ui_words.words("en")
    assert zh.keys() == en.keys() and all(zh.values()) and all(en.values())
    for key in zh:
        assert sorted(re.findall(r"\{\w+\}", zh[key])) == sorted(re.findall(r"\{\w+\}", en[key])), key
        assert zh[key].count("|") == en[key].count("|"), key
    chinese = [text for key, text in zh.items() if key not in ("other_language", "start_hint", "drop_hint")]
    assert all(re.search(r"[一-鿿]", text) for text in chinese)
    assert not any(re.search(r"[一-鿿]", text) for key, text in en.items() if key != "other_language")


def test_no_text_is_missing_and_none_is_unused() -> None:
    used = set(re.findall(r'words\["(\w+)"\]', BLOCKS))
    scripts = "\n".join(SCRIPTS.values())
    used |= {
        key for call in re.findall(r"\b(?:say|act|tell)\(([^()]*)", scripts) for key in re.findall(r'"(\w+)"', call)
    }
    families = {f"state_{state}" for state in (*STATES, "unsent", "sending")} | {f"mode_{mode}" for mode in MODES}
    families |= {f"worker_{state}" for state in ("loading", "ready", "failed", "unloaded", "lost")}
    keys = {key for key in ui_words.words("en") if not key.startswith("label_")}
    listed = {key for key in keys if f'"{key}"' in scripts}  # in a list of columns, in a choice between two
    assert (used & keys) | families | listed == keys, keys - used - families - listed
    assert {key for key in used if "_" in key} <= keys | {"zhiyin_batch"}, used - keys


def test_labels_of_the_task_table_have_names() -> None:
    labels = {label for task in TASKS for label in task.labels}
    assert {f"label_{label}" for label in labels} <= ui_words.words("zh").keys()


@pytest.mark.parametrize(
    ("cookie", "header", "expected"),
    [
        ("", "", "en"),
        ("", "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("", "en-GB,en;q=0.9,zh;q=0.8", "en"),
        ("", "fr,zh;q=0.3", "zh"),
        ("", "zh;q=0, en;q=0.1", "en"),
        ("", "zh;q=zero,de", "en"),
        ("en", "zh-CN", "en"),
        ("zh", "en", "zh"),
        ("../etc", "zh", "zh"),
    ],
)
def test_the_language_of_a_visitor(cookie: str, header: str, expected: str) -> None:
    assert ui_words.choose(cookie, header) == expected


@given(st.text(), st.text())
def test_any_header_gives_a_language(cookie: str, header: str) -> None:
    assert ui_words.choose(cookie, header) in ui_words.LANGUAGES


def test_scripts_never_make_html_of_data_and_ask_nobody_else() -> None:
    for name, script in SCRIPTS.items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", script), (
            name
        )
        assert not re.search(r"https?://", script), name
        assert all(path.startswith("/ui/") for path in re.findall(r'(?:from|import\() ?"([^"]+)"', script)), name
        assert script.count("\n") <= 400
    style = (STATIC / "page.css").read_text(encoding="utf-8")
    assert not re.search(r"@import|url\((?!\"data:)", style)


@pytest.fixture(scope="module")
def here(page_site: Site) -> Iterator[httpx.Client]:
    """Somebody who may come in."""
    token = page_site.tokens["boss"]
    with httpx.Client(base_url=page_site.server.url, headers={"Authorization": f"Bearer {token}"}, timeout=60) as one:
        yield one


def test_the_page_is_there_in_two_languages(here: httpx.Client) -> None:
    root = here.get("/", headers={"Accept-Language": "zh-CN"})
    assert root.status_code == 307 and root.headers["location"] == "/zh/"
    for language, title in (("zh", "知音 · 听懂语音"), ("en", "zhiyin · speech understood")):
        page = here.get(f"/{language}/")
        assert page.status_code == 200 and title in page.text
        policy = page.headers["content-security-policy"]
        assert "default-src 'self'" in policy and "http" not in policy
    switched = here.get("/ui/language/en")
    assert switched.headers["location"] == "/en/" and "httponly" in switched.headers["set-cookie"].lower()
    assert here.get("/ui/language/..%2f..").headers.get("set-cookie") is None
    assert here.get("/ui/words/fr.json").status_code == 404


CLOSED = (
    ("POST", "gradio_api/upload"),
    ("GET", "gradio_api/file=/etc/hostname"),
    ("GET", "gradio_api/file=history.db"),
    ("GET", "file=/etc/hostname"),
    ("GET", "file/etc/hostname"),
    ("GET", "gradio_api/proxy=http://127.0.0.1/"),
    ("POST", "gradio_api/queue/join"),
    ("GET", "gradio_api/queue/data?session_hash=x"),
    ("POST", "gradio_api/run/predict"),
    ("POST", "gradio_api/call/predict"),
    ("GET", "gradio_api/info"),
    ("GET", "gradio_api/heartbeat/x"),
    ("GET", "gradio_api/run-history/records"),
    ("POST", "gradio_api/process_recording"),
    ("POST", "gradio_api/stream/x"),
    ("GET", "config"),
    ("GET", "monitoring"),
    ("POST", "login"),
    ("GET", "docs"),
    ("GET", "openapi.json"),
    ("GET", "no/such/path"),
    ("POST", ""),
)


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_gradios_own_routes_are_closed(here: httpx.Client, method: str, path: str) -> None:
    answer = here.request(method, f"/zh/{path}")
    assert answer.status_code == 404 and set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("prefix", ["zh/static", "zh/assets", "zh/svelte", "ui"])
@pytest.mark.parametrize("up", ["../", "..%2f", "%2e%2e/", "..%5c", "%2fetc%2f"])
def test_no_path_leads_out_of_the_static_folders(here: httpx.Client, prefix: str, up: str) -> None:
    for path in (f"{up * 8}etc/hostname", f"{up}ui.py", f"{up * 3}history.db"):
        request = here.build_request("GET", "/")
        request.url = request.url.copy_with(raw_path=f"/{prefix}/{path}".encode())
        assert here.send(request).status_code in (400, 403, 404), path


def test_a_recording_lies_nowhere_but_in_our_folder(here: httpx.Client, page_site: Site) -> None:
    def recordings() -> set[Path]:
        return {path for path in page_site.server.data.rglob("*.flac") if path.is_file()}

    before = recordings()
    with (SAMPLES / "words-1.flac").open("rb") as file:
        here.post("/api/understand", files={"file": ("words-1.flac", file)}).raise_for_status()
    (new,) = recordings() - before
    assert new.is_relative_to(page_site.server.data / "audio") and not (page_site.server.data / "gradio").exists()


PROBE = """
import socket, sys, warnings
tried = []
calls = ("socket.connect", "socket.getaddrinfo")
sys.addaudithook(lambda event, given: tried.append((event, given)) if event in calls else None)
import gradio
from zhiyin.serve.ui_blocks import build, theme
from zhiyin.serve.ui_words import words
page = build(gradio, words("zh"))
theme(gradio)
import time
time.sleep(0.5)
assert not tried, tried
assert page.fns and all(one.fn is None for one in page.fns.values()), "an event calls Python"
assert not page.analytics_enabled
"""


def test_gradio_calls_nobody_and_runs_nothing_of_ours() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        env={**os.environ, "GRADIO_ANALYTICS_ENABLED": "False"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_other_parts_never_bring_gradio() -> None:
    code = "import sys; import zhiyin.serve.app, zhiyin.serve.ui; assert 'gradio' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
