"""`zhiyin info`: what a model says of itself and where it would run."""

import zhiyin


def describe(model: str | None, device: str, backend: str) -> str:
    """One ``name: value`` line per fact, after really loading the model."""
    running = zhiyin.load(model, device=device, backend=backend).loaded
    spec = running.backend.spec
    facts = {
        "model": spec.name,
        "folder": running.source,
        "family": spec.family,
        "tasks": " ".join(spec.tasks),
        **{f"labels {task}": ", ".join(labels) for task, labels in spec.labels.items()},
        "languages": " ".join(spec.languages) or "not said",
        "plain language": "yes" if spec.can_follow_instructions else "no",
        "window": f"{spec.max_window_s:g} s",
        "precision": spec.precision,
        "licence": spec.licence or "not said",
        "backend": running.backend.name,
        "device": str(running.backend.device),
        **{name: str(value) for name, value in spec.extra.items()},
    }
    return "".join(f"{name}: {value}\n" for name, value in facts.items())
