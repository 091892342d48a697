"""A tiny model and its batches, for one process or for one of several; run as a program it trains beside the others."""

import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from zhiyin.data.loader import Batch, Loader, Place
from zhiyin.model import lora
from zhiyin.model.config import DecoderConfig, EncoderConfig, ModelConfig, ProjectorConfig
from zhiyin.model.lora import LoraConfig
from zhiyin.model.speech_lm import SpeechLM
from zhiyin.train import log, loop, processes
from zhiyin.train.processes import Processes
from zhiyin.train.stages import OptimizerSection, RunSection, SpecSection, Stage

log.draw = lambda metrics, picture: None  # drawing takes longer than these runs

STAGE = Stage(
    spec=SpecSection("tiny", ("asr",), ("en",), {}),
    optimizer=OptimizerSection(steps=6, peak_rate=3e-3, warmup_steps=2, final_share=1.0, bf16=False),
    run=RunSection(log_every=1, save_every=3, evaluate_every=3, tensorboard=False),
)
ROWS = 6
KINDS = ("ddp", "fsdp2", "fsdp2-recompute-lora")
RUNS = (*((kind, kind, 6) for kind in KINDS), ("cut", "fsdp2", 3), ("cut", "fsdp2", 6))


def model(stage: Stage = STAGE) -> SpeechLM:
    """Random weights, the same ones each time, with dropout."""
    torch.manual_seed(0)
    common = {"width": 16, "num_layers": 2, "num_heads": 2, "ffn_width": 32, "max_positions": 64}
    decoder = {"width": 16, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "head_width": 8, "ffn_width": 32}
    config = ModelConfig(
        EncoderConfig(num_mels=8, conv_strides=(2, 2), dropout=0.1, **common),
        ProjectorConfig(conv_strides=(1,), **common),
        DecoderConfig(vocab_size=20, tie_embeddings=True, dropout=0.1, **decoder),
        ctc=True,
        eos_id=1,
    )
    made = SpeechLM(config)
    nn.init.normal_(made.decoder.embed_tokens.weight, std=0.25)
    if stage.lora is not None:
        lora.attach(made, stage.lora)
    return made


class Batches(Loader):
    """Made-up features whose loud band names the token to say; every fourth pair of batches has no audio."""

    label_ids = (2, 3)

    def __init__(self) -> None:
        """Nothing is read."""

    def _stream(self, start: Place) -> Iterator[tuple[Batch, Place]]:
        at = start.batch
        while True:
            yield self._made(at + self.rank), Place(0, at + self.ranks)
            at += self.ranks

    def _made(self, number: int) -> Batch:
        rng = random.Random(number)
        tokens = [rng.randrange(2, 10) for _ in range(ROWS)]
        said, heard = tuple((token, 1) for token in tokens), tuple((token,) for token in tokens)
        ids = tuple(f"r{i}" for i in range(ROWS))
        if number // 2 % 4 == 3:
            silent = np.zeros(ROWS, np.int64)
            return Batch(None, silent, said, said, (None,) * ROWS, ids, np.zeros(ROWS, bool))
        mel = np.random.default_rng(number).normal(0, 0.1, (ROWS, 8, 24)).astype(np.float32)
        for i, token in enumerate(tokens):
            mel[i, token - 2] += 1.0
        return Batch(mel, np.full(ROWS, 24), ((11,),) * ROWS, said, heard, ids, np.zeros(ROWS, bool))


def dev(whole: SpeechLM, *, device: str = "cpu") -> dict[str, float]:
    """Some figure of a model."""
    with torch.no_grad():
        batch = next(Batches().batches(Place(0, 100)))[0]
        return {"loss": float(loop.losses(whole, batch, STAGE.optimizer, device).total)}


def stage(kind: str, steps: int, count: int) -> Stage:
    """The stage of a test: ddp, fsdp2, or fsdp2 with adapters; two batches a step, whoever computes them."""
    optimizer = replace(STAGE.optimizer, steps=steps, accumulate=2 // count, sharded=kind.startswith("fsdp2"))
    adapters = LoraConfig(r=2, alpha=4, dropout=0.1, targets=("q_proj", "down_proj")) if "lora" in kind else None
    train = ("encoder", "markers") if adapters else ()
    return replace(STAGE, optimizer=replace(optimizer, train=train, recompute="recompute" in kind), lora=adapters)


def run(folder: Path, kind: str, steps: int, team: Processes) -> None:
    """Train in `folder`, alone or beside others."""
    chosen = stage(kind, steps, team.count)
    folder.mkdir(parents=True, exist_ok=True)
    final = loop.train(
        model(chosen),
        Batches(),
        chosen,
        folder,
        device=team.device,
        evaluate=partial(dev, device=team.device),
        report=lambda line: None,
        processes=team,
    )
    if team.is_first:
        state = {name: value.cpu() for name, value in final.state_dict().items()}
        torch.save(state, folder / f"final-{team.count}.pt")
    team.wait()


def main(folder: Path, device: str) -> None:
    """Every kind in one start, for starting takes longer than all of it; `cut` goes on where it stopped."""
    torch.set_num_threads(1)
    team = processes.join(device)
    for name, kind, steps in RUNS:
        run(folder / name, kind, steps, team)
    team.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
