"""The training loop, top to bottom: batches in, a run folder out; kill it at any time and call it again.

A run folder holds: `stage.json` (resolved settings), `run.json` (data, versions, revision of each start),
`tokenizer.json`, `state.pt` (model, optimizer, place), `weights/` (the last ones), `best.pt`, `metrics.jsonl`,
`curves.png`, and in the end `checkpoint/`. Every file is replaced at once or not at all.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from zhiyin.data.loader import FRAMES_PER_S, Batch, Loader, Place
from zhiyin.errors import UserError
from zhiyin.model import lora
from zhiyin.model.decoder import Layer
from zhiyin.model.encoder import Block
from zhiyin.model.speech_lm import Row, SpeechLM
from zhiyin.runtime.device import chip, has_bfloat16
from zhiyin.train import quick, saving
from zhiyin.train.log import Log
from zhiyin.train.processes import Processes, full_state, load_optimizer
from zhiyin.train.stages import OptimizerSection, Stage

Evaluate = Callable[[SpeechLM], dict[str, float]]


@dataclass(frozen=True)
class Losses:
    """One batch: the loss that is minimised and its parts, each per token."""

    total: Tensor
    lm: Tensor
    ctc: Tensor
    voice: Tensor


def losses(
    model: SpeechLM, batch: Batch, settings: OptimizerSection, device: str, weights_V: Tensor | None = None
) -> Losses:
    """Forward pass of one batch: language-model loss on the targets, CTC loss on the transcripts, and what is asked of
    the vectors of the whole utterance.

    A batch without audio has the language-model loss alone.
    """
    heard = batch.heard or ((),) * len(batch.prompts)
    rows = [Row(*ids) for ids in zip(batch.prompts, heard, batch.targets, strict=True)]
    lm_loss = partial(model.loss, label_smoothing=settings.label_smoothing, weights_V=weights_V)
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=settings.bf16):
        if batch.mel_BMF is None:
            lm, _ = lm_loss(model.assemble(None, rows))
            return _summed(settings, lm=lm)
        mel = torch.from_numpy(batch.mel_BMF).to(device)
        frames = torch.from_numpy(batch.frames_B).to(device)
        if settings.ctc_weight == 1.0 and model.config.ctc:
            encoded, lengths = model.encoder(mel, frames)
            return _summed(settings, ctc=model.ctc_loss(encoded, lengths, batch.transcripts))
        speech = model.listen(mel, frames)
        if batch.voice_only_B.any():
            speech = speech.voice_alone(torch.from_numpy(batch.voice_only_B).to(device))
        lm, _ = lm_loss(model.assemble(speech, rows))
        voice: Tensor | None = None
        ctc: Tensor | None = None
        if settings.voice_weight:
            voice = model.voice_loss(speech, batch.labels, label_smoothing=settings.label_smoothing)
        if model.config.ctc and settings.ctc_weight:
            ctc = model.ctc_loss(speech.encoded_BTE, speech.encoded_lengths_B, batch.transcripts)
    return _summed(settings, lm=lm, ctc=ctc, voice=voice)


def _summed(
    settings: OptimizerSection, *, lm: Tensor | None = None, ctc: Tensor | None = None, voice: Tensor | None = None
) -> Losses:
    """Parts by their weights; with CTC or language model alone, that one counts in full."""
    words = lm if ctc is None else ctc if lm is None else (1 - settings.ctc_weight) * lm + settings.ctc_weight * ctc
    assert words is not None
    none = words.new_zeros(())
    total = words if voice is None else words + settings.voice_weight * voice
    lm, ctc, voice = (none if part is None else part.detach() for part in (lm, ctc, voice))
    return Losses(total, lm, ctc, voice)


def rate_at(step: int, settings: OptimizerSection) -> float:
    """Learning rate at a step: linear warm-up, then cosine decay."""
    if step < settings.warmup_steps:
        return settings.peak_rate * (step + 1) / settings.warmup_steps
    done = min(1.0, (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps))
    share = settings.final_share + (1 - settings.final_share) * 0.5 * (1 + math.cos(math.pi * done))
    return settings.peak_rate * share


def train(
    model: SpeechLM,
    loader: Loader,
    stage: Stage,
    run: Path,
    *,
    device: str,
    evaluate: Evaluate | None = None,
    report: Callable[[str], None],
    processes: Processes | None = None,
) -> SpeechLM:
    """Train until `stage.optimizer.steps`, resuming from `run/state.pt` when it exists.

    Args:
        model: what the run begins with; where the stage has [lora], its adapters are attached.
        loader: its batches; of several processes each gets its own.
        stage: settings.
        run: folder of what is written.
        device: of this process.
        evaluate: dev figures of a model.
        report: is given a line now and then, by the first process.
        processes: this one and those beside it; by default it is alone.

    Returns:
        The model with the weights of the last saved states averaged; in processes other than the first, some model.

    Raises:
        UserError: the stage wants bfloat16 of a chip without it; the state in `run` belongs to another model; a loss
            is not finite (the record ids are named); a batch does not fit into the memory; the disk is full.
    """
    settings, team = stage.optimizer, processes or Processes(device)
    check_format(settings, device)
    model.train()
    if team.count == 1 or not settings.sharded:  # else each process takes its part only
        model.to(device)
    freeze(model, settings.train)
    saved = saving.read(run)
    if saved is not None:
        saving.put(saved, model, run)
    if settings.recompute:
        recompute(model)
    inside = team.wrap(model, sharded=settings.sharded)
    groups = _groups(inside, settings.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=settings.peak_rate, betas=(0.9, 0.98), fused=True)
    step, place = 0, Place()
    if saved is not None:
        load_optimizer(optimizer, saved.optimizer)
        step, place = saved.step, saved.place
    log = Log(run, report, tensorboard=stage.run.tensorboard, step=step) if team.is_first else None
    weights_V = _token_weights(model.config.decoder.vocab_size, loader.label_ids, settings.label_weight).to(device)
    loader.rank, loader.ranks = team.rank, team.count
    batches = loader.batches(place)
    started, seen_s = time.monotonic(), 0.0
    while step < settings.steps:
        taken = list(islice(batches, settings.accumulate))
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, settings)
        optimizer.zero_grad(set_to_none=True)
        parts, norm = _gradients(inside, [batch for batch, _ in taken], step, stage, device, weights_V, team)
        optimizer.step()
        step, place = step + 1, taken[-1][1]
        seen_s += sum(float(batch.frames_B.sum()) for batch, _ in taken) / FRAMES_PER_S
        if step % stage.run.log_every == 0:
            means = team.mean([*parts, seen_s * team.count / (time.monotonic() - started)])
            if log is not None:
                log.training(_row(step, means, norm, rate_at(step, settings)))
        if step % stage.run.save_every == 0 or step == settings.steps:
            saving.save(run, inside, optimizer, step, place, keep=stage.run.average_last, processes=team)
        if evaluate and (step % stage.run.evaluate_every == 0 or step == settings.steps):
            figures = inside(lambda whole: evaluate(whole.eval()))
            _set_modes(model.train(), settings.train)
            if log is not None:
                log.dev(step, figures)
            if figures:
                saving.keep_best(run, inside, step, quick.score(figures, stage.run.best_by), team)
    batches.close()
    return _finished(inside, model, stage, run, team, evaluate, log)


def _gradients(
    inside: nn.Module,
    batches: Sequence[Batch],
    step: int,
    stage: Stage,
    device: str,
    weights_V: Tensor,
    team: Processes,
) -> tuple[list[Tensor], float]:
    """Backward passes of a step, gradients clipped; the means of the losses, and the norm before clipping."""
    settings = stage.optimizer
    sums = [torch.zeros((), device=device) for _ in range(4)]
    for number, batch in enumerate(batches):
        # each batch has its own seed, so that a resumed run is the same run, and two processes are as one
        place = (step * len(batches) + number) * team.count + team.rank
        torch.manual_seed(stage.run.seed * 1_000_003 + place)
        work = partial(_parts, batch=batch, settings=settings, device=device, weights_V=weights_V)
        is_last = number + 1 == len(batches)
        quiet = contextlib.nullcontext() if is_last else team.quiet(inside)
        with quiet, _fitting(step, stage, device), _attention(settings, device):
            parts = inside(work)
            if not torch.isfinite(parts[0]):
                raise _not_finite("loss", step, _culprits(inside, batch, work, settings))
            (parts[0] / len(batches)).backward()
        sums = [total + part.detach() / len(batches) for total, part in zip(sums, parts, strict=True)]
    norm = nn.utils.clip_grad_norm_(inside.parameters(), settings.clip_norm)
    norm_value = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    if not math.isfinite(norm_value):
        raise _not_finite("gradient", step, [name for batch in batches for name in batch.ids])
    return sums, norm_value


def _attention(settings: OptimizerSection, device: str) -> AbstractContextManager[None]:
    """Plain attention where torch's fused one takes half again as long: bfloat16 on CPUs (docs/training.md)."""
    if settings.bf16 and torch.device(device).type == "cpu":
        return sdpa_kernel(SDPBackend.MATH)
    return contextlib.nullcontext()


def _parts(
    model: SpeechLM, *, batch: Batch, settings: OptimizerSection, device: str, weights_V: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    found = losses(model, batch, settings, device, weights_V)
    return found.total, found.lm, found.ctc, found.voice


def _row(step: int, means: Sequence[float], norm: float, rate: float) -> dict[str, float]:
    loss, lm_loss, ctc_loss, voice_loss, speed = means
    return {
        "step": step,
        "loss": round(loss, 4),
        "lm_loss": round(lm_loss, 4),
        "ctc_loss": round(ctc_loss, 4),
        "voice_loss": round(voice_loss, 4),
        "norm": round(norm, 3),
        "rate": rate,
        "audio_s_per_s": round(speed, 1),
    }


def _finished(
    inside: nn.Module,
    model: SpeechLM,
    stage: Stage,
    run: Path,
    team: Processes,
    evaluate: Evaluate | None,
    log: Log | None,
) -> SpeechLM:
    """The whole model, on one device, with the last weights averaged."""
    if team.count > 1 and stage.optimizer.sharded:
        state = full_state(inside)
        if team.is_first:
            model = SpeechLM(model.config)
            if stage.lora is not None:
                lora.attach(model, stage.lora)
            model.load_state_dict(state)
            model.to(team.device)
    if log is not None:
        saving.average(model, sorted((run / saving.WEIGHTS).glob("*.pt")))
        if evaluate is not None:
            log.dev(stage.optimizer.steps, evaluate(model.eval()), average=True)
        log.close()
    return model.eval()


def check_format(settings: OptimizerSection, device: str) -> None:
    """Refuse bfloat16 on a chip without it, before any work is done.

    Raises:
        UserError: names the chip and the setting.
    """
    if settings.bf16 and not has_bfloat16(device):
        called = f"{device} ({chip(device)})" if chip(device) else device
        raise UserError(f"training on {called}: it has no bfloat16; write bf16 = false under [optimizer] of the stage")


def freeze(model: SpeechLM, train: Sequence[str]) -> None:
    """Let only the parts named in `train` change, and adapters; the others run as in use, without dropout.

    None named: all change, or, where there are adapters, only these.

    Raises:
        UserError: a name is no part of the model.
    """
    names = [name for name, _ in model.named_parameters()]
    for part in train:
        if not any(_is_of(part, name) for name in names):
            known = " ".join(dict.fromkeys(name.split(".")[0] for name in names))
            raise UserError(f"optimizer: train names '{part}', which is no part of the model; its parts: {known}")
    if train or any(map(lora.is_adapter, names)):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(lora.is_adapter(name) or any(_is_of(part, name) for part in train))
    _set_modes(model, train)


def _set_modes(model: SpeechLM, train: Sequence[str]) -> None:
    """Parts that stay as they are run as in use; `model` is in training mode."""
    adapted = any(isinstance(module, lora.LoraLinear) for module in model.modules())
    if not train and not adapted:
        return
    for name, module in model.named_modules():
        if not any(_is_of(part, name) or part.startswith(f"{name}.") or not name for part in train) and name:
            module.train(isinstance(module, lora.LoraLinear))


def _is_of(part: str, name: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def recompute(model: SpeechLM) -> None:
    """Have every block keep only its input, and compute itself again for the gradient (Chen et al. 2016)."""
    for module in model.modules():
        if isinstance(module, Block | Layer):
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)  # type: ignore[method-assign]


def _token_weights(vocabulary: int, label_ids: Sequence[int], label_weight: float) -> Tensor:
    """Weight of each token of the vocabulary: a label is one token among many, and is often the whole answer."""
    weights = torch.ones(vocabulary)
    weights[list(label_ids)] = label_weight
    return weights


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    # norms, biases and vectors are not decayed, as usual for AdamW
    changing = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in changing if p.ndim >= 2]
    vectors = [p for p in changing if p.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _culprits(
    inside: nn.Module, batch: Batch, work: Callable[..., tuple[Tensor, ...]], settings: OptimizerSection
) -> list[str]:
    """Ids of the records that give no number by themselves; all of the batch where that cannot be told."""
    model = getattr(inside, "module", inside).model
    if settings.sharded:  # a forward pass of one process would wait for the others
        return list(batch.ids)
    with torch.no_grad():
        alone = [partial(work, batch=batch.only(row))(model)[0] for row in range(len(batch.ids))]
    return [name for name, loss in zip(batch.ids, alone, strict=True) if not torch.isfinite(loss)] or list(batch.ids)


def _not_finite(what: str, step: int, ids: Sequence[str]) -> UserError:
    more = f" and {len(ids) - 8} more" if len(ids) > 8 else ""
    return UserError(
        f"training step {step}: the {what} is not finite; records: {' '.join(ids[:8])}{more}; look at them with"
        " zhiyin data check, or write a lower peak_rate"
    )


@contextlib.contextmanager
def _fitting(step: int, stage: Stage, device: str) -> Iterator[None]:
    """Say what to try where a batch does not fit into the memory."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        line = str(error).splitlines()[0] if str(error) else "out of memory"
        if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError) and "memory" not in line:
            raise
        loader, settings = stage.loader, stage.optimizer
        smaller = f"batch_s = {loader.batch_s * 0.6:.0f} under [loader] (now {loader.batch_s:g})"
        more = "" if settings.recompute else ", or recompute = true under [optimizer]"
        raise UserError(
            f"training step {step}: a batch does not fit into the memory of {device} ({line[:120]}); write"
            f" {smaller}{more}, and give the same command again"
        ) from error
