"""Texts to answer or to translate: those of records, and as many as one likes from a grammar, none of dev or test."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from zhiyin.data import synth_grammar, synth_lines
from zhiyin.data.manifest import Record
from zhiyin.data.synth_rules import SOURCE, Source
from zhiyin.data.synth_run import Plan
from zhiyin.tasks import instructions

_SHARES = {"dev": Plan.dev / 100, "test": Plan.test / 100}  # as `zhiyin data synth` divides sentences by itself
_RECORD_SHARE = 0.3  # of what is drawn, where there is a grammar beside the records


class Texts:
    """What text-only rows are told, with the truth about it."""

    def __init__(self, records: Sequence[Record], grammars: Sequence[str] = ()):
        """Prepare.

        Args:
            records: with a text, and an answer or a translation of it.
            grammars: whose train sentences are drawn beside them; dev and test are those of `zhiyin data synth` with
                its own shares.

        Raises:
            UserError: there is no such grammar.
        """
        self.records = records
        read = [source for name in grammars for source in synth_grammar.read(name)]
        self.sources = [source for source in map(_answerable, read) if source is not None]

    def __bool__(self) -> bool:
        return bool(self.records or self.sources)

    def draw(self, rng: random.Random) -> Record:
        """A record, which may have no audio."""
        if self.records and (not self.sources or rng.random() < _RECORD_SHARE):
            return rng.choice(self.records)
        [source] = rng.choices(self.sources, [source.weight for source in self.sources])
        line = synth_lines.draw(source, "train", rng, _SHARES)
        instruction = ""
        if line.topic:
            instruction = rng.choice(instructions.about(line.topic, rng.choice(instructions.LANGUAGES), "train"))
        return Record(
            id="",
            audio=Path(),
            duration_s=0.0,
            tasks=("ast",) if line.translation else ("sttc",),
            text=line.text,
            answer=line.answer,
            translation=line.translation,
            instruction=instruction,
            language=line.language,
            source=SOURCE,
        )


def _answerable(source: Source) -> Source | None:
    """A grammar without the rules that have neither answers nor translations; nothing where no rule is left."""
    rules = tuple(rule for rule in source.grammar.rules if rule.answer or rule.translate)
    return replace(source, grammar=replace(source.grammar, rules=rules)) if rules else None
