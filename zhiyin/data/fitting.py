"""Which records a stage draws, and for which of their tasks."""

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

from zhiyin.data.manifest import Record
from zhiyin.text.score import words


def fit(
    records: Sequence[Record], max_audio_s: float, only: Mapping[str, tuple[str, ...]], min_word_count: int
) -> list[Record]:
    """Records up to a length, without what their sources are not used for and without rare words.

    Args:
        records: all there are.
        max_audio_s, only, min_word_count: of the settings (`loader.LoaderConfig`).
    """
    fitting = [_restricted(record, only) for record in records if record.duration_s <= max_audio_s]
    return [record for record in _without_rare_words(fitting, min_word_count) if record.tasks]


def key(record: Record, table: Container[str]) -> str:
    """Where a table of settings speaks of a record: under its source and age group, or under its source."""
    exact = f"{record.source}/{record.age_group}"
    return exact if exact in table else record.source


def _restricted(record: Record, only: Mapping[str, tuple[str, ...]]) -> Record:
    allowed = only.get(key(record, only))
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
