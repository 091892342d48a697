"""Records into padded batches: mixed by weight, bucketed by length, resumable to the batch.

Shapes: `B` batch, `M` mel bins, `F` frames.
"""

import queue
import random
import threading
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from tokenizers import Tokenizer

from zhiyin.audio.features import Float32
from zhiyin.data.augment import AugmentConfig, augment
from zhiyin.data.cache import FeatureCache
from zhiyin.data.examples import TaskMix, make
from zhiyin.data.manifest import Record
from zhiyin.tasks import table
from zhiyin.text.score import words

FRAMES_PER_S = 100
_OF_THE_VOICE = {"sgc", "sap", "ser", "ssr"}  # answers that would change with the vocal tract


@dataclass(frozen=True)
class LoaderConfig:
    """How batches are made.

    Attributes:
        batch_s: most seconds of audio in a batch, padding counted.
        pool: records drawn at a time and sorted by length before they are cut into batches.
        max_audio_s: longer recordings are left out.
        growth: pairs of a pool number and seconds: up to that pool only recordings up to so many seconds are drawn.
            Short recordings first: attention and CTC find the alignment on single words, and build on it.
        weights: source, or source/age group -> how many times its records are drawn per pass; by default once.
        only: source, or source/age group -> the tasks its records are used for, where that is less than they carry a
            truth for; without asr their transcripts are not learned either.
        min_word_count: a transcript with a word (in Chinese: a character) that the training transcripts hold fewer
            times than this is not learned; what else is known of the record is.
        speeds: playing speeds, one drawn per record.
    """

    batch_s: float = 160.0
    pool: int = 1024
    max_audio_s: float = 12.0
    growth: tuple[tuple[int, float], ...] = ()
    weights: dict[str, float] = field(default_factory=dict)
    only: dict[str, tuple[str, ...]] = field(default_factory=dict)
    min_word_count: int = 1
    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)


@dataclass(frozen=True)
class Batch:
    """A padded batch; `prompts`, `targets` (with end token) and `transcripts` (for CTC, None unknown) are token ids.

    Of the rows marked in `voice_only_B` the decoder hears the voice vector alone.
    """

    mel_BMF: Float32
    frames_B: np.ndarray
    prompts: tuple[tuple[int, ...], ...]
    targets: tuple[tuple[int, ...], ...]
    transcripts: tuple[tuple[int, ...] | None, ...]
    ids: tuple[str, ...]
    voice_only_B: np.ndarray


@dataclass(frozen=True)
class Place:
    """Where a loader stands: which pool, and how many of its batches are used."""

    pool: int = 0
    batch: int = 0


class Loader:
    """An endless, seeded stream of batches."""

    def __init__(
        self,
        records: Sequence[Record],
        cache: FeatureCache,
        tokenizer: Tokenizer,
        labels: Mapping[str, tuple[str, ...]],
        config: LoaderConfig,
        mix: TaskMix,
        augmentation: AugmentConfig,
        *,
        eos_id: int,
        time_step_s: float,
        seed: int,
    ):
        fitting = [_restricted(r, config.only) for r in records if r.duration_s <= config.max_audio_s]
        self.records = [r for r in _without_rare_words(fitting, config.min_word_count) if r.tasks]
        self.cache, self.tokenizer, self.labels = cache, tokenizer, labels
        self.config, self.mix, self.augmentation = config, mix, augmentation
        self.eos_id, self.time_step_s, self.seed = eos_id, time_step_s, seed
        vocabulary = tokenizer.get_vocab()
        names = {f"<{label}>" for task in table.with_labels(table.TASKS, labels) for label in task.labels}
        self.label_ids = sorted(vocabulary[name] for name in names if name in vocabulary)
        self.odds = [config.weights.get(_key(r, config.weights), 1.0) for r in self.records]

    def batches(self, start: Place) -> Iterator[tuple[Batch, Place]]:
        """Batches from `start` on, each with the place after it, prepared one thread ahead."""
        ready: queue.Queue[tuple[Batch, Place] | BaseException] = queue.Queue(maxsize=4)
        stop = threading.Event()

        def work() -> None:
            try:
                for item in self._stream(start):
                    while not stop.is_set():
                        try:
                            ready.put(item, timeout=0.5)
                            break
                        except queue.Full:
                            continue
                    if stop.is_set():
                        return
            except BaseException as error:  # handed to the training thread, which raises it
                ready.put(error)

        threading.Thread(target=work, daemon=True).start()
        try:
            while True:
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()

    def _stream(self, start: Place) -> Iterator[tuple[Batch, Place]]:
        pool = start.pool
        while True:
            groups = self._pool(pool)
            for i in range(start.batch if pool == start.pool else 0, len(groups)):
                after = Place(pool, i + 1) if i + 1 < len(groups) else Place(pool + 1, 0)
                yield self._batch(groups[i], f"{self.seed}:{pool}:{i}"), after
            pool += 1

    def _pool(self, number: int) -> list[list[tuple[Record, float]]]:
        """Draw records and speeds, and group those of like length."""
        rng = random.Random(f"{self.seed}:{number}")
        limit_s = next((seconds for until, seconds in self.config.growth if number < until), self.config.max_audio_s)
        odds = [odd if r.duration_s <= limit_s else 0.0 for r, odd in zip(self.records, self.odds, strict=True)]
        drawn = [(r, rng.choice(self.config.speeds)) for r in rng.choices(self.records, odds, k=self.config.pool)]
        drawn.sort(key=lambda item: item[0].duration_s / item[1])
        groups: list[list[tuple[Record, float]]] = [[]]
        for item in drawn:
            longest = item[0].duration_s / item[1] + 2 * self.augmentation.pad_frames / FRAMES_PER_S
            if groups[-1] and longest * (len(groups[-1]) + 1) > self.config.batch_s:
                groups.append([])
            groups[-1].append(item)
        rng.shuffle(groups)
        return groups

    def _batch(self, group: Sequence[tuple[Record, float]], seed: str) -> Batch:
        rng = random.Random(seed)
        noise = np.random.default_rng(rng.randrange(2**32))
        mels, prompts, targets, transcripts, voice_only = [], [], [], [], []
        for record, speed in group:
            clean = self.cache.get(record.id, speed).astype(np.float32)
            mel, front = augment(clean, self.augmentation, noise, keep_voice=bool(_OF_THE_VOICE & set(record.tasks)))
            example = make(
                record,
                self.mix,
                self.labels,
                rng,
                shift_s=front / FRAMES_PER_S,
                speed=speed,
                time_step_s=self.time_step_s,
            )
            mels.append(mel.T)
            voice_only.append(example.voice_only)
            prompts.append(self._ids(example.prompt))
            targets.append((*self._ids(example.target), self.eos_id))
            transcripts.append(None if example.transcript is None else self._ids(example.transcript))
        frames = np.array([mel.shape[1] for mel in mels])
        padded = np.zeros((len(mels), mels[0].shape[0], frames.max()), np.float32)
        for i, mel in enumerate(mels):
            padded[i, :, : mel.shape[1]] = mel
        ids = tuple(record.id for record, _ in group)
        said = tuple(prompts), tuple(targets), tuple(transcripts)
        return Batch(padded, frames, *said, ids, np.array(voice_only))

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)


def _key(record: Record, table: Container[str]) -> str:
    """Where a table of settings speaks of a record: under its source and age group, or under its source."""
    exact = f"{record.source}/{record.age_group}"
    return exact if exact in table else record.source


def _restricted(record: Record, only: Mapping[str, tuple[str, ...]]) -> Record:
    allowed = only.get(_key(record, only))
    if allowed is None:
        return record
    tasks = tuple(task for task in record.tasks if task in allowed)
    return replace(record, tasks=tasks, text=record.text if "asr" in tasks else None)


def _without_rare_words(records: Sequence[Record], min_count: int) -> list[Record]:
    counts = Counter(word for record in records for word in words(record.text or ""))
    rare = {word for word, count in counts.items() if count < min_count}
    return [_without_text(r) if rare.intersection(words(r.text or "")) else r for r in records]


def _without_text(record: Record) -> Record:
    tasks = tuple(task for task in record.tasks if task not in ("asr", "srwt"))
    return replace(record, tasks=tasks, text=None)
