"""From a stage file and its data to a checkpoint: everything `zhiyin train` does, in order."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from zhiyin.data import cache, examples, prepare, sources
from zhiyin.data import tokenizer as tokenizers
from zhiyin.data.loader import Loader
from zhiyin.data.manifest import Record
from zhiyin.data.sources import Corpus, Source
from zhiyin.errors import UserError
from zhiyin.model import checkpoint, files, lora
from zhiyin.model.config import ModelConfig
from zhiyin.model.speech_lm import SpeechLM
from zhiyin.runtime.device import chip, choose
from zhiyin.runtime.eager import ENGINE, devices
from zhiyin.tasks import instructions, render, table
from zhiyin.tasks.table import Task
from zhiyin.train import about, loop, processes, stages, storing
from zhiyin.train.processes import Processes
from zhiyin.train.quick import QuickEvaluation
from zhiyin.train.stages import ModelSection, Stage

FAMILY = "zhiyin"  # whose prompts and replies training renders


@dataclass(frozen=True)
class Inputs:
    """What a run is given beside its stage file.

    Attributes:
        pack: folder of the speech pack.
        train: manifests and shards beside those of the stage file.
        dev: the same, to be looked at while training.
        start: checkpoint whose weights and tokenizer a new run begins with; by default random weights.
        parts: pairs of a part, e.g. "decoder", and another checkpoint with the same tokenizer that it comes from.
    """

    pack: Path | None = None
    train: tuple[Source, ...] = ()
    dev: tuple[Source, ...] = ()
    start: Path | None = None
    parts: tuple[tuple[str, Path], ...] = ()


def run(
    stage_file: Path,
    folder: Path,
    inputs: Inputs,
    *,
    device: str,
    threads: int | None,
    note: str,
    report: Callable[[str], None],
) -> Path:
    """Train a stage in `folder`, or go on where it stopped.

    Args:
        stage_file: TOML settings, see `train.stages`.
        folder: the run folder; everything that is made goes here.
        inputs: data and checkpoint to begin with.
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
    loop.check_format(stage.optimizer, chosen.name)
    if threads:
        torch.set_num_threads(threads)
    team = processes.join(chosen.name)
    say = report if team.is_first else _silent
    several = f", {team.count} processes" if team.count > 1 else ""
    say(f"device: {chosen}{several}")
    if not team.is_first:
        team.wait()  # until the first one has prepared what all read
    prepared = _prepare(stage, stage_file.parent, folder, inputs, team, say)
    if team.is_first:
        where = f"{team.device} {chip(team.device)}".strip()
        parts = {"train": prepared.train.parts, "dev": prepared.dev.parts}
        started = str(inputs.start or "")
        for change in about.write(folder, stage, **parts, device=where, processes=team.count, start=started):
            say(f"note: {change}")
        team.wait()
    model = loop.train(
        prepared.model,
        prepared.loader,
        stage,
        folder,
        device=team.device,
        evaluate=prepared.evaluate,
        report=say,
        processes=team,
    )
    if team.is_first:
        storing.store(model, stage, folder, inputs.start, prepared.loader)
    team.wait()
    team.leave()
    return folder / storing.CHECKPOINT


@dataclass(frozen=True)
class _Prepared:
    train: Corpus
    dev: Corpus
    model: SpeechLM
    loader: Loader
    evaluate: QuickEvaluation


def _prepare(
    stage: Stage, beside: Path, folder: Path, inputs: Inputs, team: Processes, say: Callable[[str], None]
) -> _Prepared:
    """Data, tokenizer, model and features; the same in every process."""
    folder.mkdir(parents=True, exist_ok=True)
    train, dev = _corpora(stage, beside, folder, inputs)
    say(f"records: {len(train.records)} train, {len(dev.records)} dev")
    tasks = table.with_labels([task for task in table.TASKS if task.id in stage.spec.tasks], stage.spec.labels)
    if inputs.start is not None and "tokenizer" not in stage.fresh and not (folder / files.TOKENIZER).exists():
        _copy(inputs.start / files.TOKENIZER, folder / files.TOKENIZER)
    tokenizer = _tokenizer(folder / files.TOKENIZER, stage, train.records, tasks)
    model = begin(stage, tokenizer, inputs.start)
    for part, source in inputs.parts:
        take(model, part, source, tokenizer)
        say(f"{part}: from {source}")
    if stage.lora is not None:
        adapted = lora.attach(model, stage.lora)
        say(f"adapters on {len(adapted)} layers, {adapted[0]} to {adapted[-1]}")
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    say(f"parameters: {count:.2f} M, vocabulary {tokenizer.get_vocab_size()}")
    features, dev_features = (
        _features(stage, folder, corpus, speeds, model.config.encoder.num_mels, variants, team, say)
        for corpus, speeds, variants in (
            (train, stage.loader.speeds, stage.loader.variants),
            (dev, (1.0,), 0),
        )
    )
    loader = Loader(
        train.records,
        features,
        tokenizer,
        stage.spec.labels,
        stage.loader,
        stage.mix,
        stage.augment,
        eos_id=model.config.eos_id,
        time_step_s=stage.tokenizer.time_step_s,
        seed=stage.run.seed,
        weights=train.weights,
        tasks=stage.spec.tasks if stage.loader.text_share else (),
        ctc_transcript=stage.spec.ctc_transcript,
    )
    sets = {task.id: task.labels for task in table.with_labels(table.TASKS, stage.spec.labels) if task.labels}
    sources.check([record for record, odd in zip(loader.records, loader.odds, strict=True) if odd], sets)
    asked = tasks if stage.loader.text_share else ()
    evaluate = QuickEvaluation(
        dev.records if dev_features is not None else (),
        dev_features,
        tokenizer,
        tasks,
        asked=asked,
        told=examples.to_answer(dev.records) if asked and stage.spec.ctc_transcript else (),
        label_vectors=stage.spec.label_vectors,
        device=team.device,
        bf16=stage.optimizer.bf16,
    )
    return _Prepared(train, dev, model, loader, evaluate)


def _check_whole(stage: Stage, config: ModelConfig) -> None:
    """Refuse settings that speak of vectors which the model does not have."""
    there, asked = config.projector.whole_vectors, stage.spec.label_vectors
    wanted = [f"spec: label_vectors is {asked}"] if asked > there else []
    if not there:
        wanted += ["mix: voice_only_share is above 0"] if stage.mix.voice_only_share else []
        wanted += ["optimizer: voice_weight is above 0"] if stage.optimizer.voice_weight else []
    for setting in wanted:
        raise UserError(
            f"{setting}, and the model has {there} vectors of the whole utterance; set model.projector.voice_mels (one)"
            " and pace (one), or leave it out"
        )


def _corpora(stage: Stage, beside: Path, folder: Path, inputs: Inputs) -> tuple[Corpus, Corpus]:
    """What is trained on, and what is looked at."""
    here = Path.cwd()
    train = sources.read(stage.data.manifests, beside).joined(sources.read(inputs.train, here))
    dev = sources.read(stage.data.dev, beside).joined(sources.read(inputs.dev, here))
    if inputs.pack is not None:
        material = prepare.pocket(inputs.pack, folder / "data")
        train = sources.of_records(material.train, str(inputs.pack)).joined(train)
        dev = sources.of_records(material.dev, str(inputs.pack)).joined(dev)
    if not train.records and stage.loader.text_share < 1:
        raise UserError(
            "training: no data; give --data FILE.jsonl or --pack DIR, or name manifests under [data] in the stage"
        )
    if stage.run.dev_records:
        step = max(1, len(dev.records) // stage.run.dev_records)
        dev = replace(dev, records=dev.records[::step])
    return train, dev


def _features(
    stage: Stage,
    folder: Path,
    corpus: Corpus,
    speeds: Sequence[float],
    num_mels: int,
    variants: int,
    team: Processes,
    say: Callable[[str], None],
) -> cache.Features | None:
    if stage.loader.text_share == 1 or not corpus.records:
        return None
    if not stage.loader.keep_features:
        return cache.LiveFeatures({r.id: r for r in corpus.records}, num_mels, corpus.stored, stage.wave)
    return cache.build(
        folder / "features",
        corpus.records,
        speeds,
        num_mels=num_mels,
        workers=max(2, os.cpu_count() or 2),
        stored=corpus.stored,
        wave=stage.wave,
        variants=variants,
        report=say,
    )


def _copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise UserError(f"starting from {source.parent}: it has no {source.name}; give a checkpoint of zhiyin")
    target.write_bytes(source.read_bytes())


def _silent(line: str) -> None:
    """What a process that is not the first one says."""


def begin(stage: Stage, tokenizer: Tokenizer, start: Path | None) -> SpeechLM:
    """The model a run begins with: random weights, or those of a checkpoint.

    Raises:
        UserError: neither the stage nor a checkpoint says the sizes, or the two differ, or a setting speaks of vectors
            that the model does not have.
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
    else:
        config = sizes(stage.model, tokenizer)
    _check_whole(stage, config)
    if stage.model is None and start is not None and not stage.fresh:
        return checkpoint.load(start)[0]
    if "tokenizer" in stage.fresh:
        config = replace(config, decoder=replace(config.decoder, vocab_size=tokenizer.get_vocab_size()))
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
    """Give a model the weights of a checkpoint, but for the parts named in `fresh`; the others have the same sizes.

    Raises:
        UserError: the checkpoint is damaged, or its sizes are others than the stage's.
    """
    theirs = checkpoint.load(folder)[0].state_dict()
    kept = {
        name: value for name, value in theirs.items() if not any(f"{name}.".startswith(f"{part}.") for part in fresh)
    }
    weights = {**model.state_dict(), **kept}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise UserError(f"starting from {folder}: its sizes are not the stage's ({first}); copy them there") from error


def take(model: SpeechLM, part: str, folder: Path, tokenizer: Tokenizer) -> None:
    """Give a part of a model the weights that it has in another checkpoint.

    Args:
        model: is changed.
        part: e.g. "decoder" or "projector.voice".
        folder: the other checkpoint.
        tokenizer: of the model.

    Raises:
        UserError: the checkpoint has another tokenizer, no such part, or that in other sizes.
    """
    where = f"taking {part} from {folder}"
    own = model.state_dict()
    theirs = {name: value for name, value in checkpoint.load(folder)[0].state_dict().items() if _is_of(name, part)}
    if not theirs or theirs.keys() != {name for name in own if _is_of(name, part)}:
        raise UserError(f"{where}: not both have that part, or not the same in it; parts: {' '.join(_parts(own))}")
    spoken = Tokenizer.from_file(str(folder / files.TOKENIZER)).get_vocab()
    if spoken != tokenizer.get_vocab():
        raise UserError(f"{where}: its tokenizer is another one; train both from one tokenizer.json")
    for name, value in theirs.items():
        if value.shape != own[name].shape:
            raise UserError(f"{where}: {name} is {tuple(value.shape)} there, and {tuple(own[name].shape)} here")
    model.load_state_dict(theirs, strict=False)


def _is_of(name: str, part: str) -> bool:
    return f"{name}.".startswith(f"{part}.")


def _parts(weights: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name.split(".")[0] for name in weights))


def _tokenizer(path: Path, stage: Stage, records: Sequence[Record], tasks: Sequence[Task]) -> Tokenizer:
    if not path.exists():
        texts = [text for r in records for text in (r.text, r.answer, r.translation, r.instruction) if text]
        known = {task.id for task in tasks}
        texts += [one.text for one in instructions.all("train") if set(one.tasks) <= known]
        labels = dict.fromkeys(f"<{label}>" for task in tasks for label in task.labels)
        marks = [*(task.tag for task in tasks), render.NO_TASK, render.ANSWER_MARK, render.TRANSLATION_MARK, *labels]
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
