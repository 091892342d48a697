"""From a stage file and a speech pack to a checkpoint: everything `zhiyin train` does, in order."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from zhiyin.data import cache, prepare
from zhiyin.data import tokenizer as tokenizers
from zhiyin.data.loader import Loader
from zhiyin.data.manifest import Record
from zhiyin.errors import UserError
from zhiyin.model import checkpoint, files
from zhiyin.model.config import ModelConfig
from zhiyin.model.speech_lm import SpeechLM
from zhiyin.runtime.device import choose
from zhiyin.runtime.eager import ENGINE, devices
from zhiyin.tasks import prompts, render, table
from zhiyin.tasks.table import Task
from zhiyin.train import loop, stages
from zhiyin.train.quick import QuickEvaluation
from zhiyin.train.stages import ModelSection, Stage

FAMILY = "zhiyin"  # whose prompts and replies training renders


def run(
    stage_file: Path,
    pack: Path,
    folder: Path,
    *,
    start: Path | None,
    device: str,
    threads: int | None,
    note: str,
    report: Callable[[str], None],
) -> Path:
    """Train a stage in `folder`, or go on where it stopped.

    Args:
        stage_file: TOML settings, see `train.stages`.
        pack: folder of the speech pack.
        folder: the run folder; everything that is made goes here.
        start: checkpoint whose weights and tokenizer a new run begins with; by default random weights.
        device: see `runtime.device.choose`.
        threads: of torch; by default its own choice.
        note: what `runtime.device.before_torch` said.
        report: is given a line now and then.

    Returns:
        The folder of the finished checkpoint.

    Raises:
        UserError: a setting, the data, the device or the run folder does not fit.
    """
    stage = stages.read(stage_file)
    chosen = choose(device, devices(), engine=ENGINE, note=note)
    report(f"device: {chosen}")
    device = chosen.name
    loop.check_format(stage.optimizer, device)
    if threads:
        torch.set_num_threads(threads)
    loop.write_settings(folder, stage)
    material = prepare.pocket(pack, folder / "data")
    report(f"records: {len(material.train)} train, {len(material.dev)} dev")
    tasks = table.with_labels([task for task in table.TASKS if task.id in stage.spec.tasks], stage.spec.labels)
    if start is not None and not (folder / "tokenizer.json").exists():
        (folder / "tokenizer.json").write_bytes((start / "tokenizer.json").read_bytes())
    tokenizer = _tokenizer(folder / "tokenizer.json", stage, material.train, tasks)
    model = begin(stage, tokenizer, start)
    if stage.mix.voice_only_share and model.config.projector.voice_mels is None:
        raise UserError("mix: voice_only_share needs a model with a voice vector; set model.projector.voice_mels")
    num_mels = model.config.encoder.num_mels
    features = cache.build(folder / "features", material.train, stage.loader.speeds, num_mels=num_mels)
    dev_features = cache.build(folder / "features", material.dev, (1.0,), num_mels=num_mels)
    report(
        f"parameters: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M, vocabulary {tokenizer.get_vocab_size()}"
    )
    loader = Loader(
        material.train,
        features,
        tokenizer,
        stage.spec.labels,
        stage.loader,
        stage.mix,
        stage.augment,
        eos_id=model.config.eos_id,
        time_step_s=stage.tokenizer.time_step_s,
        seed=stage.run.seed,
    )
    evaluate = QuickEvaluation(material.dev, dev_features, tokenizer, tasks, device=device, bf16=stage.optimizer.bf16)
    model = loop.train(model, loader, stage, folder, device=device, evaluate=evaluate, report=report)
    out = folder / "checkpoint"
    tokenizer_json = (folder / "tokenizer.json").read_text(encoding="utf-8")
    dtype = getattr(torch, stage.run.stored_dtype)
    checkpoint.save(out, model, spec_record(stage, model.config), tokenizer_json, dtype=dtype)
    return out


def begin(stage: Stage, tokenizer: Tokenizer, start: Path | None) -> SpeechLM:
    """The model a run begins with: random weights, or those of a checkpoint.

    Raises:
        UserError: neither the stage nor a checkpoint says the sizes, or the two differ.
    """
    if stage.model is None and start is None:
        raise UserError("the stage has no [model]: give a checkpoint to begin with (--from), e.g. one of zhiyin init")
    if stage.model is None:
        assert start is not None
        config = files.read_config(start)[0]
        if config.family != FAMILY:
            raise UserError(
                f"starting from {start}: its family is '{config.family}'; training speaks '{FAMILY}' only:"
                f" make it with zhiyin init --family {FAMILY}"
            )
        if not stage.fresh:
            return checkpoint.load(start)[0]
    else:
        config = sizes(stage.model, tokenizer)
    model = build(config, stage.run.seed)
    if start is not None:
        start_from(model, start, stage.fresh)
    return model


def sizes(section: ModelSection, tokenizer: Tokenizer) -> ModelConfig:
    """The sizes of a stage; the tokenizer says how many tokens there are."""
    return ModelConfig(
        encoder=section.encoder,
        projector=section.projector,
        decoder=replace(section.decoder, vocab_size=tokenizer.get_vocab_size()),
        ctc=section.ctc,
        eos_id=tokenizer.get_vocab()[tokenizers.EOS],
    )


def build(config: ModelConfig, seed: int) -> SpeechLM:
    """A freshly initialised model."""
    torch.manual_seed(seed)
    model = SpeechLM(config)
    # a tied embedding is also the output layer: unit variance there would start with logits of width**0.5
    torch.nn.init.normal_(model.decoder.embed_tokens.weight, std=config.decoder.width**-0.5)
    torch.nn.init.normal_(model.markers, std=config.decoder.width**-0.5)
    return model


def start_from(model: SpeechLM, folder: Path, fresh: Sequence[str] = ()) -> None:
    """Give a model the weights of a checkpoint of the same sizes, but for the parts named in `fresh`.

    Raises:
        UserError: the checkpoint is damaged, or its sizes are others than the stage's.
    """
    own = {n: value for n, value in model.state_dict().items() if n.startswith(tuple(f"{part}." for part in fresh))}
    weights = {**checkpoint.load(folder)[0].state_dict(), **own}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise UserError(f"starting from {folder}: its sizes are not the stage's ({first}); copy them there") from error


def spec_record(stage: Stage, config: ModelConfig) -> dict[str, object]:
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
        "min_confidence": spec.min_confidence,
        "can_follow_instructions": stage.mix.plain_share > 0,
        "licence": spec.licence,
    }


def _tokenizer(path: Path, stage: Stage, records: Sequence[Record], tasks: Sequence[Task]) -> Tokenizer:
    if not path.exists():
        texts = [text for r in records for text in (r.text, r.answer, r.translation) if text]
        for language in ("en", "zh"):
            for task in tasks:
                texts += prompts.instructions((task,), language, "train")
            texts += prompts.unfit(language, "train")
        labels = dict.fromkeys(f"<{label}>" for task in tasks for label in task.labels)
        marks = [*(task.tag for task in tasks), "<none>", render.ANSWER_MARK, render.TRANSLATION_MARK, *labels]
        section = stage.tokenizer
        trained = tokenizers.train(
            texts,
            list(dict.fromkeys(marks)),
            num_pieces=section.num_pieces,
            max_time_s=section.max_time_s,
            time_step_s=section.time_step_s,
        )
        trained.save(str(path))
    return Tokenizer.from_file(str(path))
