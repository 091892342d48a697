"""What the tests of the page share: a server, two people, and Chromium with a microphone that is fed from a file."""

import shutil
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.serve.server import SAMPLES, Server, running
from zhiyin.serve import database, settings
from zhiyin.serve.tokens import Tokens

FLAGS = [  # nothing of the browser's own goes out, and no question about the microphone is asked
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
]
WAIT_MS = 20_000


@dataclass
class Site:
    """A running server with the page, and who may come in: an administrator and two users."""

    server: Server
    tokens: dict[str, str]
    contexts: dict[str, Any] = field(default_factory=dict)  # of browsers signed in, by name: their caches are warm


@contextmanager
def site(data: Path) -> Iterator[Site]:
    """A server with the page that lets in three people only."""
    places = settings.folders(settings.Settings(data=data))
    engine = database.open(database.url(settings.Settings(data=data), places))
    tokens = {
        name: Tokens(engine).add(name, role) for name, role in (("boss", "admin"), ("lily", "user"), ("ada", "user"))
    }
    engine.dispose()
    with running(data, page=True) as server:
        yield Site(server, tokens)


@pytest.fixture(scope="session")
def page_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One server with the page for all tests; tests that count rows of the history do so as a person of their own."""
    with site(tmp_path_factory.mktemp("page") / "data") as one:
        yield one


@pytest.fixture(scope="module")
def browser(page_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium; of each module, since Playwright's event loop must not be there for other tests."""
    path = tmp_path_factory.mktemp("microphone") / "said.wav"
    spoken(path)
    with chromium(path) as one:
        yield one
    page_site.contexts.clear()


@contextmanager
def chromium(microphone: Path) -> Iterator[Any]:
    """A browser whose microphone hears a WAV file once; skips, visibly, where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the page is not tested in a browser: no playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("the page is not tested in a browser: no Chromium")
    with playwright.sync_playwright() as driver:
        flag = f"--use-file-for-fake-audio-capture={microphone}%noloop"
        browser = driver.chromium.launch(executable_path=path, args=[*FLAGS, flag])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visit(browser: Any, where: Site, name: str = "boss", language: str = "en", **options: Any) -> Iterator[Any]:
    """The page, signed in, in a window of its own where `options` of a browser context are given.

    Afterwards: no other host was asked, nothing was refused, the console is clean. What a test provokes on purpose it
    takes out of `page.noise`.
    """
    if name not in where.contexts:
        where.contexts[name] = _signed_in(browser, where, name)
    context = where.contexts[name]
    if options:
        context = browser.new_context(base_url=where.server.url, storage_state=context.storage_state(), **options)
        context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    try:
        page.noise = []
        foreign: list[str] = []
        ours = where.server.url.partition("://")[2]
        page.on("request", lambda request: _note_foreign(request.url, ours, foreign))
        page.on("websocket", lambda socket: _note_foreign(socket.url, ours, foreign))
        page.on("console", lambda said: page.noise.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: page.noise.append(str(error)))
        page.on("response", lambda one: page.noise.append(f"{one.status} {one.url}") if one.status >= 400 else None)
        if language:
            page.goto(f"/{language}/")
            page.locator("#zy-recognise-mountStart button").first.wait_for()
            page.wait_for_function("window.zhiyin && window.zhiyin.vad")
        yield page
        assert not foreign and not page.noise
    finally:
        page.close()
        if options:
            context.close()


def _note_foreign(url: str, ours: str, foreign: list[str]) -> None:
    if not url.startswith((f"http://{ours}/", f"ws://{ours}/", f"blob:http://{ours}/", "data:")):
        foreign.append(url)


def _signed_in(browser: Any, where: Site, name: str) -> Any:
    """A browser window of somebody, who came in by the sign-in page."""
    context = browser.new_context(base_url=where.server.url, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    page.goto("/")
    page.locator("input[name=token]").fill(where.tokens[name])
    page.locator("button[type=submit]").click()
    page.wait_for_url("**/en/")
    page.close()
    return context


def tab(page: Any, name: str) -> None:
    """Go to a tab; on narrow screens those at the end are in a menu."""
    page.get_by_role("tab").first.wait_for()
    found = page.get_by_role("tab", name=name, exact=True)
    if found.count() and found.is_visible():
        found.click()
    else:
        page.locator(".overflow-menu > button").click()
        page.locator(".overflow-dropdown button", has_text=name).click()


def spoken(path: Path) -> None:
    """A WAV file for the microphone: a sample, a pause, another one, and silence."""
    pieces: list[Any] = []
    for name in ("digits-1", "digits-3"):
        samples, rate_hz = soundfile.read(SAMPLES / f"{name}.flac", dtype="int16")
        pieces += [np.zeros(rate_hz // 2, np.int16), samples]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(np.concatenate([*pieces, np.zeros(4 * rate_hz, np.int16)]).tobytes())


def plays(page: Any, segment: str, click: Callable[[], None]) -> None:
    """Whether a segment is marked as playing after `click`; one of a second may be over before it is looked at."""
    page.evaluate(
        """(selector) => {
  const segment = document.querySelector(selector);
  window.wasPlayed = false;
  new MutationObserver(() => { window.wasPlayed ||= segment.classList.contains('zy-now'); })
    .observe(segment, { attributes: true });
}""",
        segment,
    )
    click()
    page.wait_for_function("window.wasPlayed")


def write(page: Any, field: Any, text: str, setting: str) -> None:
    """Write into a field until the scripts know of it: Gradio may still be preparing the page when a test writes."""
    for _ in range(10):
        field.fill(text)
        for _ in range(20):
            if page.evaluate(f"window.zhiyin?.{setting}") == text:
                return
            page.wait_for_timeout(100)
        field.fill("")
    raise AssertionError(f"{setting} does not become {text!r}")
