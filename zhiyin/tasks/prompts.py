"""The fixed sentences of OSUM: one for each combination of tasks, for models trained with nothing else.

The sentences are data, `prompts/fixed.json`: "asr+ser" -> language -> sentence. Beside it, in `prompts/families/`, lie
the prompts of each family of models (`tasks.families`). Requests in people's own words are in `tasks.instructions`.
"""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from zhiyin.errors import UserError
from zhiyin.tasks.table import Task

FOLDER = Path(__file__).with_name("prompts")


def fixed(tasks: Sequence[Task], language: str = "zh") -> str:
    """The fixed sentence for a combination, for models trained with one sentence per combination.

    The Chinese ones are the first variants of OSUM's `conf/prompt_config.yaml`, word for word; the English ones are
    ours and say the same. Both spell out OSUM's label sets.

    Raises:
        UserError: the combination has no fixed sentence, or none in the language.
    """
    known = _sentences()
    wanted = frozenset(task.id for task in tasks)
    for key, sentences in known.items():
        if wanted == frozenset(key.split("+")):
            if language not in sentences:
                raise UserError(f"there is no fixed prompt in language '{language}'; languages: {' '.join(sentences)}")
            return sentences[language]
    asked = "+".join(task.id for task in tasks)
    raise UserError(f"there is no fixed prompt for '{asked}'; there is one for: {' '.join(known)}")


@cache
def _sentences() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads((FOLDER / "fixed.json").read_text(encoding="utf-8"))
    return found
