"""The protocol every backend speaks, and what is known of a model before it runs.

Shapes: `M` mel bins, `F` mel frames, `S` speech vectors, `D` decoder width, `V` vocabulary, `T` encoder frames.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zhiyin.audio import front_end
from zhiyin.config import build
from zhiyin.errors import UserError

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

FRAMES_PER_S = 100  # mel frames of 10 ms, of the front end `whisper`


@dataclass(frozen=True)
class Device:
    """Where a backend runs and why it was chosen, e.g. ``Device("cpu", "auto: no other device")``."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


@dataclass(frozen=True)
class ModelSpec:
    """What a bundle or checkpoint says of itself (`bundle.json`, or the checkpoint's `config.json`).

    Attributes:
        name: shown to users, e.g. ``pocket``.
        family: prompt and reply dialect: ``zhiyin``, ``osum``, ``osum-pangu``.
        tasks: task ids the model can do.
        labels: task id -> label set of this model, where it differs from the table.
        languages: ISO codes.
        front_end: how samples become features, a name of `audio.front_end`.
        num_mels: rows of the features it wants.
        frames_per_vector: feature frames per speech vector.
        max_window_s: longest audio it sees at once.
        max_tokens: places in the decoder's key/value cache (prompt, speech and reply together).
        eos_id: token that ends a reply.
        time_step_s: resolution of its word times.
        ctc_transcript: the transcript is read from the CTC head, and only the rest from the decoder.
        label_vectors: the decoder is asked for labels with the first so many speech vectors alone, which say how the
            whole utterance sounds (`model.projector.Voice`, `Pace`); 0: with all of them.
        request_alone: what a request in plain language wants is asked once, without the recording.
        min_confidence: a transcript from the CTC head that is less probable than this is cut: it is of words the model
            does not know, or of no words.
        can_follow_instructions: whether plain-language requests are understood.
        precision: ``float32``, ``float16`` or ``int8`` of the weights.
        licence: of the weights.
        extra: free facts for `zhiyin info` (parameters, revision, figures).
    """

    name: str
    family: str
    tasks: tuple[str, ...]
    eos_id: int
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    languages: tuple[str, ...] = ()
    front_end: str = "whisper"
    num_mels: int = 80
    frames_per_vector: int = 8
    max_window_s: float = 15.0
    max_tokens: int = 512
    time_step_s: float = 0.01
    ctc_transcript: bool = False
    label_vectors: int = 0
    request_alone: bool = False
    min_confidence: float = 0.0
    can_follow_instructions: bool = False
    precision: str = "float32"
    licence: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def frames_per_s(self) -> float:
        """Feature frames per second of audio."""
        return front_end.find(self.front_end).frames_per_s

    @property
    def max_frames(self) -> int:
        """The most feature frames the encoder takes at once."""
        return round(self.max_window_s * self.frames_per_s)

    def check_mel(self, mel_MF: Float32) -> None:
        """Refuse features the encoder was not made for; windows are cut before this.

        Raises:
            ValueError: another number of mel bins, no frame, or more than `max_frames`.
        """
        if mel_MF.ndim != 2 or len(mel_MF) != self.num_mels or not 1 <= mel_MF.shape[1] <= self.max_frames:
            allowed = f"[{self.num_mels}, 1 to {self.max_frames}]"
            raise ValueError(f"features of shape {list(mel_MF.shape)}: model '{self.name}' takes {allowed}")

    def to_record(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any], where: str) -> "ModelSpec":
        """Read `to_record`'s dictionary.

        Raises:
            UserError: a field is unknown, missing or of another type; `where` says in which file.
        """
        fields = dict(record)
        extra = fields.pop("extra", {})
        if not isinstance(extra, dict):
            raise UserError(f"{where}: extra: a table was expected, got {extra!r}")
        spec = dataclasses.replace(build(cls, fields, where), extra=extra)
        try:
            front_end.find(spec.front_end)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        return spec


@dataclass(frozen=True)
class Encoded:
    """One utterance after encoder and projector."""

    vectors_SD: Float32
    ctc_TV: Float32 | None = None  # logits of the CTC head, where the model has one


class Session(Protocol):
    """One running generation: a batch of sequences and their key/value cache."""

    def extend(self, embeds: Sequence[Float32]) -> Float32:
        """Add embeddings [n, D] to each sequence (rows may differ in n); logits [B, V] after each one's last.

        Raises:
            ValueError: a sequence would get longer than the cache.
        """
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these sequences only, in this order; the others are finished."""
        ...


class Backend(Protocol):
    """Runs a model's components; knows nothing of tasks, files or text."""

    name: str
    device: Device
    spec: ModelSpec

    def encode(self, mels: Sequence[Float32]) -> list[Encoded]:
        """Encoder and projector (and CTC head) on features [M, F] of any lengths."""
        ...

    def embed(self, ids: Sequence[int]) -> Float32:
        """Token embeddings [n, D]."""
        ...

    @property
    def markers(self) -> Float32:
        """The begin and end of speech vectors [2, D]."""
        ...

    def start(self, batch: int) -> Session:
        """An empty cache for `batch` sequences."""
        ...
