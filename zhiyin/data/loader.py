"""Records into padded batches: mixed by weight, bucketed by length, resumable to the batch.

Shapes: `B` batch, `M` mel bins, `F` frames.
"""

import queue
import random
import threading
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import accumulate, cycle, islice

import numpy as np
from tokenizers import Tokenizer

from zhiyin.audio.features import Float32
from zhiyin.data import balance, fitting
from zhiyin.data.augment import AugmentConfig, augment
from zhiyin.data.cache import Features
from zhiyin.data.examples import Example, TaskMix, make, misheard, text_only
from zhiyin.data.manifest import Record
from zhiyin.data.told import Texts
from zhiyin.errors import UserError
from zhiyin.tasks import table
from zhiyin.text.score import words

FRAMES_PER_S = 100
_FREE = {"sttc", "ast"}
Labels = tuple[tuple[int, tuple[int, ...]], ...]  # tokens: pairs of a label and all labels of its task
_TEXT_DRAWS = 8  # rows drawn for each one of a batch without audio; half of an unsorted batch would be padding
_OF_THE_VOICE = {"sgc", "sap", "ser", "ssr"}  # answers that would change with the vocal tract


@dataclass(frozen=True)
class LoaderConfig:
    """How batches are made.

    Attributes:
        batch_s: most seconds of audio in a batch, padding counted.
        quadratic_s: a recording of d seconds counts as d + d² / quadratic_s in that bound, as the work of attention
            grows (lhotse's `quadratic_duration`); 0 counts seconds alone.
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
        variants: distorted waveforms of each record and speed that are kept beside the clean one.
        task_balance: 0 hears tasks as often as the data has them, 1 the same hours of each (`balance`).
        label_balance: the same for the labels of each task.
        text_share: share of the batches that have no audio (`examples.text_only`); 1 for a stage without audio.
        text_rows: rows of such a batch.
        text_grammars: of such rows, what is told may also be sentences of these grammars (`data.synth_grammar`).
        keep_features: compute features once and keep them; 16 MB per hour and speed. Else they are computed each time.
        workers: threads that make batches.
    """

    batch_s: float = 160.0
    quadratic_s: float = 0.0
    pool: int = 1024
    max_audio_s: float = 12.0
    growth: tuple[tuple[int, float], ...] = ()
    weights: dict[str, float] = field(default_factory=dict)
    only: dict[str, tuple[str, ...]] = field(default_factory=dict)
    min_word_count: int = 1
    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
    variants: int = 0
    task_balance: float = 0.0
    label_balance: float = 0.0
    text_share: float = 0.0
    text_rows: int = 64
    text_grammars: tuple[str, ...] = ()
    keep_features: bool = True
    workers: int = 1

    def __post_init__(self) -> None:
        for source, weight in self.weights.items():
            if not 0 <= weight < float("inf"):
                raise UserError(f"loader: the weight of {source} is {weight}; 0 leaves it out, 0.5 draws half of it")
        for name in ("task_balance", "label_balance", "text_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"loader: {name} is {getattr(self, name)}; it lies between 0 and 1")
        for name in ("batch_s", "pool", "max_audio_s", "text_rows", "workers"):
            if getattr(self, name) <= 0:
                raise UserError(f"loader: {name} is {getattr(self, name)}; it must be more than 0")
        if self.quadratic_s < 0 or self.variants < 0:
            raise UserError("loader: quadratic_s and variants cannot be below 0")
        if not self.speeds or min(self.speeds) <= 0:
            raise UserError(f"loader: speeds are {list(self.speeds)}; at least one is needed, all more than 0")


@dataclass(frozen=True)
class Batch:
    """A padded batch; `prompts`, `targets` (with end token) and `transcripts` (for CTC, None unknown) are token ids.

    `heard`, where any row is told anything, are the ids after the speech, without loss. `labels` are all that are known
    of a recording, whatever is asked; empty without audio.
    Of the rows marked in `voice_only_B` the decoder hears the vectors of the whole utterance alone. A batch without
    audio has no features, and its frames are 0.
    """

    mel_BMF: Float32 | None
    frames_B: np.ndarray
    prompts: tuple[tuple[int, ...], ...]
    targets: tuple[tuple[int, ...], ...]
    transcripts: tuple[tuple[int, ...] | None, ...]
    ids: tuple[str, ...]
    voice_only_B: np.ndarray
    heard: tuple[tuple[int, ...], ...] = ()
    labels: tuple[Labels, ...] = ()

    def only(self, row: int) -> "Batch":
        """The batch of one row."""
        part = slice(row, row + 1)
        mel = None if self.mel_BMF is None else self.mel_BMF[part]
        said = self.prompts[part], self.targets[part], self.transcripts[part]
        voice_only_B, labels = self.voice_only_B[part], self.labels[part]
        return Batch(mel, self.frames_B[part], *said, self.ids[part], voice_only_B, self.heard[part], labels)


@dataclass(frozen=True)
class Place:
    """Where a loader stands: which pool, and how many of its batches are used."""

    pool: int = 0
    batch: int = 0


@dataclass(frozen=True)
class Drawn:
    """A record as it was drawn."""

    record: Record
    speed: float
    variant: int = 0

    @property
    def played_s(self) -> float:
        """Seconds at its speed."""
        return self.record.duration_s / self.speed


Group = list[Drawn] | int  # what becomes a batch: recordings, or so many rows without audio


class Loader:
    """An endless, seeded stream of batches; of several processes each gets its part of every round."""

    rank = 0
    ranks = 1

    def __init__(
        self,
        records: Sequence[Record],
        features: Features | None,
        tokenizer: Tokenizer,
        labels: Mapping[str, tuple[str, ...]],
        config: LoaderConfig,
        mix: TaskMix,
        augmentation: AugmentConfig,
        *,
        eos_id: int,
        time_step_s: float,
        seed: int,
        weights: Mapping[str, float] | None = None,
        tasks: Sequence[str] = (),
        ctc_transcript: bool = False,
    ):
        """Prepare.

        Args:
            records: what can be drawn.
            features: of them; None for a stage without audio.
            tokenizer: of the model.
            labels: the model's own label sets.
            config: how batches are made.
            mix: how records become requests.
            augmentation: of features.
            eos_id: token that ends a target.
            time_step_s: resolution of word times.
            seed: of all choices.
            weights: record id -> weight of its source, where that is not 1.
            tasks: what rows without audio ask for; by default what the records have.
            ctc_transcript: whether the model is told the transcript before it answers or translates
                (`runtime.base.ModelSpec`).

        Raises:
            UserError: nothing can be drawn.
        """
        self.records = fitting.fit(records, config.max_audio_s, config.only, config.min_word_count)
        self.cache, self.tokenizer, self.labels = features, tokenizer, labels
        self.config, self.mix, self.augmentation = config, mix, augmentation
        self.eos_id, self.time_step_s, self.seed = eos_id, time_step_s, seed
        self.choices = _choices(tokenizer, labels)
        self.label_ids = sorted({token for ids in self.choices.values() for token in ids.values()})
        odds = [config.weights.get(fitting.key(r, config.weights), 1.0) for r in self.records]
        odds = [odd * (weights or {}).get(r.id, 1.0) for odd, r in zip(odds, self.records, strict=True)]
        self.odds = balance.odds(self.records, odds, tasks=config.task_balance, labels=config.label_balance)
        if self.records and config.text_share < 1 and not any(self.odds):
            raise UserError("data: all weights are 0, so nothing can be drawn; give one source a weight above 0")
        known = {task for record in self.records for task in record.tasks}
        self.tasks = tuple(tasks) or tuple(task.id for task in table.TASKS if task.id in known)
        self.texts = sorted({r.text for r in self.records if r.text}) if mix.transcript_share else []
        self.heard = {r.id: r.text for r in records if r.text} if ctc_transcript else {}
        told = [replace(r, text=self.heard[r.id]) for r in self.records if r.id in self.heard and _FREE & set(r.tasks)]
        self.told = Texts(told, config.text_grammars if ctc_transcript else ())
        spoken = sorted(set(self.heard.values())) if mix.misheard_share else []
        self.vocabulary = sorted({word for text in spoken for word in words(text)})
        self._cumulated: dict[float, list[float]] = {}

    def batches(self, start: Place) -> Generator[tuple[Batch, Place], None, None]:
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
        waiting: deque[tuple[Future[Batch], Place]] = deque()
        with ThreadPoolExecutor(self.config.workers) as threads:
            try:
                for group, seed, after in self._plan(start):
                    waiting.append((threads.submit(self._batch, group, seed), after))
                    if len(waiting) > self.config.workers:
                        made, place = waiting.popleft()
                        yield made.result(), place
            finally:
                for made, _ in waiting:
                    made.cancel()

    def _plan(self, start: Place) -> Iterator[tuple[Group, str, Place]]:
        """What becomes this process's batches from `start` on, the seed of each, and the place after its round."""
        pool = start.pool
        while True:
            groups = self._pool(pool)
            used = start.batch if pool == start.pool else 0
            first = -(-used // self.ranks) * self.ranks  # other numbers of processes have other rounds
            for i in range(first, len(groups), self.ranks):
                after = Place(pool, i + self.ranks) if i + self.ranks < len(groups) else Place(pool + 1, 0)
                yield groups[i + self.rank], f"{self.seed}:{pool}:{i + self.rank}", after
            pool += 1

    def _pool(self, number: int) -> list[Group]:
        """Draw records and speeds, group those of like length; a whole number of rounds, each with or without audio.

        In a round all processes run the same modules, as weights that are divided among them demand.
        """
        rng = random.Random(f"{self.seed}:{number}")
        share = self.config.text_share
        heard = [] if share == 1 else self._groups(number, rng)
        rounds = max(1, len(heard) // self.ranks) if heard else 0
        heard = list(islice(cycle(heard), rounds * self.ranks))
        if not share:
            return heard
        silent = round(share / (1 - share) * rounds) if heard else self.config.pool // self.config.text_rows
        kinds = [False] * rounds + [True] * max(1, silent)
        rng.shuffle(kinds)
        left = iter(heard)
        return [self.config.text_rows if kind else next(left) for kind in kinds for _ in range(self.ranks)]

    def _groups(self, number: int, rng: random.Random) -> list[Group]:
        limit_s = next((seconds for until, seconds in self.config.growth if number < until), self.config.max_audio_s)
        drawn = [
            Drawn(r, rng.choice(self.config.speeds))
            for r in rng.choices(self.records, cum_weights=self._odds(limit_s), k=self.config.pool)
        ]
        if self.config.variants:
            drawn = [replace(one, variant=rng.randint(0, self.config.variants)) for one in drawn]
        drawn.sort(key=lambda one: one.played_s)
        groups: list[list[Drawn]] = [[]]
        for one in drawn:
            longest = one.played_s + 2 * self.augmentation.pad_frames / FRAMES_PER_S
            longest += longest**2 / self.config.quadratic_s if self.config.quadratic_s else 0.0
            if groups[-1] and longest * (len(groups[-1]) + 1) > self.config.batch_s:
                groups.append([])
            groups[-1].append(one)
        rng.shuffle(groups)
        return list(groups)

    def _odds(self, limit_s: float) -> list[float]:
        """Odds of the records up to a length, summed up."""
        if limit_s not in self._cumulated:
            odds = [odd if r.duration_s <= limit_s else 0.0 for r, odd in zip(self.records, self.odds, strict=True)]
            self._cumulated[limit_s] = list(accumulate(odds))
            if not odds or self._cumulated[limit_s][-1] <= 0:
                raise UserError(
                    f"data: no record of up to {limit_s:g} s can be drawn; see loader.max_audio_s and growth"
                )
        return self._cumulated[limit_s]

    def _batch(self, group: Group, seed: str) -> Batch:
        rng = random.Random(seed)
        if isinstance(group, int):
            return self._text_batch(group, rng)
        assert self.cache is not None
        noise = np.random.default_rng(rng.randrange(2**32))
        mels, examples = [], []
        for one in group:
            clean = self.cache.get(one.record.id, one.speed, one.variant).astype(np.float32)
            keep_voice = bool(_OF_THE_VOICE & set(one.record.tasks))
            mel, front = augment(clean, self.augmentation, noise, keep_voice=keep_voice)
            mels.append(mel.T)
            examples.append(
                make(
                    one.record,
                    self.mix,
                    self.labels,
                    rng,
                    heard=self._heard(one.record, rng),
                    shift_s=front / FRAMES_PER_S,
                    speed=one.speed,
                    time_step_s=self.time_step_s,
                )
            )
        frames = np.array([mel.shape[1] for mel in mels])
        padded = np.zeros((len(mels), mels[0].shape[0], frames.max()), np.float32)
        for i, mel in enumerate(mels):
            padded[i, :, : mel.shape[1]] = mel
        batch = self._said(examples, padded, frames, tuple(one.record.id for one in group))
        return replace(batch, labels=tuple(self._labels_of(one.record) for one in group))

    def _labels_of(self, record: Record) -> Labels:
        """Those that the model has a token for, each with those of its whole task."""
        known = ((ids, record.labels.get(task)) for task, ids in self.choices.items() if task in record.tasks)
        return tuple((ids[name], tuple(ids.values())) for ids, name in known if name in ids)

    def _heard(self, record: Record, rng: random.Random) -> str:
        """What a CTC head hears of a record, errors included, where the decoder is told it."""
        text = self.heard.get(record.id, "") if _FREE & set(record.tasks) else ""
        return misheard(text, self.mix.misheard_share, self.vocabulary, rng) if self.vocabulary else text

    def _text_batch(self, count: int, rng: random.Random) -> Batch:
        drawn = [text_only(self.tasks, self.texts, self.mix, rng, self.told) for _ in range(_TEXT_DRAWS * count)]
        drawn.sort(key=lambda one: len(f"{one.prompt}{one.heard}{one.target}".encode()))  # bytes are much like tokens
        part = rng.randrange(_TEXT_DRAWS) * count  # rows of like length, all lengths as often as they are drawn
        examples = drawn[part : part + count]
        ids = tuple(example.prompt or example.target for example in examples)
        return self._said(examples, None, np.zeros(count, np.int64), ids)

    def _said(
        self, examples: Sequence[Example], mel_BMF: Float32 | None, frames_B: np.ndarray, ids: tuple[str, ...]
    ) -> Batch:
        return Batch(
            mel_BMF,
            frames_B,
            tuple(self._ids(example.prompt) for example in examples),
            tuple((*self._ids(example.target), self.eos_id) for example in examples),
            tuple(None if example.transcript is None else self._ids(example.transcript) for example in examples),
            ids,
            np.array([example.voice_only for example in examples]),
            tuple(self._ids(example.heard) for example in examples),
        )

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids) if text else ()


def _choices(tokenizer: Tokenizer, labels: Mapping[str, tuple[str, ...]]) -> dict[str, dict[str, int]]:
    """Task -> label -> its token; labels that are spelt in pieces are left out."""
    known = tokenizer.get_vocab()
    tasks = {task.id: task.labels for task in table.with_labels(table.TASKS, labels) if task.labels}
    return {task: {name: known[f"<{name}>"] for name in names if f"<{name}>" in known} for task, names in tasks.items()}
