"""The settings of a realtime session: what a client may say, in both shapes, and what it is shown."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.beta.realtime import TranscriptionSession
from openai.types.realtime import RealtimeTranscriptionSessionCreateRequest

from zhiyin.serve.realtime_session import SILENCE_MS, Session, shown, shown_beta, updated, updated_beta
from zhiyin.serve.refusal import Refusal

NEW = Session("sess_1")


def audio(**heard: Any) -> dict[str, Any]:
    return {"type": "transcription", "audio": {"input": heard}}


@st.composite
def sessions(draw: st.DrawFn) -> Session:
    kind, rate_hz = draw(st.sampled_from([("audio/pcm", 24000), ("audio/pcm", 16000), ("audio/pcmu", 8000)]))
    return Session(
        "sess_1",
        model=draw(st.sampled_from(["", "whisper-1"])),
        format=kind,
        rate_hz=rate_hz,
        language=draw(st.sampled_from(["", "zh", "en"])),
        prompt=draw(st.sampled_from(["", "知音, zhiyin"])),
        keywords=tuple(draw(st.lists(st.sampled_from(["北京", "wifi"]), max_size=2))),
        silence_ms=draw(st.none() | st.integers(*SILENCE_MS)),
    )


@given(sessions())
def test_what_is_shown_can_be_sent_back(session: Session) -> None:
    """What a client reads and sends again changes nothing, and makes of a new session the same."""
    told = shown(session)
    again = {name: told[name] for name in ("type", "audio", "include")}
    assert updated(session, again) == session
    assert updated(NEW, again) == session


@given(sessions(), sessions())
def test_both_shapes_say_the_same(session: Session, other: Session) -> None:
    flat = shown_beta(session)
    sent = {name: value for name, value in flat.items() if name not in ("id", "object")}
    if session.format == "audio/pcm":  # the flat shape has no rate: it is OpenAI's
        session = replace(session, rate_hz=24000)
    assert updated_beta(other, sent) == session


def test_the_client_reads_what_is_shown() -> None:
    told = RealtimeTranscriptionSessionCreateRequest.model_validate(shown(NEW))
    assert told.audio is not None and told.audio.input is not None and told.audio.input.format is not None
    assert told.audio.input.format.type == "audio/pcm"
    flat = TranscriptionSession.model_construct(**shown_beta(NEW))
    assert flat.input_audio_format == "pcm16"


def test_only_what_is_present_changes() -> None:
    one = updated(NEW, audio(transcription={"language": "zh", "keywords": ["北京"]}))
    two = updated(one, audio(turn_detection=None))
    assert (two.language, two.keywords, two.silence_ms) == ("zh", ("北京",), None)
    three = updated(two, audio(transcription={"language": None}, turn_detection={"type": "server_vad"}))
    assert (three.language, three.keywords, three.silence_ms) == ("", ("北京",), NEW.silence_ms)
    assert updated(three, {}) == three


def test_languages() -> None:
    assert updated(NEW, audio(transcription={"languages": ["zh"]})).language == "zh"
    assert updated(NEW, audio(transcription={"languages": ["zh", "en"]})).language == ""


def test_formats() -> None:
    for kind, rate_hz, coding in (
        ("audio/pcm", 24000, "s16le"),
        ("audio/pcmu", 8000, "mulaw"),
        ("audio/pcma", 8000, "alaw"),
    ):
        pcm = updated(NEW, audio(format={"type": kind})).pcm
        assert (pcm.coding, pcm.sample_rate_hz, pcm.channels) == (coding, rate_hz, 1)
    assert updated(NEW, audio(format={"type": "audio/pcm", "rate": 16000})).pcm.sample_rate_hz == 16000


WRONG: list[tuple[Any, str]] = [
    ({"type": "realtime"}, "session.type"),
    ({"voice": "alloy"}, "session"),
    ({"audio": []}, "session.audio"),
    ({"audio": {"output": {}}}, "session.audio"),
    ({"include": ["item.input_audio_transcription.logprobs"]}, "session.include"),
    (audio(format={"type": "audio/mp3"}), "session.audio.input.format.type"),
    (audio(format={"type": ["audio/pcm"]}), "session.audio.input.format.type"),
    (audio(format={"type": "audio/pcm", "rate": 100}), "session.audio.input.format.rate"),
    (audio(format={"type": "audio/pcm", "rate": 16000.5}), "session.audio.input.format.rate"),
    (audio(format={"type": "audio/pcm", "rate": True}), "session.audio.input.format.rate"),
    (audio(format={"type": "audio/pcm", "rate": float("nan")}), "session.audio.input.format.rate"),
    (audio(format={"type": "audio/pcm", "rate": float("inf")}), "session.audio.input.format.rate"),
    (audio(format={"type": "audio/pcmu", "rate": 16000}), "session.audio.input.format.rate"),
    (audio(format="pcm16"), "session.audio.input.format"),
    (audio(transcription=None), "session.audio.input.transcription"),
    (audio(transcription={"language": 7}), "session.audio.input.transcription.language"),
    (audio(transcription={"languages": "zh"}), "session.audio.input.transcription.languages"),
    (audio(transcription={"keywords": [1]}), "session.audio.input.transcription.keywords"),
    (audio(transcription={"keywords": ["x"] * 2000}), "session.audio.input.transcription.keywords"),
    (audio(transcription={"prompt": "x" * 30000}), "session.audio.input.transcription.prompt"),
    (audio(turn_detection={"type": "semantic_vad"}), "session.audio.input.turn_detection.type"),
    (audio(turn_detection={"silence_duration_ms": 5}), "session.audio.input.turn_detection.silence_duration_ms"),
    (audio(turn_detection={"silence_duration_ms": "5"}), "session.audio.input.turn_detection.silence_duration_ms"),
    (audio(turn_detection={"threshold": 2}), "session.audio.input.turn_detection.threshold"),
    (audio(turn_detection=[]), "session.audio.input.turn_detection"),
    (audio(noise_reduction={"type": "loud"}), "session.audio.input.noise_reduction.type"),
    ([], "session"),
]


@pytest.mark.parametrize(("wish", "place"), WRONG)
def test_what_makes_no_sense_is_refused(wish: Any, place: str) -> None:
    with pytest.raises(Refusal) as refused:
        updated(NEW, wish)
    assert refused.value.param == place and refused.value.status == 400
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


NAMES = ("type", "audio", "input", "format", "rate", "transcription", "turn_detection", "keywords", "language")
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


@given(ANYTHING)
def test_nothing_else_comes_out_of_any_wish(wish: Any) -> None:
    """A session or a refusal, whatever JSON says."""
    for change in (updated, updated_beta):
        try:
            made = change(NEW, wish)
        except Refusal:
            continue
        assert made.pcm and made.wish and made.settings
