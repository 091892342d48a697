"""What the statistics behind the voice vector say of speakers that are new: linear probes, cross-validated.

    python benchmarks/voice_probes.py ../shared/data [--without]

Clips of train and dev (never test) of the speech pack; no speaker is in two folds. Adults' gender is scored on so762
alone, whose speakers are many, and learned from all corpora. Printed is unweighted recall, in per cent.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as fn

from zhiyin.audio.features import log_mel
from zhiyin.data import clip
from zhiyin.data.corpora import speech_pack
from zhiyin.data.manifest import Record
from zhiyin.model.voice import Functionals, Spectrum

TASKS = ("sgc", "sap", "ser", "ssr", "ved")
OF_GENDER = ("so762", "emodb", "fsdd", "grid", "cmn")
EVERY = {"grid": 3, "cmn": 8}  # one speaker each: some of their clips will do
FOLDS = 6
DECAY = 1e-2


@dataclass(frozen=True)
class Clip:
    record: Record
    mel_MF: torch.Tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--without", action="store_true", help="also leave out each part of the functionals")
    args = parser.parse_args()
    torch.set_num_threads(1)
    clips = read(args.pack)
    print(f"{len(clips)} clips", flush=True)
    say("", list(TASKS))
    say("spectrum of 60 bins", probes(clips, pooled(clips, Spectrum(60))))
    found = pooled(clips, Functionals(80))
    say("functionals", probes(clips, found))
    for name, columns in parts(Functionals(80)).items() if args.without else ():
        kept = np.setdiff1d(np.arange(found.shape[1]), columns)
        say(f"without {name}", probes(clips, found[:, kept]))


def read(pack: Path) -> list[Clip]:
    """Features of all clips that a probe needs."""
    records = [record for split in ("train", "dev") for record in speech_pack.read(pack, split)]
    seen: dict[str, int] = {}
    clips = []
    for record in records:
        seen[record.source] = seen.get(record.source, 0) + 1
        needed = any(label_of(record, task) for task in TASKS)
        if needed and seen[record.source] % EVERY.get(record.source, 1) == 0:
            clips.append(Clip(record, torch.from_numpy(log_mel(clip.samples(record)).astype(np.float16))))
    return clips


def label_of(record: Record, task: str) -> str:
    """The truth a probe learns, if the record has one for it."""
    label = record.labels.get(task, "")
    if task == "sgc":
        return label if record.source in OF_GENDER and record.age_group in ("adult", "") else ""
    if task in ("sap", "ssr"):
        return label if record.source == "so762" else ""
    return label


@torch.no_grad()
def pooled(clips: Sequence[Clip], statistics: Spectrum | Functionals) -> np.ndarray:
    """Statistics [clips, P]."""
    order = sorted(range(len(clips)), key=lambda i: clips[i].mel_MF.shape[1])
    out = np.zeros((len(clips), statistics.size), np.float32)
    for start in range(0, len(order), 16):
        part = order[start : start + 16]
        mels = [clips[i].mel_MF.float().T for i in part]
        batch_BMF = nn.utils.rnn.pad_sequence(mels, batch_first=True).transpose(1, 2)
        out[part] = statistics(batch_BMF, torch.tensor([len(mel) for mel in mels])).numpy()
    return out


def parts(statistics: Functionals) -> dict[str, np.ndarray]:
    """Part -> its columns."""
    ripples, cepstra = len(statistics.RIPPLE_LAGS), statistics.CEPSTRA
    sizes = [("mean", statistics.num_mels), ("deviation", statistics.num_mels), ("ripple", 2 * ripples)]
    for _ in statistics.LAGS:
        sizes += [("movement of cepstra", cepstra), ("movement of the ripple", ripples)]
    sizes += [("shares", len(statistics.SHARES)), ("length", 1)]
    names = np.repeat([name for name, _ in sizes], [size for _, size in sizes])
    return {name: np.flatnonzero(names == name) for name, _ in sizes}


def probes(clips: Sequence[Clip], found: np.ndarray) -> list[str]:
    """Unweighted recall of each task."""
    said = []
    for task in TASKS:
        rows = [i for i, one in enumerate(clips) if label_of(one.record, task)]
        names = sorted({label_of(clips[i].record, task) for i in rows})
        truth = np.array([names.index(label_of(clips[i].record, task)) for i in rows])
        speakers = np.array([clips[i].record.speaker or clips[i].record.id for i in rows])
        scored = np.array([task != "sgc" or clips[i].record.source == "so762" for i in rows])
        guess = guesses(found[rows], truth, speakers, len(names))
        hits = [(guess == truth)[scored & (truth == one)].mean() for one in range(len(names))]
        said.append(f"{100 * np.mean(hits):.1f}")
    return said


def guesses(found: np.ndarray, truth: np.ndarray, speakers: np.ndarray, classes: int) -> np.ndarray:
    """What a probe that was trained on other speakers says of each clip."""
    order = np.unique(speakers)
    np.random.default_rng(0).shuffle(order)
    place = {speaker: i for i, speaker in enumerate(order)}
    fold = np.array([place[speaker] % min(FOLDS, len(order)) for speaker in speakers])
    out = np.zeros(len(truth), int)
    for one in range(fold.max() + 1):
        train = fold != one
        mean, spread = found[train].mean(0), found[train].std(0) + 1e-3
        scaled = torch.from_numpy(np.clip((found - mean) / spread, -5, 5))
        out[~train] = fitted(scaled[train], torch.from_numpy(truth[train]), classes)(scaled[~train]).argmax(1).numpy()
    return out


def fitted(found: torch.Tensor, truth: torch.Tensor, classes: int) -> nn.Linear:
    """Logistic regression, all classes weighing the same."""
    probe = nn.Linear(found.shape[1], classes)
    nn.init.zeros_(probe.weight)
    weights = len(truth) / torch.bincount(truth, minlength=classes).clamp(min=1)
    solver = torch.optim.LBFGS(probe.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        value = fn.cross_entropy(probe(found), truth, weight=weights) + DECAY * probe.weight.square().sum()
        value.backward()
        return value

    solver.step(loss)
    return probe.requires_grad_(False)


def say(name: str, cells: Sequence[str]) -> None:
    print(f"| {name:32} | " + " | ".join(f"{cell:>6}" for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
