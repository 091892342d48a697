"""Model folders of the Hugging Face hub that we run through transformers: which they are, and what they can do.

No torch and no transformers: what a folder is, its small files say.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhiyin.errors import UserError
from zhiyin.runtime.base import ModelSpec
from zhiyin.tasks import families

CONFIG, GENERATION, ADAPTER = "config.json", "generation_config.json", "adapter_config.json"
# The longest prompt and reply together. 30 s of fast speech with a mark after every word are some 2,000 tokens; a
# model that repeats itself must not go on for the tens of thousands that some of them can remember.
MAX_TOKENS = 4096


@dataclass(frozen=True)
class Kind:
    """What is known of the models of one `model_type`, beyond what their files say.

    Attributes:
        model_type: as `config.json` names it.
        family: prompts and replies, a name of `tasks.families`, which also says what it can do in which languages.
        architecture: class of transformers.
        front_end: a name of `audio.front_end`.
        rows: where `config.json` says how many mel bins (of `granite`: rows) the encoder takes.
        default_rows: how many where it does not say it, as in its configuration class.
        extra_rows: rows that our features have beside those, e.g. a mask.
        stacked: frames in a column, each with that many mel bins.
        frames_per_vector: columns of the features per speech vector.
        max_window_s: longest audio at once: the cut is made where it is quiet, so short windows lose little, and a
            batch of them needs little memory.
        licence: of the published weights.
    """

    model_type: str
    family: str
    architecture: str
    front_end: str
    rows: tuple[str, ...]
    default_rows: int
    frames_per_vector: int
    max_window_s: float = 30.0
    extra_rows: int = 0
    stacked: int = 1
    licence: str = "Apache-2.0"


# Sources: the configuration classes of transformers 5.23; the model cards of ibm-granite/granite-speech-4.1-2b and
# -plus. Granite allows 9 minutes at once (5 with word times); its makers' own program cuts to 30 s as we do.
KINDS = (
    Kind(
        model_type="granite_speech",
        family="granite-speech",
        architecture="GraniteSpeechForConditionalGeneration",
        front_end="granite",
        rows=("encoder_config", "input_dim"),
        default_rows=160,
        frames_per_vector=5,
    ),
    Kind(
        model_type="granite_speech_plus",
        family="granite-speech-plus",
        architecture="GraniteSpeechPlusForConditionalGeneration",
        front_end="granite",
        rows=("encoder_config", "input_dim"),
        default_rows=160,
        frames_per_vector=5,
    ),
    Kind(
        model_type="fun_asr_nano",
        family="fun-asr-nano",
        architecture="FunAsrNanoForConditionalGeneration",
        front_end="kaldi-lfr",
        rows=("audio_config", "num_mel_bins"),
        default_rows=80,
        stacked=7,
        frames_per_vector=1,
        licence="",  # the makers' repository names none for the weights
    ),
    Kind(
        model_type="qwen3_asr",
        family="qwen3-asr",
        architecture="Qwen3ASRForConditionalGeneration",
        front_end="qwen3-asr",
        rows=("audio_config", "num_mel_bins"),
        default_rows=128,
        frames_per_vector=8,
    ),
    Kind(
        model_type="qwen2_audio",
        family="qwen2-audio",
        architecture="Qwen2AudioForConditionalGeneration",
        front_end="whisper-30s-mask",
        rows=("audio_config", "num_mel_bins"),
        default_rows=128,
        extra_rows=1,
        frames_per_vector=4,
    ),
    Kind(
        model_type="voxtral",
        family="voxtral",
        architecture="VoxtralForConditionalGeneration",
        front_end="whisper-30s",
        rows=("audio_config", "num_mel_bins"),
        default_rows=128,
        frames_per_vector=8,
    ),
)


def is_hf(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a model of the hub, known to us or not, by its `config.json`."""
    try:
        record = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and isinstance(record.get("model_type"), str)


def read(folder: Path) -> tuple[Kind, ModelSpec, dict[str, Any]]:
    """What a folder is: its kind, its spec in the number format of the file, and `config.json`.

    Raises:
        UserError: a file is missing or damaged, or the model is none that we run.
    """
    where = f"model {folder}"
    config = _json(folder / CONFIG, where)
    known = {kind.model_type: kind for kind in KINDS}
    if config.get("model_type") not in known:
        raise UserError(
            f"{where}: {CONFIG} says model_type '{config.get('model_type')}', which this version does not run; "
            f"it runs: {' '.join(known)}; speech models of OSUM are converted first (zhiyin convert)"
        )
    kind = known[config["model_type"]]
    text, family = config.get("text_config") or {}, families.find(kind.family)
    spec = ModelSpec(
        name=folder.resolve().name,
        family=kind.family,
        tasks=family.tasks,
        eos_id=end_ids(folder, config)[0],
        languages=family.hears or tuple(family.languages),
        can_follow_instructions=family.can_follow_instructions,
        front_end=kind.front_end,
        num_mels=_rows(config, kind, where) * kind.stacked + kind.extra_rows,
        frames_per_vector=kind.frames_per_vector,
        max_window_s=kind.max_window_s,
        max_tokens=min(int(text.get("max_position_embeddings") or MAX_TOKENS), MAX_TOKENS),
        precision=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
        licence=kind.licence,
        extra={"model_type": kind.model_type},
    )
    return kind, spec, config


def vocabulary(config: dict[str, Any]) -> int:
    """Rows of the embedding table."""
    return int((config.get("text_config") or {}).get("vocab_size") or config.get("vocab_size") or 0)


def end_ids(folder: Path, config: dict[str, Any]) -> tuple[int, ...]:
    """The tokens that end a reply, the first of them for all.

    Raises:
        UserError: neither the generation settings nor `config.json` name one.
    """
    path = folder / GENERATION
    places = [_json(path, f"model {folder}") if path.is_file() else {}, config, config.get("text_config") or {}]
    for place in places:
        found = place.get("eos_token_id")
        ids = tuple(found) if isinstance(found, list) else (found,)
        if ids and all(isinstance(token, int) and token >= 0 for token in ids):
            return ids
    raise UserError(f"model {folder}: neither {GENERATION} nor {CONFIG} says eos_token_id; copy the whole model again")


def _rows(config: dict[str, Any], kind: Kind, where: str) -> int:
    value: Any = config
    for name in kind.rows:
        value = value.get(name, {}) if isinstance(value, dict) else None
    rows = kind.default_rows if value == {} else value
    if not isinstance(rows, int) or rows < 1:
        raise UserError(f"{where}: {CONFIG}: {'.'.join(kind.rows)} is {rows!r}; a number of mel bins was expected")
    return rows


def _json(path: Path, where: str) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: {path.name} is damaged or missing ({error}); copy the model again") from error
    if not isinstance(record, dict):
        raise UserError(f"{where}: {path.name} is no table of settings; copy the model again")
    return record
