"""What a finished run leaves: its checkpoints with all that a model says of itself, its adapters, its bigrams."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from zhiyin.data.loader import Loader
from zhiyin.model import checkpoint, files, lora
from zhiyin.model.config import ModelConfig
from zhiyin.model.speech_lm import SpeechLM
from zhiyin.text.bigram import Bigram
from zhiyin.train import saving
from zhiyin.train.stages import Stage

CHECKPOINT, BEST, ADAPTER = "checkpoint", "best", "adapter"


def store(model: SpeechLM, stage: Stage, folder: Path, start: Path | None, loader: Loader) -> None:
    """The finished checkpoint, that of the best dev figures, and the adapters, which the checkpoints hold merged."""
    tokenizer_json = (folder / files.TOKENIZER).read_text(encoding="utf-8")
    spec = _spec(stage, model.config)
    if stage.lora is not None:
        lora.save(folder / ADAPTER, model, stage.lora, str(start or ""))
    checkpoint.write(folder / CHECKPOINT, model.config, spec, tokenizer_json, _stored(model, stage))
    best = saving.best(folder)
    if best is not None:
        model.load_state_dict(best.weights, strict=False)
        checkpoint.write(folder / BEST, model.config, spec, tokenizer_json, _stored(model, stage))
    for name in (CHECKPOINT, BEST) if model.config.ctc else ():
        if (folder / name).exists():
            _write_bigram(folder / name / files.BIGRAM, loader, start)


def _write_bigram(path: Path, loader: Loader, start: Path | None) -> None:
    """What follows what in the transcripts; where there are none, that of the checkpoint the run began with."""
    texts = [record.text for record in loader.records if record.text]
    if texts:
        ids = (loader.tokenizer.encode(text, add_special_tokens=False).ids for text in texts)
        Bigram.learn(ids, loader.tokenizer.get_vocab_size()).save(path)
    elif start is not None and (start / files.BIGRAM).exists():
        path.write_bytes((start / files.BIGRAM).read_bytes())


def _stored(model: SpeechLM, stage: Stage) -> Iterator[tuple[str, Tensor]]:
    """Weights as they are stored; position tables keep their format."""
    dtype = getattr(torch, stage.run.stored_dtype)
    trained = {name for name, _ in model.named_parameters()}
    for name, tensor in lora.merged_tensors(model):
        yield name, tensor.to(dtype) if name in trained else tensor


def _spec(stage: Stage, config: ModelConfig) -> dict[str, object]:
    """The `spec` table of the checkpoint: what `runtime.base.ModelSpec` says of the model."""
    spec = stage.spec
    return {
        "name": spec.name,
        "family": config.family,
        "tasks": list(spec.tasks),
        "labels": {task: list(labels) for task, labels in spec.labels.items()},
        "languages": list(spec.languages),
        "max_window_s": spec.max_window_s,
        "max_tokens": spec.max_tokens,
        "time_step_s": stage.tokenizer.time_step_s,
        "ctc_transcript": spec.ctc_transcript,
        "label_vectors": spec.label_vectors,
        "request_alone": spec.request_alone,
        "min_confidence": spec.min_confidence,
        "can_follow_instructions": stage.mix.plain_share > 0,
        "licence": spec.licence,
    }
