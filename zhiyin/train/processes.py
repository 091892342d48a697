"""Several processes that train one model: accelerate joins them on any device, torch divides the work.

`zhiyin train --processes N` starts them (`train.launch`); torchrun and `accelerate launch` set the same variables, on
one machine or many. The backend (gloo, hccl, nccl) goes with the device.
"""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from zhiyin.errors import UserError
from zhiyin.model.decoder import Layer
from zhiyin.model.encoder import Block
from zhiyin.model.speech_lm import SpeechLM
from zhiyin.train.launch import end_with_parent

_PATIENCE = timedelta(hours=12)  # the first process computes features while the others wait
Answer = TypeVar("Answer")


class Inside(nn.Module):
    """A model whose `forward` is any function of it: what DDP and FSDP do around `forward` happens around that."""

    def __init__(self, model: SpeechLM):
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[SpeechLM], Answer]) -> Answer:
        """The answer of `work`; tensors with a gradient must be in a tuple or by themselves."""
        return work(self.model)


@dataclass(frozen=True)
class Processes:
    """This process and those beside it."""

    device: str
    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one writes and speaks."""
        return self.rank == 0

    def wrap(self, model: SpeechLM, *, sharded: bool) -> nn.Module:
        """`Inside(model)`, its gradients averaged over the processes; `sharded` divides the weights as well (FSDP2)."""
        inside = Inside(model)
        if self.count == 1:
            return inside
        if not sharded:
            with warnings.catch_warnings():  # the name that torch 2.13 prefers is not there in 2.6
                warnings.simplefilter("ignore", FutureWarning)
                # a batch without audio leaves the encoder without gradient; the only buffers are constant tables
                return nn.parallel.DistributedDataParallel(inside, find_unused_parameters=True, broadcast_buffers=False)
        from torch.distributed.fsdp import fully_shard

        mesh = distributed.init_device_mesh(torch.device(self.device).type, (self.count,))
        for module in model.modules():
            if isinstance(module, Block | Layer):
                fully_shard(module, mesh=mesh)
        fully_shard(inside, mesh=mesh)
        return inside

    def quiet(self, inside: nn.Module) -> AbstractContextManager[Any]:
        """Inside it gradients stay with each process: for all batches of a step but the last one."""
        if isinstance(inside, nn.parallel.DistributedDataParallel):
            return inside.no_sync()
        if hasattr(inside, "set_requires_gradient_sync"):
            return _unsynchronised(inside)
        return contextlib.nullcontext()

    def mean(self, values: Sequence[Tensor | float]) -> list[float]:
        """Means over the processes."""
        total = torch.stack([torch.as_tensor(value, dtype=torch.float32, device=self.device) for value in values])
        if self.count > 1:
            distributed.all_reduce(total)
        return [float(value) for value in total / self.count]

    def wait(self) -> None:
        """Go on when all are here."""
        if self.count > 1:
            distributed.barrier()

    def leave(self) -> None:
        """The end of the work in common."""
        if self.count > 1:
            distributed.destroy_process_group()


def join(device: str) -> Processes:
    """Join the processes the environment speaks of (RANK, WORLD_SIZE, ...); alone where it speaks of none.

    Raises:
        UserError: accelerate would take another kind of device than was chosen.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(device)
    end_with_parent()
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))  # else accelerate would choose, and warn
    from accelerate import PartialState  # type: ignore[import-untyped]

    state = PartialState(cpu=torch.device(device).type == "cpu", timeout=_PATIENCE)
    if state.device.type != torch.device(device).type:
        raise UserError(
            f"training on {device} with several processes: accelerate takes {state.device} here; ask for that"
        )
    own = device if state.device.type == "cpu" else f"{state.device.type}:{state.device.index}"
    return Processes(own, state.process_index, state.num_processes)


def full_state(inside: nn.Module) -> dict[str, Tensor]:
    """Names as in the model, and whole tensors, wherever their parts are; all processes must ask."""
    found = {}
    for name, value in inside.state_dict().items():
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        found[name.removeprefix("module.").removeprefix("model.")] = whole.detach()
    return found


def full_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """`optimizer.state_dict()` with whole tensors."""
    state = optimizer.state_dict()
    whole = {
        number: {key: value.full_tensor() if isinstance(value, DTensor) else value for key, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": whole}


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Put whole tensors back where `full_optimizer` took them from."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    divided = {}
    for number, values in state["state"].items():
        parameter = parameters[number]
        divided[number] = {key: _like(value, parameter) for key, value in values.items()}
    optimizer.load_state_dict({**state, "state": divided})


def _like(value: Any, parameter: Tensor) -> Any:
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.ndim == 0:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


@contextlib.contextmanager
def _unsynchronised(inside: nn.Module) -> Iterator[None]:
    shards = cast(Any, inside)
    shards.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        shards.set_requires_gradient_sync(True)
