"""Make the pictures of docs/page.md: the page in Chromium, with the recordings of samples/ and nothing else.

Run it in the repository: ``python scripts/page_pictures.py``. It writes docs/page-*.png.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.serve.page import Site, chromium, site, spoken, tab, visit  # noqa: E402

SAMPLES = ROOT / "samples"
DOCS = ROOT / "docs"
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def main() -> None:
    """All pictures, one after the other, of one service."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spoken(folder / "said.wav")
        with site(folder / "data") as where, chromium(folder / "said.wav") as browser:
            recognise(browser, where)
            live(browser, where)
            batch(browser, where, folder / "calls")
            history(browser, where)
            phone(browser, where)


def recognise(browser: Any, where: Site) -> None:
    """Text, labels and segments of a recording."""
    with visit(browser, where, "lily", "zh") as page:
        page.get_by_label("性别").check()
        page.locator("#zy-recognise-mountSource input[type=file]").set_input_files(SAMPLES / "words-3.flac")
        page.keyboard.press("Control+Enter")
        page.locator("#zy-recognise-mountResult .zy-mark").first.wait_for()
        page.wait_for_timeout(1500)
        page.screenshot(path=DOCS / "page-recognise.png")


def live(browser: Any, where: Site) -> None:
    """Captions in the middle of a sentence: black is certain, grey is not."""
    with visit(browser, where, "lily") as page:
        tab(page, "Live captions")
        page.get_by_role("button", name="Start captions").click()
        page.get_by_text("41729").wait_for()
        page.wait_for_function(
            "() => { const line = [...document.querySelectorAll('.zy-caption')].at(-1);"
            " return line.querySelector('.zy-sure').innerText && line.querySelector('.zy-tail').innerText.length > 3 }"
        )
        page.screenshot(path=DOCS / "page-live.png")
        page.get_by_role("button", name="Stop", exact=True).click()
        page.locator(".zy-toast").wait_for()


def batch(browser: Any, where: Site, folder: Path) -> None:
    """Twenty files, of which one is broken."""
    folder.mkdir()
    names = ("words-1", "words-2", "digits-1", "words-3", "digits-4", "words-4")
    for number in range(20):
        shutil.copy(SAMPLES / f"{names[number % 6]}.flac", folder / f"call-{number + 1:02}.flac")
    (folder / "call-05.flac").write_bytes(b"no audio at all " * 100)
    with visit(browser, where, "lily") as page:
        tab(page, "Batch")
        field = page.locator("#zy-batch-mount input[type=file]").nth(1)
        field.set_input_files(sorted(folder.iterdir()))
        page.get_by_role("button", name="Start batch").click()
        page.locator("#zy-batch-mount .zy-done").nth(5).wait_for()
        page.screenshot(path=DOCS / "page-batch.png")
        page.get_by_text("19 of 20 done, 1 failed").wait_for()
        page.noise = [line for line in page.noise if "400" not in line]


def history(browser: Any, where: Site) -> None:
    """A record opened from the list, its text put right."""
    with visit(browser, where, "lily", "zh") as page:
        tab(page, "历史")
        page.locator(".zy-link", has_text="words-3.flac").first.click()
        page.get_by_role("button", name="修改文字").click()
        page.locator("dialog textarea").fill("北京：语音识别")
        page.get_by_role("button", name="保存").click()
        page.locator("dialog .zy-edited").wait_for()
        page.locator("dialog .zy-mark").first.wait_for()
        page.locator(".zy-toast").wait_for(state="detached")
        page.wait_for_timeout(800)
        page.screenshot(path=DOCS / "page-history.png")


def phone(browser: Any, where: Site) -> None:
    """A result on a narrow screen."""
    with visit(browser, where, "lily", "zh", **PHONE) as page:
        page.locator("#zy-recognise-mountSource input[type=file]").set_input_files(SAMPLES / "words-4.flac")
        page.locator("#zy-recognise-mountStart .zy-primary").tap()
        page.locator("#zy-recognise-mountResult .zy-mark").first.wait_for()
        page.wait_for_timeout(1500)
        page.screenshot(path=DOCS / "page-phone.png")


if __name__ == "__main__":
    main()
