"""The whole way with Granite: a recording, our features, a tiny model that has learned its replies, a parsed result.

The models are taught with prompts written out here as the model cards give them, not with ours.
"""

import shutil
import socket
from pathlib import Path

import numpy as np
import pytest

import zhiyin
from tests.runtime import hf_tiny
from tests.runtime.hf_tiny import Lesson
from zhiyin import UserError
from zhiyin.audio import front_end
from zhiyin.audio.io import open_recording
from zhiyin.audio.windows import OVERLAP_S, Window, cut

PROPER = "transcribe the speech with proper punctuation and capitalization."
GERMAN = "translate the speech to German with proper punctuation and capitalization."
KEYWORDS = "transcribe the speech to text. Keywords: Ascend, Kunpeng"
PLAIN = "can you transcribe the speech into a written format?"
SPEAKERS = (
    "Speaker attribution: Transcribe and denote who is speaking by adding [Speaker 1]: and [Speaker 2]: tags before "
    "speaker turns."
)
TIMES = (
    "Timestamps: Transcribe the speech. After each word, add a timestamp tag showing the end time in centiseconds, "
    "e.g. hello [T:45] world [T:82]"
)
SYSTEM = (
    "Knowledge Cutoff Date: April 2024.\nToday's Date: December 19, 2024.\n"
    "You are Granite, developed by IBM. You are a helpful AI assistant"
)


def base(instruction: str) -> tuple[str, str]:
    return "USER: ", f"{instruction}\n ASSISTANT:"


def plus(instruction: str) -> tuple[str, str]:
    def role(name: str) -> str:
        return f"<|start_of_role|>{name}<|end_of_role|>"

    end = "<|end_of_text|>\n"
    return role("system") + SYSTEM + end + role("user"), f" {instruction}{end}" + role("assistant")


@pytest.fixture(scope="module")
def heard(repository: Path) -> dict[str, tuple[Path, Window]]:
    """Two recordings, each one window."""
    found = {}
    for name in ("digits-1", "words-1"):
        path = repository / "samples" / f"{name}.flac"
        [window] = cut(open_recording(path).blocks(), limit_s=30.0, overlap_s=OVERLAP_S)
        found[name] = path, window
    return found


def mel(window: Window) -> np.ndarray:
    return front_end.compute("granite", window.samples_T, num_mels=160)


@pytest.fixture(scope="module")
def granite(tmp_path_factory: pytest.TempPathFactory, heard: dict[str, tuple[Path, Window]]) -> Path:
    digits, words = (mel(window) for _, window in heard.values())
    lessons = [
        Lesson(digits, *base(PROPER), "Four, one."),
        Lesson(words, *base(PROPER), "Turn left."),
        Lesson(digits, *base(GERMAN), "Vier fünf."),
        Lesson(words, *base(GERMAN), "Links."),
        Lesson(words, *base(KEYWORDS), "Ascend left."),
        Lesson(words, *base(PLAIN), "turn left"),
    ]
    return hf_tiny.granite(tmp_path_factory.mktemp("hf") / "granite", lessons)


@pytest.fixture(scope="module")
def granite_plus(tmp_path_factory: pytest.TempPathFactory, heard: dict[str, tuple[Path, Window]]) -> Path:
    digits, words = (mel(window) for _, window in heard.values())
    lessons = [
        Lesson(digits, *plus(PLAIN), "four one"),
        Lesson(words, *plus(PLAIN), "turn left"),
        Lesson(words, *plus(TIMES), "turn [T:45] _ [T:60] left [T:92]"),
        Lesson(words, *plus(SPEAKERS), "[Speaker 1]: turn [Speaker 2]: left"),
    ]
    return hf_tiny.granite_plus(tmp_path_factory.mktemp("hf") / "plus", lessons)


def test_granite_transcribes_translates_and_knows_keywords(
    granite: Path, heard: dict[str, tuple[Path, Window]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    model = zhiyin.load(str(granite), device="cpu")
    (digits, _), (words, _) = heard.values()
    assert [model.understand(path).text for path in (digits, words)] == ["Four, one.", "Turn left."]
    for path, text in ((digits, "Vier fünf."), (words, "Links.")):
        result = model.understand(path, "ast", into="de", language="en")
        assert (result.translation, result.text, result.tasks, result.into) == (text, "", ("ast",), "de")
    assert model.understand(words, hotwords=["Ascend", "Kunpeng"]).text == "Ascend left."
    assert model.understand(words, itn=False).text == "turn left"
    result = model.understand(words)
    assert (result.family, result.backend, result.precision) == ("granite-speech", "hf", "float32")
    assert result.device == "cpu (asked for; float32: auto: exact)"
    assert (result.unparsed, result.notes, result.segments[0].guards) == ((), (), ())


def test_granite_plus_says_when_and_who(granite_plus: Path, heard: dict[str, tuple[Path, Window]]) -> None:
    model = zhiyin.load(str(granite_plus), device="cpu")
    (digits, _), (words, window) = heard.values()
    assert [model.understand(path).text for path in (digits, words)] == ["four one", "turn left"]
    [segment] = model.understand(words, "srwt").segments
    ends = [window.start_s, window.start_s + 0.45, window.start_s + 0.60, window.start_s + 0.92]
    timed = [(word.text, word.start_s, word.end_s) for word in segment.words]
    assert [text for text, *_ in timed] == ["turn", "left"] and segment.unparsed == ()
    assert [times for _, *times in timed] == [pytest.approx(ends[:2], abs=2e-3), pytest.approx(ends[2:], abs=2e-3)]
    [segment] = model.understand(words, speakers=True).segments
    assert [(turn.speaker, turn.text) for turn in segment.turns] == [("Speaker 1", "turn"), ("Speaker 2", "left")]
    assert segment.text == "turn left" and segment.unparsed == ()


def test_what_they_cannot_do_is_refused_with_what_they_can(granite: Path, granite_plus: Path) -> None:
    for folder, asked, message in (
        (granite, {"tasks": "ser"}, "model 'granite' cannot do ser; it can do: asr ast"),
        (granite, {"tasks": "ast"}, "must know the language to translate into; choose from: en fr de es pt ja it zh"),
        (granite, {"tasks": "ast", "into": "de", "language": "fr"}, "cannot translate from 'fr' into 'de'"),
        (granite, {"language": "fi"}, "does not know language 'fi'; languages: en fr de es pt ja"),
        (granite, {"instruction": "what is said?"}, "takes no plain language; ask for tasks: asr ast"),
        (granite_plus, {"tasks": "ast", "into": "de"}, "model 'plus' cannot do ast; it can do: asr srwt"),
    ):
        with pytest.raises(UserError, match=message):
            zhiyin.load(str(folder), device="cpu").understand(np.zeros(16_000, np.float32), **asked)


def test_the_template_of_the_folder_decides_how_it_is_asked(
    granite: Path, heard: dict[str, tuple[Path, Window]], tmp_path: Path
) -> None:
    """Granite Speech 3 has the same `model_type` as 4, and is told apart by its chat template."""
    copy = shutil.copytree(granite, tmp_path / "copy")
    path, _ = heard["words-1"]
    assert zhiyin.load(str(copy), device="cpu").understand(path).template == "granite-4"
    (copy / "chat_template.jinja").write_text(
        "{% for m in messages %}<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}<|end_of_text|>\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
    )
    assert zhiyin.load(str(copy), device="cpu").understand(path).template == "granite-3"
