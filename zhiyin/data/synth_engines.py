"""espeak-ng and flite as libraries in this process, festival beside it: samples, and where each word lies in them.

The libraries keep a state between utterances (flutter, noise of the excitation), so the same call gives slightly other
samples the second time. Whoever needs the same files again speaks in the same order in a fresh process, as `synth_run`
does.
"""

import ctypes
import ctypes.util
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.data.synth_festival import VOICES, Festival
from zhiyin.errors import UserError

_RETRIEVAL, _UTF8, _PHONEME_EVENTS = 1, 1, 1  # of espeak-ng/speak_lib.h, as all numbers below
_RATE, _PITCH, _RANGE = 1, 3, 4
_END_OF_LIST, _WORD, _MESSAGE_END, _PHONEME = 0, 1, 6, 7
_PAUSES = (b"_:", b"_::", b"_")
_SYLLABLES = re.compile(r"[a-zü]+[1-5]|[\u4e00-\u9fff]")


@dataclass(frozen=True)
class Said:
    """What an engine made of a text.

    Attributes:
        samples_T: mono 16 kHz in [-1, 1].
        times_s: start and end of each word; None when the engine ran words together and times are not known.
    """

    samples_T: Float32
    times_s: tuple[tuple[float, float], ...] | None


def say(
    engine: str,
    name: str,
    words: Sequence[str],
    language: str,
    *,
    words_per_minute: int,
    pitch: int,
    tract: float = 1.0,
) -> Said:
    """Speak words.

    Args:
        engine: ``espeak-ng``, ``flite`` or ``festival``.
        name: of the voice as the engine knows it, e.g. ``en-us+f2``, ``slt``, ``ked_diphone``.
        words: each with its times; in Chinese characters, or syllables of pinyin with a digit for the tone.
        language: ``zh`` is spoken without gaps between the words.
        words_per_minute: 80 to 450.
        pitch: 0 to 99, 50 as the voice is, 50 more an octave higher; flite does not know it, festival's slt neither.
        tract: all frequencies are multiplied by it, as by a vocal tract that is shorter; the rate stays.

    Raises:
        UserError: the engine is not installed, or does not know the voice.
    """
    if engine == "flite":
        samples_T, rate_hz, times_s = _flite().say(name, " ".join(words), words_per_minute / tract)
        if times_s is not None and len(times_s) != len(words):
            times_s = None
    elif engine == "festival":
        factor = 2.0 ** ((pitch - 50) / 50)
        samples_T, rate_hz, times_s = _festival().say(name, words, words_per_minute / tract, factor)
    else:
        text, places = joined(words, language)
        samples_T, rate_hz, times_s = _espeak().say(name, text, places, words_per_minute / tract, pitch)
    resampled_T = soxr.resample(samples_T, rate_hz * tract, SAMPLE_RATE_HZ)
    if times_s is not None:
        last_s = len(resampled_T) / SAMPLE_RATE_HZ
        times_s = [(min(a / tract, last_s), min(b / tract, last_s)) for a, b in times_s]
    return Said(np.asarray(resampled_T, np.float32), None if times_s is None else tuple(times_s))


def require(engines: Iterable[str]) -> None:
    """Refuse where an engine or what belongs to it is not installed.

    Raises:
        UserError: with the package to install.
    """
    for engine in engines:
        if engine == "festival":
            Festival().require(*VOICES)
        elif engine == "flite":
            _flite()
        else:
            _espeak()


def joined(words: Sequence[str], language: str) -> tuple[str, list[int]]:
    """The text espeak-ng is given, and where each word begins in it, counted from 1 as its events do."""
    text, places = "", []
    for word in words:
        pinyin = word.isascii() or "ü" in word
        if text and (language != "zh" or pinyin or text[-1].isascii()):
            text += " "
        places.append(len(text) + 1)
        text += word
    return text, places


def syllables(text: str) -> list[str]:
    """Chinese characters and syllables of pinyin (``yin2``) of a text."""
    return _SYLLABLES.findall(text)


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


class _Espeak:
    def __init__(self) -> None:
        self._library = _load("espeak-ng", "libespeak-ng.so.1")
        flags = _PHONEME_EVENTS | 0x8000  # 0x8000: do not end the process when the data is missing
        rate_hz = self._library.espeak_Initialize(2, 0, None, flags)  # 2: synchronous, samples to the callback
        if rate_hz <= 0:
            raise UserError("synthesis: espeak-ng does not find its data; install the package espeak-ng-data")
        self._rate_hz = rate_hz
        folder = ctypes.c_char_p()
        self._library.espeak_Info(ctypes.byref(folder))
        self._variants = Path((folder.value or b"").decode()) / "voices" / "!v"
        self._blocks: list[Any] = []
        self._events: list[tuple[int, int, int, bytes]] = []
        prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
        self._callback = prototype(self._take)  # kept: the library holds only the address
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]

    def _take(self, samples: Any, num_samples: int, events: Any) -> int:
        if num_samples > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, (num_samples,)).copy())
        place = 0
        while events[place].type != _END_OF_LIST:
            event = events[place]
            what = event.id.string if event.type == _PHONEME else b""
            self._events.append((event.type, event.text_position, event.sample, what))
            place += 1
        return 0

    def say(
        self, name: str, text: str, places: list[int], words_per_minute: float, pitch: int
    ) -> tuple[Float32, float, list[tuple[float, float]] | None]:
        """Samples, their rate, and times of the words that begin at `places`."""
        self._blocks.clear()
        self._events.clear()
        library = self._library
        variant = name.partition("+")[2]  # it takes no notice of one that it does not have
        there = not variant or (self._variants / variant).is_file()
        if not there or library.espeak_SetVoiceByName(name.encode()) != 0:
            raise UserError(f"synthesis: espeak-ng has no voice '{name}'; version 1.51 or later has it")
        library.espeak_SetParameter(_RATE, int(np.clip(round(words_per_minute), 80, 450)), 0)
        library.espeak_SetParameter(_PITCH, pitch, 0)
        encoded = text.encode() + b"\0"
        library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded)), 0, 1, 0, _UTF8, None, None)
        if not self._blocks:
            raise UserError(f"synthesis: espeak-ng said nothing for {text!r} with the voice '{name}'")
        samples_T = np.concatenate(self._blocks).astype(np.float32) / np.float32(32768)
        return samples_T, self._rate_hz, self._times_s(places)

    def _times_s(self, places: list[int]) -> list[tuple[float, float]] | None:
        starts = {place: sample for kind, place, sample, _ in reversed(self._events) if kind == _WORD}
        starts.pop(0, None)  # the pause at the end, told as a word without a place
        if set(starts) != set(places):
            return None  # it ran words together ("at a"), or read one as several
        edges = sorted(starts.values())
        edges += [sample for kind, _, sample, what in self._events if kind == _PHONEME and what in _PAUSES]
        edges += [sample for kind, _, sample, _ in self._events if kind == _MESSAGE_END]
        times = []
        for place in places:
            ends = [edge for edge in edges if edge > starts[place]]
            if not ends:
                return None
            times.append((starts[place] / self._rate_hz, min(ends) / self._rate_hz))
        return times


class _Wave(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    ]


class _VoiceHead(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("features", ctypes.c_void_p)]


class _Flite:
    def __init__(self) -> None:
        self._library = _load("flite", "libflite.so.1")
        for name in ("libflite_usenglish.so.1", "libflite_cmulex.so.1"):
            _load("flite", name)
        self._library.flite_init()
        for function, kind in (
            ("flite_synth_text", ctypes.c_void_p),
            ("utt_wave", ctypes.POINTER(_Wave)),
            ("utt_relation", ctypes.c_void_p),
            ("relation_head", ctypes.c_void_p),
            ("item_next", ctypes.c_void_p),
            ("ffeature_float", ctypes.c_float),
        ):
            getattr(self._library, function).restype = kind
        self._voices: dict[str, int] = {}

    def say(
        self, name: str, text: str, words_per_minute: float
    ) -> tuple[Float32, float, list[tuple[float, float]] | None]:
        """Samples, their rate, and times of what it took for words."""
        voice = self._voice(name)
        features = ctypes.cast(voice, ctypes.POINTER(_VoiceHead)).contents.features
        stretch = ctypes.c_float(150.0 / words_per_minute)
        self._library.feat_set_float(ctypes.c_void_p(features), b"duration_stretch", stretch)
        utterance = ctypes.c_void_p(self._library.flite_synth_text(text.encode(), ctypes.c_void_p(voice)))
        wave = self._library.utt_wave(utterance).contents
        samples_T = np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).astype(np.float32) / np.float32(32768)
        rate_hz, times = wave.sample_rate, []
        word = self._library.relation_head(ctypes.c_void_p(self._library.utt_relation(utterance, b"Word")))
        while word:
            start_s = self._seconds(word, b"R:SylStructure.daughter1.daughter1.R:Segment.p.end")
            times.append((start_s, self._seconds(word, b"R:SylStructure.daughtern.daughtern.R:Segment.end")))
            word = self._library.item_next(ctypes.c_void_p(word))
        self._library.delete_utterance(utterance)
        return samples_T, rate_hz, times if all(start_s < end_s for start_s, end_s in times) else None

    def _voice(self, name: str) -> int:
        if name not in self._voices:
            register = getattr(_load("flite", f"libflite_cmu_us_{name}.so.1"), f"register_cmu_us_{name}")
            register.restype, register.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
            self._voices[name] = register(None)
        return self._voices[name]

    def _seconds(self, word: int, path: bytes) -> float:
        return float(self._library.ffeature_float(ctypes.c_void_p(word), path))


@cache
def _espeak() -> _Espeak:
    return _Espeak()


@cache
def _flite() -> _Flite:
    return _Flite()


@cache
def _festival() -> Festival:
    return Festival()


def _load(package: str, name: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise UserError(
            f"synthesis: the library {name} is not installed; install the package {package} (apt install {package})"
        ) from error
