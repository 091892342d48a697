"""What models are compared on: recordings and random features, each with what the reference made of it.

Every component gets the *reference's* input: an error stays in the component that makes it, and what one device wrote
down another can be checked with. Shapes: `T` samples, `M` rows and `F` columns of features, `S` speech vectors,
`D` decoder width, `V` vocabulary.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from zhiyin.ask import Options, family_of, fit, request
from zhiyin.audio import front_end
from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.audio.io import load, open_recording
from zhiyin.audio.windows import cut
from zhiyin.errors import UserError
from zhiyin.runtime import bundle
from zhiyin.runtime.base import ModelSpec
from zhiyin.runtime.generate import Prompt, decode
from zhiyin.runtime.load import Loaded

REAL, RANDOM = "real", "random"
SEED = 42
SOUNDS = Path(__file__).parent / "sounds"  # of text-to-speech voices, CC0-1.0; the same as in `samples/`
MAX_JOINED_S = 8.0
MAX_WINDOWS = 4
MAX_REPLY_TOKENS = 24  # of a reply that is compared token by token
RANDOM_REPLY_TOKENS = 6
_RANDOM_S = (1.0, 2.5)


@dataclass(frozen=True)
class Sound:
    """One input: a waveform, or features that no sound has."""

    name: str
    kind: str
    samples_T: Float32 | None = None
    mel_MF: Float32 | None = None


@dataclass(frozen=True)
class Question:
    """A prompt around the speech and the reply that is teacher-forced.

    Attributes:
        name: e.g. ``asr`` or ``ast into de``.
        task: its id.
        into: language to translate into, if any.
        before_ids: tokens before the speech.
        after_ids: tokens after it.
        reply_ids: what the reference said, the end token included if it came; of a random input random tokens.
    """

    name: str
    task: str
    into: str
    before_ids: tuple[int, ...]
    after_ids: tuple[int, ...]
    reply_ids: tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """An input and what the reference made of it: the input of the next component."""

    name: str
    kind: str
    samples_T: Float32 | None
    mel_MF: Float32
    vectors_SD: Float32
    questions: tuple[Question, ...]


def sounds(asked: str, spec: ModelSpec) -> list[Sound]:
    """What ``--inputs`` names: ``real``, ``random``, both with a comma between them, or a recording.

    Raises:
        UserError: an unknown word, or a recording that cannot be read.
    """
    words = [word.strip() for word in asked.split(",")]
    if set(words) <= {REAL, RANDOM}:
        found = [*(_real(spec) if REAL in words else ()), *(_random(spec) if RANDOM in words else ())]
    elif os.path.exists(asked):
        found = _windows(asked, spec)
    else:
        raise UserError(f"inputs '{asked}': no such file; known: {REAL}, {RANDOM}, {REAL},{RANDOM}, or a recording")
    return found


def prepare(reference: Loaded, heard: Sequence[Sound]) -> list[Case]:
    """Features, speech vectors and replies of the reference.

    Raises:
        UserError: the model has no task whose prompt could be asked.
    """
    backend, spec = reference.backend, reference.backend.spec
    asked = questions(reference) if speaks(reference) else []
    vocabulary = backend.start(1).extend([backend.embed([spec.eos_id])]).shape[1] if asked else 0
    random = np.random.default_rng(SEED)
    cases: list[Case] = []
    for sound in heard:
        mel_MF = sound.mel_MF if sound.mel_MF is not None else features(spec, sound.samples_T)
        vectors_SD = backend.encode([mel_MF])[0].vectors_SD
        answered = []
        for question in asked:
            if sound.kind == RANDOM:
                # each longer than the one before: in a batch rows must leave, and others take their place
                room = spec.max_tokens - len(question.before_ids) - len(vectors_SD) - 2 - len(question.after_ids)
                size = max(1, min(room, RANDOM_REPLY_TOKENS + 4 * len(cases)))
                ids = tuple(random.integers(0, vocabulary, size).tolist())
            else:
                ids = said(reference, question, vectors_SD)
            answered.append(replace(question, reply_ids=ids))
        cases.append(Case(sound.name, sound.kind, sound.samples_T, mel_MF, vectors_SD, tuple(answered)))
    return cases


def features(spec: ModelSpec, samples_T: Float32 | None) -> Float32:
    """Features [M, F] as the model wants them."""
    if samples_T is None:
        raise ValueError("this input has no waveform")
    return front_end.compute(spec.front_end, samples_T, num_mels=spec.num_mels)


def questions(model: Loaded) -> list[Question]:
    """What is asked: the transcript, or the model's first task; and a translation, if it translates."""
    spec = model.backend.spec
    usual = "asr" if "asr" in spec.tasks else next(iter(spec.tasks), "")
    if not usual:
        raise UserError(f"model '{spec.name}' knows no task, so nothing can be asked of it; train it first")
    if "ast" not in spec.tasks or usual == "ast":
        return [ask(model, usual)]
    into = [code for code in family_of(spec).into if code != "en"]
    return [ask(model, usual), ask(model, "ast", "de" if "de" in into else next(iter(into), ""))]


def ask(model: Loaded, task: str, into: str = "") -> Question:
    """The prompt for a task, without a reply yet.

    Raises:
        UserError: the model cannot be asked for it.
    """
    spec = model.backend.spec
    told = family_of(spec).told(fit(request([task], Options(into=into or None)), spec))
    before, after = (
        tuple(token for piece in pieces for token in model.tokenizer.encode(piece, add_special_tokens=False).ids)
        for pieces in (told.before, told.after)
    )
    return Question(f"{task} into {into}" if into else task, task, into, before, after, ())


def said(model: Loaded, question: Question, vectors_SD: Float32, limit: int = MAX_REPLY_TOKENS) -> tuple[int, ...]:
    """The model's greedy reply to speech vectors, with the end token if it came within `limit`."""
    prompt = Prompt(question.before_ids, vectors_SD, question.after_ids)
    penalty = family_of(model.backend.spec).repetition_penalty
    [reply] = decode(model.backend, [prompt], max_new_tokens=limit, repetition_penalty=penalty)
    return (*reply.ids, model.backend.spec.eos_id) if reply.ended else reply.ids


def speaks(model: Loaded) -> bool:
    """Whether the model holds its decoder; a static bundle may be of the encoder alone."""
    folder = Path(model.source)
    graphs = bundle.read_graphs(folder) if (folder / bundle.RECORD).is_file() else ()
    return not graphs or any(graph.component == "decoder" for graph in graphs)


def _real(spec: ModelSpec) -> list[Sound]:
    single = {path.stem: load(path) for path in sorted(SOUNDS.glob("*.flac"))}
    most = int(min(MAX_JOINED_S, spec.max_window_s) * SAMPLE_RATE_HZ)
    fitting = {name: samples_T[:most] for name, samples_T in single.items()}
    joined_T = np.concatenate([*single.values(), *single.values()])[:most]
    return [Sound(name, REAL, samples_T) for name, samples_T in {**fitting, "joined": joined_T}.items()]


def _random(spec: ModelSpec) -> list[Sound]:
    random = np.random.default_rng(SEED)
    found = []
    for seconds in _RANDOM_S:
        silence_T = np.zeros(int(min(seconds, spec.max_window_s) * SAMPLE_RATE_HZ), np.float32)
        template_MF = features(spec, silence_T)
        mel_MF = random.standard_normal(template_MF.shape).astype(np.float32)
        if spec.front_end.endswith("-mask"):
            mel_MF[-1] = template_MF[-1]
        found.append(Sound(f"random-{seconds:g}s", RANDOM, mel_MF=mel_MF))
    return found


def _windows(path: str, spec: ModelSpec) -> list[Sound]:
    windows = cut(open_recording(path).blocks(), limit_s=spec.max_window_s, overlap_s=min(1.0, spec.max_window_s / 6))
    found = [
        Sound(f"{Path(path).stem.replace(' ', '_')}-{window.start_s:g}s", REAL, window.samples_T)
        for window in islice(windows, MAX_WINDOWS)
    ]
    if not found:
        raise UserError(f"inputs {path}: no speech was found in it; give a recording of speech")
    return found
