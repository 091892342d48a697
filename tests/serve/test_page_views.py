"""The page in Chromium: history, speech detection, system; Chinese, narrow screens, keyboard, contrast."""

import csv
import io
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serve.page import Site, plays, tab, visit, write
from tests.serve.server import SAMPLES

pytestmark = pytest.mark.slow

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
TABS = {
    "en": ("Recognise", "Live captions", "Batch", "History", "Speech detection", "System"),
    "zh": ("识别", "实时字幕", "批量", "历史", "语音检测", "系统"),
}


@pytest.fixture(scope="module")
def here(browser: Any, page_site: Site) -> Site:
    """A server that has understood six recordings of Ada."""
    with httpx.Client(base_url=page_site.server.url, headers=bearer(page_site), timeout=60) as client:
        for name in ("words-1", "words-2", "words-3", "words-4", "digits-1", "digits-2"):
            with (SAMPLES / f"{name}.flac").open("rb") as file:
                sent = client.post("/api/understand", data={"tasks": "asr,sgc"}, files={"file": (f"{name}.flac", file)})
            sent.raise_for_status()
    return page_site


def names(page: Any) -> set[str]:
    return set(page.locator("#zy-history-mount .zy-link").all_inner_texts())


LISTED = """(wanted) => {
  const found = [...document.querySelectorAll('#zy-history-mount .zy-link')].map((link) => link.innerText);
  return found.length === wanted.length && wanted.every((name) => found.includes(name));
}"""


def search(page: Any, text: str, expected: set[str]) -> None:
    """Type into the search field until the list is what it should be."""
    write(page, page.locator("#zy-search textarea, #zy-search input"), text, "history.text")
    page.wait_for_function(LISTED, arg=sorted(expected))


def test_history_is_searched_in_both_languages(browser: Any, here: Site) -> None:
    with visit(browser, here, "ada") as page:
        tab(page, "History")
        search(page, "project", {"words-1.flac"})
        search(page, "语音", {"words-3.flac"})
        search(page, "words-4", {"words-4.flac"})
        search(page, "no such words anywhere", set())
        page.get_by_text("No records match").wait_for()
        page.get_by_text("Filters").click()
        write(page, page.get_by_label("Label"), "male", "history.label")
        search(page, "", {"words-2.flac", "words-4.flac", "digits-2.flac"} & labelled(here, "male"))


def labelled(where: Site, label: str) -> set[str]:
    """Files that the service itself says have a label; asked past the page."""
    rows = httpx.get(f"{where.server.url}/api/history", headers=bearer(where)).json()["rows"]
    return {row["file_name"] for row in rows if row["labels"].get("sgc") == label}


def bearer(where: Site) -> dict[str, str]:
    return {"Authorization": f"Bearer {where.tokens['ada']}"}


def test_a_text_is_put_right_beside_the_original(browser: Any, here: Site) -> None:
    with visit(browser, here, "ada") as page:
        tab(page, "History")
        page.locator(".zy-link", has_text="words-2.flac").click()
        page.get_by_role("button", name="Edit text").click()
        page.locator("dialog textarea").fill("close the file, signal")
        page.get_by_role("button", name="Save").click()
        page.locator("dialog .zy-edited p", has_text="close the file, signal").wait_for()
        assert page.locator("dialog .zy-main p").nth(1).inner_text() == "close file signal"
        plays(page, "dialog .zy-segment", page.locator("dialog .zy-when").click)
        page.keyboard.press("Escape")
        page.locator("tr", has_text="words-2.flac").locator(".zy-warn", has_text="edited").wait_for()
        page.locator(".zy-link", has_text="words-2.flac").click()
        page.get_by_role("button", name="Edit text").click()
        page.get_by_role("button", name="Back to the original").click()
        page.wait_for_function("!document.querySelector('dialog .zy-edited')")


def test_deleted_rows_come_back(browser: Any, here: Site) -> None:
    with visit(browser, here, "ada") as page:
        tab(page, "History")
        for name in ("digits-1.flac", "digits-2.flac"):
            page.get_by_label(f"Select {name}").check()
        page.get_by_role("button", name="Delete").click()
        page.get_by_text("2 deleted").wait_for()
        assert not {"digits-1.flac", "digits-2.flac"} & names(page)
        page.get_by_role("button", name="Undo").click()
        page.locator(".zy-link", has_text="digits-1.flac").wait_for()
        page.get_by_label("Select digits-1.flac").check()
        page.get_by_role("button", name="Delete").click()
        page.get_by_text("Filters").click()
        page.get_by_label("Show deleted ones").check()
        page.locator("tr.zy-gone", has_text="digits-1.flac").wait_for()
        page.get_by_label("Select digits-1.flac").check()
        page.get_by_role("button", name="Restore").click()
        page.get_by_text("No records match").wait_for()


def test_history_goes_home_as_a_file(browser: Any, here: Site) -> None:
    with visit(browser, here, "ada") as page:
        tab(page, "History")
        page.locator(".zy-link", has_text="words-3.flac").wait_for()
        with page.expect_download() as download:
            page.get_by_role("link", name="Export CSV").click()
        data = Path(download.value.path()).read_bytes()
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"))))
        assert data.startswith(b"\xef\xbb\xbf") and any("北京语音识别" in row for row in rows) and len(rows) >= 7
        page.get_by_label("Select words-3.flac").check()
        with page.expect_download() as download:
            page.get_by_role("link", name="Export SRT").click()
        with zipfile.ZipFile(download.value.path()) as archive:
            assert len(archive.namelist()) == 1
            assert "北京语音识别" in archive.read(archive.namelist()[0]).decode("utf-8")


def test_speech_is_found_and_follows_its_parameters(browser: Any, here: Site) -> None:
    with visit(browser, here, "ada") as page:
        tab(page, "Speech detection")
        page.locator("#zy-vad-mount input[type=file]").set_input_files(SAMPLES / "digits-2.flac")
        page.get_by_text("Spans of speech: ").wait_for()
        first = page.locator("#zy-vad-mount .zy-mark").count()
        assert first == page.locator("#zy-vad-mount tbody tr").count() >= 1
        page.locator("#zy-vad-mount .zy-when").first.click()
        page.wait_for_function("document.querySelector('#zy-vad-mount tbody .zy-now')")
        page.get_by_label("number input for Shortest speech (s)").fill("1.9")
        page.keyboard.press("Tab")
        page.get_by_text("No speech was found").wait_for()


def test_the_system_and_its_model(browser: Any, here: Site) -> None:
    with visit(browser, here) as page:
        tab(page, "System")
        system = page.locator("#zy-system-mount")
        system.get_by_text("ready", exact=True).wait_for()
        shown = system.inner_text()
        assert "pocket" in shown and "onnx · int8" in shown and "gradio" in shown and re.search(r"Free\s+\d+", shown)
        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Unload the model").click()
        system.get_by_text("unloaded", exact=True).wait_for()
        page.get_by_role("button", name="Load / switch").click()
        system.get_by_text("ready", exact=True).wait_for()


OWN_TEXTS = """() => {
  const copy = document.querySelector('main').cloneNode(true);
  copy.querySelectorAll('.zy-snippet, .zy-link, dd').forEach((of_users) => of_users.remove());
  return copy.innerText;
}"""


def test_chinese_page_and_the_switch(browser: Any, here: Site) -> None:
    with visit(browser, here, "ada", language="zh") as page:
        assert [one.strip() for one in page.get_by_role("tab").all_inner_texts()] == list(TABS["zh"])
        assert page.evaluate("document.documentElement.lang") == "zh-CN" and page.title() == "知音 · 听懂语音"
        for name in TABS["zh"]:
            tab(page, name)
            page.wait_for_timeout(150)
            said = page.evaluate(OWN_TEXTS)
            for kept in ("onnxruntime has no other device", "wav mp3 m4a flac ogg opus webm amr mp4"):
                said = said.replace(kept, "")
            assert not re.search(r"[A-Za-z]{3,} [a-z]{2,} [a-z]{2,}", said), name  # no English sentence
        tab(page, "历史")
        page.locator(".zy-label", has_text="女").first.wait_for()
        page.get_by_role("link", name="English").click()
        page.wait_for_url("**/en/")
        page.get_by_role("tab", name="History", exact=True).wait_for()
        page.goto("/")
        page.wait_for_url("**/en/")  # what was switched to is kept
        page.goto("/ui/language/zh")
        page.wait_for_url("**/zh/")
        page.goto("/ui/language/en")


@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_phone_never_scrolls_sideways(browser: Any, here: Site, language: str) -> None:
    with visit(browser, here, "ada", language=language, **PHONE) as page:
        page.locator("#zy-recognise-mountSource input[type=file]").set_input_files(SAMPLES / "words-3.flac")
        page.locator("#zy-recognise-mountStart .zy-primary").tap()
        page.locator("#zy-recognise-mountResult .zy-mark").first.wait_for()
        page.wait_for_function("document.querySelector('.zy-main p').getBoundingClientRect().bottom < innerHeight")
        for name in TABS[language]:
            tab(page, name)
            page.wait_for_timeout(300)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        tab(page, TABS[language][3])
        page.locator(".zy-link").first.tap()
        page.locator("dialog .zy-mark").first.wait_for()
        assert page.evaluate("document.querySelector('dialog').scrollWidth <= innerWidth")


FOCUS = """() => {
  const here = document.activeElement;
  const name = here.ariaLabel || here.innerText || here.closest('label')?.innerText || here.name || '';
  const style = getComputedStyle(here.closest('.zy-drop') ?? here);
  const isTicked = here.type === 'radio' || here.type === 'checkbox';
  const isMarked = style.outlineStyle !== 'none' || style.boxShadow !== 'none' || isTicked;
  return [name.trim().split('\\n')[0], isMarked];
}"""


def test_everything_can_be_reached_by_keyboard(browser: Any, here: Site) -> None:
    with visit(browser, here, "ada") as page:
        page.get_by_role("link", name="中文").focus()
        reached = []
        for _ in range(30):
            page.keyboard.press("Tab")
            one = page.evaluate(FOCUS)
            reached.append(one)
            if one[0] == "Start":
                break
        order = [name for name, _ in reached]
        wanted = [
            "Recognise",
            "Drop a recording here, or click to choose",
            "Record",
            "Choose tasks",
            "transcript",
            "Start",
        ]
        places = [order.index(name) for name in wanted]
        assert places == sorted(places)
        assert all(is_seen for name, is_seen in reached if name in wanted), reached
        page.locator("#zy-recognise-mountSource input[type=file]").set_input_files(SAMPLES / "words-1.flac")
        page.keyboard.press("Enter")  # the start has the focus
        page.locator("#zy-recognise-mountResult .zy-main p").wait_for()  # the result, no longer the progress
        page.locator("#zy-recognise-mountResult .zy-when").focus()
        plays(page, ".zy-segment", lambda: page.keyboard.press("Enter"))
        tab(page, "History")
        page.locator(".zy-link").first.focus()
        page.keyboard.press("Enter")
        page.locator("dialog .zy-segment").first.wait_for()
        page.keyboard.press("Escape")
        page.wait_for_function("!document.querySelector('dialog')")


CONTRAST = """() => {
  const pen = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (colour) => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data];
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((value, i) => (value * a) / 255 + under[i] * (1 - a / 255));
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = (rgb) => rgb.reduce((sum, v, i) => sum + linear(v / 255) * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    const layers = [];
    for (let one = element; one; one = one.parentElement) layers.unshift(rgba(getComputedStyle(one).backgroundColor));
    return layers.reduce((under, layer) => over(layer, under), [255, 255, 255]);
  };
  const isRead = (one) => [...one.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim())
    && one.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true }) && one.offsetParent
    && !one.closest(':disabled');
  const poor = [];
  for (const one of [...document.querySelectorAll('main *')].filter(isRead)) {
    const under = behind(one);
    const [high, low] = [light(over(rgba(getComputedStyle(one).color), under)), light(under)].sort((x, y) => y - x);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) poor.push(`${one.className} ${one.textContent.trim().slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return poor;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_its_ground(browser: Any, here: Site, scheme: str) -> None:
    """WCAG 2.2, criterion 1.4.3: a contrast of 4.5 to 1."""
    with visit(browser, here, "ada", color_scheme=scheme, viewport={"width": 1280, "height": 900}) as page:
        page.locator("#zy-recognise-mountSource input[type=file]").set_input_files(SAMPLES / "words-1.flac")
        page.keyboard.press("Control+Enter")
        page.locator("#zy-recognise-mountResult .zy-mark").first.wait_for()
        poor = {}
        for name in TABS["en"]:
            tab(page, name)
            page.mouse.move(2, 2)
            page.wait_for_timeout(400)
            poor[name] = page.evaluate(CONTRAST)
        assert not any(poor.values()), poor


def test_who_leaves_is_out(browser: Any, here: Site) -> None:
    with visit(browser, here, "lily") as page:
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url("**/login*")
        page.goto("/zh/")
        page.wait_for_url("**/login?next=**")
        assert page.request.get("/ui/session.json").status == 401
    del here.contexts["lily"]


def test_a_session_that_ended_leads_to_the_sign_in_page(browser: Any, here: Site, tmp_path: Path) -> None:
    recording = tmp_path / "again.flac"
    shutil.copy(SAMPLES / "words-1.flac", recording)
    with visit(browser, here, "lily", viewport={"width": 1280, "height": 900}) as page:
        page.context.clear_cookies()
        page.locator("#zy-recognise-mountSource input[type=file]").set_input_files(recording)
        page.keyboard.press("Control+Enter")
        page.wait_for_url("**/login?next=**")
        page.noise = [line for line in page.noise if "401" not in line and "ERR_" not in line]
