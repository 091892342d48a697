"""A tiny model and its batches; run as a program it is one of two processes that train it together over hccl."""

import os
import random
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from zhiyin.data.loader import Batch, Loader, Place
from zhiyin.model.config import DecoderConfig, EncoderConfig, ModelConfig, ProjectorConfig
from zhiyin.model.speech_lm import SpeechLM
from zhiyin.train import loop
from zhiyin.train.stages import OptimizerSection, RunSection, SpecSection, Stage

STAGE = Stage(
    spec=SpecSection("tiny", ("asr",), ("en",), {}),
    optimizer=OptimizerSection(steps=6, peak_rate=3e-3, warmup_steps=2, bf16=False),
    run=RunSection(log_every=1, save_every=3, evaluate_every=100),
)


def model(dropout: float = 0.0) -> SpeechLM:
    """Random weights, the same ones each time, on the CPU."""
    torch.manual_seed(0)
    config = ModelConfig(
        EncoderConfig(
            num_mels=8,
            width=16,
            num_layers=1,
            num_heads=2,
            ffn_width=32,
            max_positions=64,
            conv_strides=(2, 2),
            dropout=dropout,
        ),
        ProjectorConfig(conv_strides=(1,), width=16, num_layers=1, num_heads=2, ffn_width=32, max_positions=64),
        DecoderConfig(
            vocab_size=20,
            width=16,
            num_layers=1,
            num_heads=2,
            num_kv_heads=1,
            head_width=8,
            ffn_width=32,
            tie_embeddings=True,
        ),
        ctc=True,
        eos_id=1,
    )
    made = SpeechLM(config)
    nn.init.normal_(made.decoder.embed_tokens.weight, std=0.25)
    return made


class Batches(Loader):
    """The loader's resumable stream over made-up features: the band that is loud names the token to say."""

    label_ids = (2, 3)

    def __init__(self) -> None:
        """Nothing is read."""

    def take(self, count: int) -> list[tuple[Batch, Place]]:
        """The first batches."""
        stream = self._stream(Place())
        return [next(stream) for _ in range(count)]

    def _stream(self, start: Place) -> Iterator[tuple[Batch, Place]]:
        at = start.batch
        while True:
            rng = random.Random(at)
            tokens = [rng.randrange(2, 10) for _ in range(8)]
            mel = np.random.default_rng(at).normal(0, 0.1, (8, 8, 24)).astype(np.float32)
            for i, token in enumerate(tokens):
                mel[i, token - 2] += 1.0
            said, heard = tuple((token, 1) for token in tokens), tuple((token,) for token in tokens)
            ids = tuple(f"r{i}" for i in range(8))
            at += 1
            yield Batch(mel, np.full(8, 24), ((11,),) * 8, said, heard, ids, np.zeros(8, bool)), Place(0, at)


def batches() -> Batches:
    """The stream from its beginning."""
    return Batches()


class Step(nn.Module):
    """The loss as `forward`, which is what DistributedDataParallel wraps."""

    def __init__(self, made: SpeechLM):
        super().__init__()
        self.model = made

    def forward(self, batch: Batch, device: str) -> Tensor:
        """The total loss of a batch."""
        return loop.losses(self.model, batch, STAGE.optimizer, device).total


def step(wrapped: nn.Module, batch: Batch, device: str) -> None:
    """One step of plain SGD: unlike AdamW's, its size shows the size of the gradient."""
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.5)
    wrapped(batch, device).backward()
    optimizer.step()


def share(batch: Batch, rank: int, ranks: int) -> Batch:
    """Every `ranks`-th record."""
    rows = slice(rank, None, ranks)
    return Batch(*(getattr(batch, field.name)[rows] for field in fields(batch)))


def main(out: Path) -> None:
    """Train one step beside another process and write the weights."""
    import torch_npu  # noqa: F401
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = f"npu:{rank}"
    torch.npu.set_device(device)
    distributed.init_process_group("hccl")
    made = model().to(device)
    if rank:  # what process 0 has is what counts
        with torch.no_grad():
            made.markers.add_(1.0)
    wrapped = DistributedDataParallel(Step(made), device_ids=[rank])
    step(wrapped, share(batches().take(1)[0][0], rank, ranks), device)
    torch.save({key: value.cpu() for key, value in made.state_dict().items()}, out / f"{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # a backward right before the end of Python can abort it (see npusim.install)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
