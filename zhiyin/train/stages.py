"""A training stage is data: a TOML file read into these settings."""

from dataclasses import dataclass, field
from pathlib import Path

from zhiyin.config import read_toml
from zhiyin.data.augment import AugmentConfig
from zhiyin.data.augment_wave import WaveConfig
from zhiyin.data.examples import TaskMix
from zhiyin.data.loader import LoaderConfig
from zhiyin.data.sources import Source
from zhiyin.errors import UserError
from zhiyin.model.config import DecoderConfig, EncoderConfig, ProjectorConfig
from zhiyin.model.lora import LoraConfig


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
class DataSection:
    """Manifests and shards beside (or instead of) the speech pack; paths are relative to the stage file."""

    manifests: tuple[Source, ...] = ()
    dev: tuple[Source, ...] = ()  # looked at while training


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
    label_vectors: int = 0
    request_alone: bool = False
    min_confidence: float = 0.0
    licence: str = ""


@dataclass(frozen=True)
class OptimizerSection:
    """AdamW with linear warm-up and cosine decay to `final_share` of the peak.

    Attributes:
        steps: how often the weights change.
        accumulate: batches of each process behind a step; the loss is the mean over the batches.
        ctc_weight: share of the loss; 1 leaves the projector and the decoder as they are.
        label_weight: of a label in the language-model loss; a word piece has 1.
        voice_weight: of the loss that makes `model.projector.Voice` and `Pace` point to what is known of speaker and
            sound by themselves (`SpeechLM.voice_loss`); 0 leaves that to the decoder.
        train: parts that change, e.g. "decoder" or "projector.voice"; by default all, with [lora] only the adapters.
        bf16: compute in bfloat16; the weights that change stay float32.
        recompute: keep only what goes into each block, and compute the rest again for the gradient: less memory, a
            third more time.
        sharded: divide weights, gradients and optimizer among the processes (FSDP2); else each has all of them (DDP).
    """

    steps: int
    peak_rate: float = 1e-3
    warmup_steps: int = 300
    final_share: float = 0.02
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    ctc_weight: float = 0.5
    label_smoothing: float = 0.05
    label_weight: float = 1.0
    voice_weight: float = 0.0
    train: tuple[str, ...] = ()
    bf16: bool = True
    accumulate: int = 1
    recompute: bool = False
    sharded: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or self.accumulate < 1 or self.warmup_steps < 0:
            raise UserError(
                f"optimizer: steps {self.steps}, accumulate {self.accumulate}, warmup_steps {self.warmup_steps};"
                " the first two are at least 1, the last at least 0"
            )
        for name in ("ctc_weight", "label_smoothing", "final_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"optimizer: {name} is {getattr(self, name)}; it lies between 0 and 1")
        if not 0 <= self.voice_weight < float("inf"):
            raise UserError(f"optimizer: voice_weight is {self.voice_weight}; it must be at least 0")
        for name in ("peak_rate", "clip_norm", "label_weight"):
            if not getattr(self, name) > 0:
                raise UserError(f"optimizer: {name} is {getattr(self, name)}; it must be more than 0")


@dataclass(frozen=True)
class RunSection:
    """How often things are written, and what the run is seeded with.

    Attributes:
        seed: of everything.
        average_last: checkpoints averaged into the final weights; so many are kept.
        best_by: dev figure that says which weights are the best; by default the mean of all (`quick.score`).
        tensorboard: also write event files, where the package `tensorboard` is installed.
        stored_dtype: of the finished checkpoint.
    """

    seed: int = 1
    log_every: int = 20
    save_every: int = 200
    evaluate_every: int = 500
    dev_records: int = 300
    average_last: int = 5
    best_by: str = ""
    tensorboard: bool = True
    stored_dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("log_every", "save_every", "evaluate_every", "average_last"):
            if getattr(self, name) < 1:
                raise UserError(f"run: {name} is {getattr(self, name)}; at least 1")
        if self.stored_dtype not in ("float32", "float16", "bfloat16"):
            raise UserError(f"run: stored_dtype is '{self.stored_dtype}'; float32, float16 or bfloat16")


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
    augment: AugmentConfig = field(default_factory=AugmentConfig)  # of features, anew each time
    wave: WaveConfig = field(default_factory=WaveConfig)  # of samples, in the kept variants (loader.variants)
    data: DataSection = DataSection()
    lora: LoraConfig | None = None
    run: RunSection = RunSection()


def read(path: Path) -> Stage:
    """A stage from its TOML file.

    Raises:
        UserError: the file is missing, broken, or has a setting that does not exist.
    """
    return read_toml(path, Stage)
