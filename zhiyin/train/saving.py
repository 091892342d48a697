"""What a run keeps: its state to go on from, the last weights to average, and the best ones; each replaced at once.

A write that fails (a full disk) leaves what was there. Only parameters that change are kept; the others come from the
checkpoint the run begins with.
"""

import contextlib
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zhiyin.data.loader import Place
from zhiyin.errors import UserError
from zhiyin.model import files
from zhiyin.train.processes import Processes, full_optimizer, full_state

STATE, WEIGHTS, BEST = "state.pt", "weights", "best.pt"


@dataclass(frozen=True)
class Saved:
    """The state of a run."""

    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    step: int
    place: Place


@dataclass(frozen=True)
class Best:
    """The weights that gave the best dev figures, their step, and what `quick.score` said of them."""

    weights: Mapping[str, Tensor]
    step: int
    value: float


def read(run: Path) -> Saved | None:
    """The state of a run, or nothing where there is none.

    Raises:
        UserError: it is damaged.
    """
    path = run / STATE
    if not path.exists():
        return None
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        return Saved(state["model"], state["optimizer"], state["step"], Place(*state["place"]))
    except (OSError, RuntimeError, KeyError, EOFError, ValueError, pickle.UnpicklingError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"resuming {path}: it is damaged ({first}); use a new run folder") from error


def put(saved: Saved, model: nn.Module, run: Path) -> None:
    """Give a model the weights of a state.

    Raises:
        UserError: they are another model's, or of other parts than the ones that change now.
    """
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    changing = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    faults = [f"{name} is missing" for name in changing if name not in saved.model]
    faults += [f"{name} is unknown" for name in saved.model if name not in expected]
    faults += [
        f"{name} is {tuple(value.shape)} for {expected[name]}"
        for name, value in saved.model.items()
        if name in expected and tuple(value.shape) != expected[name]
    ]
    if faults:
        raise UserError(f"resuming {run / STATE}: it holds another model ({min(faults)}); use a new run folder")
    model.load_state_dict(saved.model, strict=False)


def save(
    run: Path,
    inside: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    place: Place,
    *,
    keep: int,
    processes: Processes,
) -> None:
    """Write the state and the weights of a step; of the weights the last `keep` stay. All processes must call it.

    Raises:
        UserError: the disk is full; what was there stays.
    """
    weights, moments = changing_state(inside), full_optimizer(optimizer)
    if processes.is_first:
        state = {"model": weights, "optimizer": moments, "step": step, "place": (place.pool, place.batch)}
        write(run / STATE, state, step)
        (run / WEIGHTS).mkdir(exist_ok=True)
        write(run / WEIGHTS / f"{step:07d}.pt", weights, step)
        for old in sorted((run / WEIGHTS).glob("*.pt"))[:-keep]:
            old.unlink()
    processes.wait()


def changing_state(inside: nn.Module) -> dict[str, Tensor]:
    """Whole tensors of what is trained, and of buffers."""
    frozen = {
        name.removeprefix("module.").removeprefix("model.")
        for name, parameter in inside.named_parameters()
        if not parameter.requires_grad
    }
    return {name: value for name, value in full_state(inside).items() if name not in frozen}


def keep_best(run: Path, inside: nn.Module, step: int, value: float, processes: Processes) -> None:
    """Keep the weights of a step where they are better than the best so far. All processes must call it."""
    known = best(run)
    processes.wait()  # nobody writes before all have read
    if known is not None and value <= known.value:
        return
    weights = changing_state(inside)
    if processes.is_first:
        write(run / BEST, {"model": weights, "step": step, "value": value}, step)
    processes.wait()


def best(run: Path) -> Best | None:
    """The weights of the best dev figures, or nothing."""
    if not (run / BEST).exists():
        return None
    state = torch.load(run / BEST, weights_only=True, map_location="cpu")
    return Best(state["model"], state["step"], state["value"])


def average(model: nn.Module, paths: Sequence[Path]) -> None:
    """Put the mean of several saved weights into `model`."""
    total: dict[str, Tensor] = {}
    for path in paths:
        for name, value in torch.load(path, weights_only=True, map_location="cpu").items():
            total[name] = total[name] + value if name in total else value.clone()
    model.load_state_dict({name: value / len(paths) for name, value in total.items()}, strict=False)


def write(path: Path, value: Any, step: int) -> None:
    """Replace a file by `torch.save` of a value, at once and safely on the disk.

    Raises:
        UserError: it cannot be written; the file that was there stays.
    """
    temporary = path.with_suffix(".part")
    try:
        torch.save(value, temporary)
        files.sync(temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError where the disk is full
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        why = getattr(error, "strerror", None) or str(error).splitlines()[0]
        kept = "the one before stays" if path.exists() else "nothing was there before"
        raise UserError(
            f"step {step}: {path} cannot be written ({why}); {kept}; make room and give the same command again"
        ) from error
