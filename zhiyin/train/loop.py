"""The training loop, top to bottom: batches in, a run folder out; kill it at any time and call it again.

A run folder holds: `stage.json` (resolved settings), `tokenizer.json`, `state.pt` (model, optimizer, place; replaced
atomically), `metrics.jsonl`, `curves.png`, and in the end `checkpoint/`.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zhiyin.data.loader import Batch, Loader, Place
from zhiyin.errors import UserError
from zhiyin.model.speech_lm import Row, SpeechLM
from zhiyin.runtime.device import chip, has_bfloat16
from zhiyin.train.curves import draw
from zhiyin.train.stages import OptimizerSection, Stage

Evaluate = Callable[[SpeechLM], dict[str, float]]


@dataclass(frozen=True)
class Losses:
    """One batch: the loss that is minimised and its parts, each per token."""

    total: Tensor
    lm: Tensor
    ctc: Tensor


def losses(
    model: SpeechLM, batch: Batch, settings: OptimizerSection, device: str, weights_V: Tensor | None = None
) -> Losses:
    """Forward pass of one batch: language-model loss on the targets, CTC loss on the transcripts."""
    mel = torch.from_numpy(batch.mel_BMF).to(device)
    frames = torch.from_numpy(batch.frames_B).to(device)
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=settings.bf16):
        if settings.ctc_weight == 1.0 and model.config.ctc:
            encoded, lengths = model.encoder(mel, frames)
            ctc = model.ctc_loss(encoded, lengths, batch.transcripts)
            return Losses(ctc, ctc.new_zeros(()), ctc.detach())
        speech = model.listen(mel, frames)
        if batch.voice_only_B.any():
            speech = speech.voice_alone(torch.from_numpy(batch.voice_only_B).to(device))
        rows = [Row(before=p, target=t) for p, t in zip(batch.prompts, batch.targets, strict=True)]
        lm, _ = model.loss(model.assemble(speech, rows), label_smoothing=settings.label_smoothing, weights_V=weights_V)
        if not model.config.ctc:
            return Losses(lm, lm.detach(), lm.new_zeros(()))
        ctc = model.ctc_loss(speech.encoded_BTE, speech.encoded_lengths_B, batch.transcripts)
    return Losses((1 - settings.ctc_weight) * lm + settings.ctc_weight * ctc, lm.detach(), ctc.detach())


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
) -> SpeechLM:
    """Train until `stage.optimizer.steps`, resuming from `run/state.pt` when it exists.

    Returns:
        The model with the weights of the last saved states averaged.

    Raises:
        UserError: the stage wants bfloat16 of a chip without it; the state in `run` belongs to another model; the
            loss is not finite (the record ids are named).
    """
    settings = stage.optimizer
    check_format(settings, device)
    model.to(device).train()
    freeze(model, settings.train)
    weights_V = _token_weights(model.config.decoder.vocab_size, loader.label_ids, settings.label_weight).to(device)
    optimizer = torch.optim.AdamW(
        _groups(model, settings.weight_decay), lr=settings.peak_rate, betas=(0.9, 0.98), fused=True
    )
    step, place = _resume(run / "state.pt", model, optimizer)
    started, seen_s = time.monotonic(), 0.0
    for batch, after in loader.batches(place):
        if step >= settings.steps:
            break
        torch.manual_seed(
            stage.run.seed * 1_000_003 + step
        )  # each step by itself, so that a resumed run is the same run
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, settings)
        result = losses(model, batch, settings, device, weights_V)
        if not torch.isfinite(result.total):
            raise UserError(f"training step {step}: the loss is not finite; records: {' '.join(batch.ids[:8])}")
        optimizer.zero_grad(set_to_none=True)
        result.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        step, place, seen_s = step + 1, after, seen_s + float(batch.frames_B.sum()) / 100
        if step % stage.run.log_every == 0:
            speed = seen_s / (time.monotonic() - started)
            row = {
                "step": step,
                "loss": round(float(result.total.detach()), 4),
                "lm_loss": round(float(result.lm), 4),
                "ctc_loss": round(float(result.ctc), 4),
                "norm": round(float(norm), 3),
                "rate": rate_at(step, settings),
                "audio_s_per_s": round(speed, 1),
            }
            _log(run, row)
            report(" ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
        if step % stage.run.save_every == 0 or step == settings.steps:
            _save(run, model, optimizer, step, place, keep=stage.run.average_last)
        if evaluate and (step % stage.run.evaluate_every == 0 or step == settings.steps):
            figures = evaluate(model.eval())
            freeze(model.train(), settings.train)
            _log(run, {"step": step, "dev": figures})
            draw(run / "metrics.jsonl", run / "curves.png")
            report(f"step {step} dev " + " ".join(f"{k} {v:.3f}" for k, v in figures.items()))
    return average(model, sorted((run / "weights").glob("*.pt"))).eval()


def check_format(settings: OptimizerSection, device: str) -> None:
    """Refuse bfloat16 on a chip without it, before any work is done.

    Raises:
        UserError: names the chip and the setting.
    """
    if settings.bf16 and not has_bfloat16(device):
        called = f"{device} ({chip(device)})" if chip(device) else device
        raise UserError(f"training on {called}: it has no bfloat16; write bf16 = false under [optimizer] of the stage")


def freeze(model: SpeechLM, train: Sequence[str]) -> None:
    """Let only the parts named in `train` change (none named: all); the others run as in use, without dropout.

    Raises:
        UserError: a name is no part of the model.
    """
    if not train:
        return
    names = [name for name, _ in model.named_parameters()]
    for part in train:
        if not any(_is_of(part, name) for name in names):
            known = " ".join(dict.fromkeys(name.split(".")[0] for name in names))
            raise UserError(f"optimizer: train names '{part}', which is no part of the model; its parts: {known}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(_is_of(part, name) for part in train))
    for name, module in model.named_modules():
        if not any(_is_of(part, name) or part.startswith(f"{name}.") or not name for part in train):
            module.eval()


def _is_of(part: str, name: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def average(model: SpeechLM, files: Sequence[Path]) -> SpeechLM:
    """Put the mean of several saved weights into `model`."""
    total: dict[str, Tensor] = {}
    for file in files:
        for name, value in torch.load(file, weights_only=True, map_location="cpu").items():
            total[name] = total[name] + value if name in total else value.clone()
    model.load_state_dict({name: value / len(files) for name, value in total.items()})
    return model


def _token_weights(vocabulary: int, label_ids: Sequence[int], label_weight: float) -> Tensor:
    """Weight of each token of the vocabulary: a label is one token among many, and is often the whole answer."""
    weights = torch.ones(vocabulary)
    weights[list(label_ids)] = label_weight
    return weights


def _groups(model: SpeechLM, weight_decay: float) -> list[dict[str, Any]]:
    # norms, biases and vectors are not decayed, as usual for AdamW
    changing = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in changing if p.ndim >= 2]
    vectors = [p for p in changing if p.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _resume(path: Path, model: SpeechLM, optimizer: torch.optim.Optimizer) -> tuple[int, Place]:
    if not path.exists():
        return 0, Place()
    state = torch.load(path, weights_only=True, map_location="cpu")
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise UserError(f"resuming {path}: it holds another model ({first}); use a new run folder") from error
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], Place(*state["place"])


def _save(run: Path, model: SpeechLM, optimizer: torch.optim.Optimizer, step: int, place: Place, *, keep: int) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "place": (place.pool, place.batch),
    }
    _write(run / "state.pt", state)
    weights = run / "weights"
    weights.mkdir(exist_ok=True)
    _write(weights / f"{step:07d}.pt", state["model"])
    for old in sorted(weights.glob("*.pt"))[:-keep]:
        old.unlink()


def _write(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".part")
    torch.save(value, temporary)
    temporary.replace(path)


def _log(run: Path, row: dict[str, Any]) -> None:
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as out:
        out.write(json.dumps(row) + "\n")


def write_settings(run: Path, stage: Stage) -> None:
    """Write the resolved settings beside the run, so that it can be told later what was trained."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "stage.json").write_text(json.dumps(asdict(stage), ensure_ascii=False, indent=1), encoding="utf-8")
