"""The page in Chromium: a recording, live captions, a batch; as people use it, against a real server."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.serve.page import Site, plays, tab, visit, write
from tests.serve.server import SAMPLES

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=window.hacked=1>.flac"


def recognise(page: Any, recording: Path | str) -> None:
    """Choose a file, start with the keyboard, wait for the text."""
    page.locator("#zy-recognise-mountSource input[type=file]").set_input_files(recording)
    page.keyboard.press("Control+Enter")
    page.locator("#zy-recognise-mountResult .zy-main p").wait_for()


DRAWN = """() => {
  const canvas = document.querySelector('.zy-wave canvas');
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  return data.filter((value, place) => place % 4 === 3 && value).length;
}"""


def test_a_recording_becomes_text_labels_and_segments_that_play(browser: Any, page_site: Site) -> None:
    with visit(browser, page_site) as page:
        page.get_by_label("gender").check()
        recognise(page, SAMPLES / "words-1.flac")
        result = page.locator("#zy-recognise-mountResult")
        assert page.get_by_label("gender").is_checked()  # Enter was for the start alone
        assert result.locator(".zy-main p").inner_text() == "project open file"
        assert "gender\nfemale" in result.locator(".zy-big").inner_text()
        result.locator(".zy-mark").first.wait_for()
        assert result.locator(".zy-segment").count() == result.locator(".zy-mark").count() == 1
        plays(page, ".zy-segment", result.locator(".zy-when").click)
        page.wait_for_function("document.querySelector('.zy-play').textContent === '▶'")  # it stops at its end
        seconds = float(result.locator(".zy-time").inner_text().split(" /")[0].removeprefix("0:"))
        assert 1.7 <= seconds <= 1.95  # the segment ends at 1.79 of 1.94 s
        drawn = page.evaluate(DRAWN)
        assert drawn > 500
        with page.expect_download() as download:
            result.get_by_role("link", name="srt").click()
        assert "project open file" in Path(download.value.path()).read_text(encoding="utf-8")


def test_digits_are_written_as_asked(browser: Any, page_site: Site) -> None:
    with visit(browser, page_site) as page:
        recognise(page, SAMPLES / "digits-1.flac")
        assert page.locator("#zy-recognise-mountResult .zy-main p").inner_text() == "41729"
        page.get_by_label("Numbers as digits").uncheck()
        recognise(page, SAMPLES / "digits-1.flac")
        page.wait_for_function("document.querySelector('.zy-main p')?.textContent === 'four one seven two nine'")


def test_a_request_in_plain_language(browser: Any, page_site: Site) -> None:
    with visit(browser, page_site) as page:
        page.get_by_label("In your own words").check()
        page.get_by_role("textbox", name="Request").fill("what is the gender of the speaker?")
        page.locator("#zy-recognise-mountSource input[type=file]").set_input_files(SAMPLES / "words-2.flac")
        page.get_by_role("textbox", name="Request").press("Control+Enter")
        page.locator("#zy-recognise-mountResult .zy-resulthead").wait_for()
        asked = page.evaluate("fetch('/api/history?limit=1').then(r => r.json()).then(p => p.rows[0].wish)")
        assert asked["instruction"] == "what is the gender of the speaker?" and asked["tasks"] == []


def test_what_is_wrong_is_said_in_one_line(browser: Any, page_site: Site, tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no audio at all " * 100)
    with visit(browser, page_site) as page:
        page.keyboard.press("Control+Enter")
        assert "no recording yet" in page.locator(".zy-toast").inner_text()
        page.locator("#zy-recognise-mountSource input[type=file]").set_input_files(broken)
        page.get_by_role("button", name="Start").click()
        said = page.locator("#zy-recognise-mountResult .zy-problem").inner_text()
        assert "not a recording" in said and "\n" not in said
        assert page.get_by_role("button", name="Start").is_enabled()
        page.noise = [line for line in page.noise if "400" not in line]


def test_names_and_transcripts_are_text_and_never_html(browser: Any, page_site: Site, tmp_path: Path) -> None:
    recording = tmp_path / HOSTILE
    shutil.copy(SAMPLES / "words-1.flac", recording)
    with visit(browser, page_site) as page:
        recognise(page, recording)
        assert HOSTILE in page.locator("#zy-recognise-mountResult .zy-name").inner_text()
        tab(page, "History")
        page.locator(".zy-link", has_text=HOSTILE).first.click()
        page.get_by_role("button", name="Edit text").click()
        page.locator("dialog textarea").fill(HOSTILE)
        page.get_by_role("button", name="Save").click()
        page.locator("dialog .zy-edited p", has_text=HOSTILE).wait_for()
        page.keyboard.press("Escape")
        page.locator(".zy-snippet", has_text=HOSTILE).wait_for()
        page.wait_for_timeout(200)
        assert page.evaluate("window.hacked") is None
        assert page.locator("main img:not([src='/ui/icon.svg'])").count() == 0


def test_a_recording_from_the_microphone(browser: Any, page_site: Site) -> None:
    with visit(browser, page_site) as page:
        page.get_by_role("button", name="Record", exact=True).click()
        page.get_by_role("button", name="Stop recording").wait_for()
        page.wait_for_function("Number(document.querySelector('.zy-level').getAttribute('aria-valuenow')) > 60")
        page.wait_for_timeout(2600)
        page.get_by_role("button", name="Stop recording").click()
        page.get_by_role("button", name="Start").click()
        page.locator("#zy-recognise-mountResult .zy-main p").wait_for()
        assert page.locator("#zy-recognise-mountResult .zy-main p").inner_text().startswith("41")
        assert (
            page.evaluate("fetch('/api/history?limit=1').then(r => r.json()).then(p => p.rows[0].mode)") == "microphone"
        )


WATCH = """() => {
  window.seen = [];
  const words = (line, kind) => line.querySelector(kind)?.textContent ?? '';
  const note = (line) => window.seen.push([words(line, '.zy-sure'), words(line, '.zy-tail')]);
  const watch = new MutationObserver(() => document.querySelectorAll('.zy-caption').forEach(note));
  watch.observe(document.querySelector('.zy-captions'), { childList: true, subtree: true, characterData: true });
}"""


def test_captions_while_somebody_speaks(browser: Any, page_site: Site) -> None:
    with visit(browser, page_site, name="lily") as page:
        tab(page, "Live captions")
        page.locator(".zy-captions").wait_for()
        page.evaluate(WATCH)
        page.get_by_role("button", name="Start captions").click()
        page.get_by_text("41729").wait_for()
        page.get_by_text("955108").wait_for()
        page.get_by_role("button", name="Stop", exact=True).click()
        page.locator(".zy-toast").wait_for()
        seen = [(sure, tail.strip()) for sure, tail in page.evaluate("window.seen")]
        assert any(tail for _, tail in seen) and any(sure and tail for sure, tail in seen)  # grey before it was black
        assert page.locator(".zy-tail").all_inner_texts() == ["", ""]
        colours = page.evaluate(
            "() => { const of = (one) => getComputedStyle(document.querySelector(one)); return"
            " [of('.zy-sure').color === getComputedStyle(document.querySelector('.zy-captions')).color,"
            " of('.zy-sure').color !== of('.zy-tail').color] }"
        )
        assert colours == [True, True]
        page.get_by_role("button", name="Open").click()
        page.locator("dialog .zy-main p", has_text="41729").wait_for()
        page.locator("dialog .zy-segment").nth(1).wait_for()


def test_hotwords_are_kept_and_used(browser: Any, page_site: Site) -> None:
    with visit(browser, page_site) as page:
        page.get_by_text("More options").first.click()
        words = page.get_by_role("textbox", name="Hotwords").first
        write(page, words, "signal => Signal Co", "recognise.hotwords")
        page.on("dialog", lambda dialog: dialog.accept("names"))
        page.get_by_role("button", name="Save hotwords").first.click()
        page.wait_for_function("window.zhiyin.recognise.saved === 'names'")
        recognise(page, SAMPLES / "words-2.flac")
        assert page.locator("#zy-recognise-mountResult .zy-main p").inner_text() == "close file Signal Co"
    with visit(browser, page_site) as page:
        page.get_by_text("More options").first.click()
        page.get_by_label("Saved hotword lists").first.click()
        page.get_by_role("option", name="names").click()
        page.wait_for_function("window.zhiyin.recognise.hotwords.includes('Signal Co')")
        assert page.get_by_role("textbox", name="Hotwords").first.input_value().strip() == "signal => Signal Co"


def test_a_batch_with_a_bad_file(browser: Any, page_site: Site, tmp_path: Path) -> None:
    names = ("words-1", "words-2", "digits-1", "digits-4")
    for number in range(20):
        shutil.copy(SAMPLES / f"{names[number % 4]}.flac", tmp_path / f"call-{number:02}.flac")
    (tmp_path / "call-05.flac").write_bytes(b"no audio at all " * 100)
    (tmp_path / "notes.txt").write_text("not for us")
    with visit(browser, page_site) as page:
        tab(page, "Batch")
        batch = page.locator("#zy-batch-mount")
        batch.locator("input[type=file]").nth(2).set_input_files(tmp_path)  # the chooser of folders
        assert "1 files were skipped" in batch.inner_text() and batch.locator("tbody tr").count() == 20
        batch.get_by_role("button", name="Start batch").click()
        batch.get_by_role("button", name="Pause").click()
        page.wait_for_timeout(300)
        batch.locator(".zy-unsent").first.wait_for()  # paused: the rest was not sent
        page.wait_for_function("!document.querySelector('#zy-batch-mount .zy-sending')")
        unsent = batch.locator(".zy-unsent").count()
        page.wait_for_timeout(500)
        assert batch.locator(".zy-unsent").count() == unsent > 0
        batch.get_by_role("button", name="Resume").click()
        page.get_by_text("19 of 20 done, 1 failed").wait_for()
        bad = batch.locator("tbody tr", has_text="call-05")
        assert "not a recording" in bad.inner_text() and bad.locator(".zy-failed").count() == 1
        assert batch.locator("tbody tr", has_text="call-02").locator(".zy-snippet").inner_text() == "41729"
        batch.get_by_role("button", name="Retry failed").click()
        page.get_by_text("19 of 20 done, 1 failed").wait_for()
        with page.expect_download() as download:
            batch.get_by_role("link", name="CSV").click()
        lines = Path(download.value.path()).read_text(encoding="utf-8-sig").splitlines()
        assert len(lines) == 20 and "call-00.flac" in "".join(lines) and "words-1.flac" not in "".join(lines)
        page.noise = [line for line in page.noise if "400" not in line]
        page.reload()  # what was sent is found again
        tab(page, "Batch")
        page.get_by_text("19 of 19 done").wait_for()


STATUSES = """(id) => Promise.all(['', '/audio', '/peaks', '/result'].map(
  (part) => fetch(`/api/history/${id}${part}`).then((answer) => answer.status)))"""


def test_others_recordings_stay_theirs(browser: Any, page_site: Site) -> None:
    with visit(browser, page_site) as page:
        recognise(page, SAMPLES / "words-2.flac")
        id = page.evaluate("fetch('/api/history?limit=1').then(r => r.json()).then(p => p.rows[0].id)")
    with visit(browser, page_site, name="lily") as page:
        tab(page, "History")
        page.locator("#zy-history-mount .zy-hint", has_text="Records").wait_for()
        assert page.locator("#zy-history-mount .zy-link", has_text="words-2.flac").count() == 0
        assert page.evaluate(STATUSES, id) == [404] * 4
        page.noise = [line for line in page.noise if "404" not in line]
        tab(page, "System")
        page.get_by_text("Only administrators can change this").wait_for()
        assert not page.get_by_role("button", name="Unload the model").is_visible()
        assert json.loads(page.evaluate("fetch('/ui/session.json').then(r => r.text())"))["role"] == "user"
