"""`zhiyin info`: what a model says of itself and where it would run."""

from collections.abc import Mapping
from typing import Any

import zhiyin
from zhiyin.ask import family_of
from zhiyin.tasks import table


def describe(model: str | None, device: str, backend: str) -> str:
    """One ``name: value`` line per fact, after really loading the model."""
    running = zhiyin.load(model, device=device, backend=backend).loaded
    spec = running.backend.spec
    family = family_of(spec)
    rows = table.with_labels([task for task in table.TASKS if task.id in spec.tasks], spec.labels)
    facts = {
        "model": spec.name,
        "folder": running.source,
        "family": f"{family.name} ({family.title})",
        "tasks": " ".join(spec.tasks),
        **{f"{task.id} labels": ", ".join(task.labels) for task in rows if task.labels},
        "asked at once": " ".join(family.at_once(spec.tasks)),
        "options": " ".join(family.options) or "none",
        "languages": " ".join(spec.languages or family.hears or family.languages) or "not said",
        **({"translates": " ".join(family.pairs)} if family.pairs else {}),
        **({"prompt templates": " ".join(family.choices)} if len(family.choices) > 1 else {}),
        "plain language": "yes" if spec.can_follow_instructions and family.can_follow_instructions else "no",
        "window": f"{spec.max_window_s:g} s",
        "precision": spec.precision,
        "licence": spec.licence or "not said",
        "backend": running.backend.name,
        "device": str(running.backend.device),
        **spec.extra,
    }
    return "".join(f"{name}: {_line(value)}\n" for name, value in facts.items())


def _line(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_line(item)}" for name, item in value.items())
    return str(value)
