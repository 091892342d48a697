"""A training stage is data: a TOML file read into these settings."""

from dataclasses import dataclass, field
from pathlib import Path

from zhiyin.config import read_toml
from zhiyin.data.augment import AugmentConfig
from zhiyin.data.examples import TaskMix
from zhiyin.data.loader import LoaderConfig
from zhiyin.model.config import DecoderConfig, EncoderConfig, ProjectorConfig


@dataclass(frozen=True)
class ModelSection:
    """Sizes of the network; the vocabulary size comes from the tokenizer."""

    encoder: EncoderConfig
    projector: ProjectorConfig
    decoder: DecoderConfig
    ctc: bool = True


@dataclass(frozen=True)
class TokenizerSection:
    """The tokenizer that is trained when the run begins."""

    num_pieces: int = 2400
    max_time_s: float = 15.0
    time_step_s: float = 0.04


@dataclass(frozen=True)
class SpecSection:
    """What the finished model says of itself (`runtime.base.ModelSpec`)."""

    name: str
    tasks: tuple[str, ...]
    languages: tuple[str, ...]
    labels: dict[str, tuple[str, ...]]
    max_window_s: float = 15.0
    max_tokens: int = 384
    ctc_transcript: bool = False
    min_confidence: float = 0.0
    licence: str = ""


@dataclass(frozen=True)
class OptimizerSection:
    """AdamW with linear warm-up and cosine decay to `final_share` of the peak."""

    steps: int
    peak_rate: float = 1e-3
    warmup_steps: int = 300
    final_share: float = 0.02
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    ctc_weight: float = 0.5  # share of the loss; 1 leaves the projector and the decoder as they are
    label_smoothing: float = 0.05
    label_weight: float = 1.0  # of a label in the language-model loss; a word piece has 1
    train: tuple[str, ...] = ()  # parts that change, e.g. "decoder" or "projector.voice"; by default all
    bf16: bool = True


@dataclass(frozen=True)
class RunSection:
    """How often things are written, and what the run is seeded with."""

    seed: int = 1
    log_every: int = 20
    save_every: int = 200
    evaluate_every: int = 500
    dev_records: int = 300
    average_last: int = 5  # checkpoints averaged into the final weights
    stored_dtype: str = "float32"  # of the finished checkpoint


@dataclass(frozen=True)
class Stage:
    """One stage of training."""

    spec: SpecSection
    optimizer: OptimizerSection
    model: ModelSection | None = None  # None: as the checkpoint the run starts from
    fresh: tuple[str, ...] = ()  # parts that begin with random weights although the run starts from a checkpoint
    tokenizer: TokenizerSection = TokenizerSection()
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    mix: TaskMix = field(default_factory=TaskMix)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    run: RunSection = RunSection()


def read(path: Path) -> Stage:
    """A stage from its TOML file.

    Raises:
        UserError: the file is missing, broken, or has a setting that does not exist.
    """
    return read_toml(path, Stage)
