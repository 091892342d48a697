"""The settings of a realtime transcription session: read from a client's update, and shown as they are in effect.

Two shapes of the same thing are spoken, as OpenAI's client has both: `session.update` with `audio.input` nested in it,
and `transcription_session.update` of the older beta, which is flat. Only fields that are present change something, and
null clears one. A field that is not known is refused, so that no wish is lost in silence.

Source: types/realtime and types/beta/realtime of the client `openai` 3.54.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from zhiyin.audio.decode import RATES_HZ, PcmFormat
from zhiyin.audio.vad import Thresholds
from zhiyin.live.session import Settings
from zhiyin.serve.asking import from_prompt
from zhiyin.serve.job import Wish
from zhiyin.serve.refusal import Refusal

TYPE = "transcription"
OBJECT = "realtime.transcription_session"
RATE_HZ = 24_000  # of audio/pcm where a client says nothing
TELEPHONE_HZ = 8_000  # of G.711
SILENCE_MS = (120, 10_000)  # the shorter one is twice the margin that the detector leaves around speech
MAX_KEYWORDS = 1000
MAX_PROMPT_CHARS = 20_000

_CODINGS = {"audio/pcm": "s16le", "audio/pcmu": "mulaw", "audio/pcma": "alaw"}
_BETA_FORMATS = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
_NO_OFFER = ("near_field", "far_field")


@dataclass(frozen=True)
class Session:
    """What is in effect.

    Attributes:
        id: of the session.
        model: as the client called it.
        format: `audio/pcm`, `audio/pcmu` or `audio/pcma`.
        rate_hz: of the audio the client sends.
        language: code, empty: heard by the model.
        prompt: what the client wrote; names in it, separated by commas, are hotwords, as in `/v1/audio/transcriptions`.
        keywords: hotwords.
        silence_ms: so much silence ends an item; None: the client commits.
    """

    id: str
    model: str = ""
    format: str = "audio/pcm"
    rate_hz: int = RATE_HZ
    language: str = ""
    prompt: str = ""
    keywords: tuple[str, ...] = ()
    silence_ms: int | None = round(Settings.hangover_s * 1000)

    @property
    def pcm(self) -> PcmFormat:
        """How the bytes of the client are to be read."""
        return PcmFormat(_CODINGS[self.format], self.rate_hz)

    @property
    def wish(self) -> Wish:
        """What is asked of the stream."""
        hotwords = dict.fromkeys([*self.keywords, *from_prompt(self.prompt)[0]])
        return Wish(tasks=("asr",), language=self.language, hotwords=tuple(hotwords))

    @property
    def settings(self) -> Settings:
        """How the stream is divided."""
        return Settings() if self.silence_ms is None else Settings(hangover_s=self.silence_ms / 1000)


def updated(session: Session, wish: Any) -> Session:
    """The session after a `session.update`.

    Args:
        session: what was in effect.
        wish: the field `session` of the event.

    Raises:
        Refusal: a field that is unknown or makes no sense; nothing has changed.
    """
    given = _table(wish, "session", ("type", "audio", "include"))
    if given.get("type", TYPE) != TYPE:
        raise _wrong("session.type", given["type"], f"'{TYPE}'; this service understands speech and answers nothing")
    _nothing_included(given.get("include"), "session.include")
    audio = _table(given.get("audio"), "session.audio", ("input",))
    place = "session.audio.input"
    heard = _table(audio.get("input"), place, ("format", "noise_reduction", "transcription", "turn_detection"))
    if heard.get("format") is not None:
        session = _with_format(session, heard["format"], f"{place}.format")
    _no_noise_reduction(heard.get("noise_reduction"), f"{place}.noise_reduction")
    if "transcription" in heard:
        session = _with_transcription(session, heard["transcription"], f"{place}.transcription")
    if "turn_detection" in heard:
        session = _with_turns(session, heard["turn_detection"], f"{place}.turn_detection")
    return session


def updated_beta(session: Session, wish: Any) -> Session:
    """As `updated`, of a `transcription_session.update`."""
    names = ("input_audio_format", "input_audio_noise_reduction", "input_audio_transcription", "turn_detection")
    given = _table(wish, "session", (*names, "include", "modalities", "client_secret"))
    _nothing_included(given.get("include"), "session.include")
    if given.get("client_secret") is not None:
        raise _wrong("session.client_secret", "…", "nothing: this service makes no keys here; use a token")
    if (name := given.get("input_audio_format")) is not None:
        if not isinstance(name, str) or name not in _BETA_FORMATS:
            raise _wrong("session.input_audio_format", name, ", ".join(_BETA_FORMATS))
        session = _with_format(session, {"type": _BETA_FORMATS[name]}, "session.input_audio_format")
    _no_noise_reduction(given.get("input_audio_noise_reduction"), "session.input_audio_noise_reduction")
    if "input_audio_transcription" in given:
        place = "session.input_audio_transcription"
        session = _with_transcription(session, given["input_audio_transcription"], place)
    if "turn_detection" in given:
        session = _with_turns(session, given["turn_detection"], "session.turn_detection")
    return session


def shown(session: Session) -> dict[str, Any]:
    """The full, effective settings, as `session.created` and `session.updated` show them."""
    format: dict[str, Any] = {"type": session.format}
    if session.format == "audio/pcm":
        format["rate"] = session.rate_hz
    heard = {"format": format, "noise_reduction": None, "transcription": _transcription(session)}
    audio = {"input": {**heard, "turn_detection": _turns(session)}}
    return {"id": session.id, "object": OBJECT, "type": TYPE, "audio": audio, "include": None}


def shown_beta(session: Session) -> dict[str, Any]:
    """As `shown`, in the flat shape of the beta."""
    names = {kind: name for name, kind in _BETA_FORMATS.items()}
    return {
        "id": session.id,
        "object": OBJECT,
        "input_audio_format": names[session.format],
        "input_audio_noise_reduction": None,
        "input_audio_transcription": _transcription(session),
        "turn_detection": _turns(session),
        "include": None,
        "client_secret": None,
    }


def _transcription(session: Session) -> dict[str, Any]:
    return {
        "model": session.model or None,
        "language": session.language or None,
        "prompt": session.prompt,
        "keywords": list(session.keywords),
    }


def _turns(session: Session) -> dict[str, Any] | None:
    if session.silence_ms is None:
        return None
    detector = Thresholds()
    return {
        "type": "server_vad",
        "threshold": detector.start,
        "prefix_padding_ms": round(detector.pad_s * 1000),
        "silence_duration_ms": session.silence_ms,
    }


def _with_format(session: Session, wish: Any, place: str) -> Session:
    given = _table(wish, place, ("type", "rate"))
    kind = given.get("type", "audio/pcm")
    if not isinstance(kind, str) or kind not in _CODINGS:
        raise _wrong(f"{place}.type", kind, ", ".join(_CODINGS))
    rate_hz: Any = given.get("rate")
    if rate_hz is None:
        rate_hz = RATE_HZ if kind == "audio/pcm" else TELEPHONE_HZ
    low_hz, high_hz = RATES_HZ if kind == "audio/pcm" else (TELEPHONE_HZ, TELEPHONE_HZ)
    if not _is_number(rate_hz) or not low_hz <= rate_hz <= high_hz or rate_hz != int(rate_hz):
        allowed = f"{low_hz} to {high_hz} Hz" if low_hz < high_hz else f"{low_hz} Hz"
        raise _wrong(f"{place}.rate", rate_hz, allowed)
    return replace(session, format=kind, rate_hz=int(rate_hz))


def _with_transcription(session: Session, wish: Any, place: str) -> Session:
    if wish is None:
        raise _wrong(place, None, "an object: a transcription session always transcribes")
    given = _table(wish, place, ("model", "language", "languages", "prompt", "keywords", "delay"))
    model = _text(given, "model", place, session.model)
    language = _text(given, "language", place, session.language)
    if "languages" in given and given["languages"] is not None:
        languages = _texts(given["languages"], f"{place}.languages")
        language = languages[0] if len(languages) == 1 else ""
    prompt = _text(given, "prompt", place, session.prompt)
    if len(prompt) > MAX_PROMPT_CHARS:
        raise _wrong(f"{place}.prompt", f"{len(prompt)} characters", f"at most {MAX_PROMPT_CHARS}")
    keywords = session.keywords
    if "keywords" in given:
        keywords = _texts(given["keywords"] or [], f"{place}.keywords")
    if len(keywords) > MAX_KEYWORDS:
        raise _wrong(f"{place}.keywords", f"{len(keywords)} entries", f"at most {MAX_KEYWORDS}")
    return replace(session, model=model, language=language, prompt=prompt, keywords=keywords)


def _with_turns(session: Session, wish: Any, place: str) -> Session:
    if wish is None:
        return replace(session, silence_ms=None)
    names = ("type", "threshold", "prefix_padding_ms", "silence_duration_ms", "idle_timeout_ms", "eagerness")
    given = _table(wish, place, (*names, "create_response", "interrupt_response"))
    if given.get("type", "server_vad") != "server_vad":
        raise _wrong(f"{place}.type", given["type"], "'server_vad', or null instead of the object")
    for name, high in (("threshold", 1), ("prefix_padding_ms", SILENCE_MS[1])):
        value = given.get(name)
        if value is not None and not (_is_number(value) and 0 <= value <= high):
            raise _wrong(f"{place}.{name}", value, f"0 to {high}")
    silence_ms = given.get("silence_duration_ms")
    if silence_ms is None:
        return replace(session, silence_ms=session.silence_ms or Session.silence_ms)
    if not _is_number(silence_ms) or not SILENCE_MS[0] <= silence_ms <= SILENCE_MS[1]:
        raise _wrong(f"{place}.silence_duration_ms", silence_ms, f"{SILENCE_MS[0]} to {SILENCE_MS[1]}")
    return replace(session, silence_ms=round(silence_ms))


def _no_noise_reduction(wish: Any, place: str) -> None:
    """It is checked and not done: the settings that are shown say null."""
    given = _table(wish, place, ("type", "strength"))
    if given.get("type") is not None and given["type"] not in _NO_OFFER:
        raise _wrong(f"{place}.type", given["type"], ", ".join(_NO_OFFER))


def _nothing_included(wish: Any, place: str) -> None:
    if wish:
        raise _wrong(place, wish, "nothing: probabilities of single tokens are not known here")


def _table(value: Any, place: str, names: tuple[str, ...]) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(place, value, "an object")
    for name in value:
        if name not in names:
            raise Refusal(
                400, "unknown_parameter", f"{place}.{name[:80]} is not known; known: {', '.join(names)}", param=place
            )
    return value


def _text(given: Mapping[str, Any], name: str, place: str, before: str) -> str:
    value = given.get(name, before)
    if value is not None and not isinstance(value, str):
        raise _wrong(f"{place}.{name}", value, "a string")
    return (value or "").strip()


def _texts(value: Any, place: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
        raise _wrong(place, value, "a list of strings, none of them empty")
    return tuple(one.strip() for one in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _wrong(place: str, value: Any, allowed: str) -> Refusal:
    seen = repr(value)
    return Refusal(
        400,
        "invalid_value",
        f"{place}: got {seen if len(seen) <= 80 else seen[:79] + '…'}; allowed: {allowed}",
        param=place,
    )
