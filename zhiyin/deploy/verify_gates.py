"""How far two results are apart, and how far they may be: measures, and the gates of `gates.toml`."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from zhiyin.audio.features import Float32
from zhiyin.config import read_toml
from zhiyin.errors import UserError
from zhiyin.runtime import bundle
from zhiyin.runtime.load import Loaded
from zhiyin.text.score import edits, words

DEFAULT = Path(__file__).parent / "gates.toml"
_PRECISIONS = {"fp16": "float16", "mixed": "float16"}  # how a device computes -> gates


@dataclass(frozen=True)
class Gate:
    """Limits of one row; what is None is not limited. See `gates.toml` for their meaning."""

    min_cosine: float | None = None
    max_relative_l2: float | None = None
    min_top1: float | None = None
    max_error: float | None = None


@dataclass(frozen=True)
class Gates:
    """Limits of every row for one number format."""

    features: Gate
    embeddings: Gate
    block: Gate
    encoder: Gate
    projector: Gate
    ctc: Gate
    decoder: Gate
    reply: Gate
    text: Gate
    repeat: Gate
    layer: Gate

    def of(self, row: str) -> Gate:
        """The gate of a row, e.g. of ``encoder blocks.3`` or ``decoder in a batch``."""
        name = row.removesuffix(" in a batch")
        known = {field.name for field in fields(self)}
        gate: Gate = getattr(self, name if name in known else "block")
        return gate


@dataclass(frozen=True)
class _File:
    float32: Gates
    float16: Gates
    bfloat16: Gates
    int8: Gates


@dataclass(frozen=True)
class Measures:
    """How far results are from the reference's; None where it does not apply.

    Attributes:
        cosine: of the results as long vectors.
        mean_abs: mean absolute difference.
        max_abs: largest absolute difference.
        relative_l2: length of the difference by the length of the reference's result.
        top1: share of rows whose largest value is in the same place.
        error: edit distance by length.
        fault: what makes a comparison impossible: another shape, values that are not finite.
    """

    cosine: float | None = None
    mean_abs: float | None = None
    max_abs: float | None = None
    relative_l2: float | None = None
    top1: float | None = None
    error: float | None = None
    fault: str = ""


def read(path: Path | None, model: Loaded) -> tuple[str, Gates]:
    """The number format a model computes in, and its gates.

    Raises:
        UserError: the file is missing, damaged, or lacks a gate.
    """
    precision = model.backend.spec.precision
    target = bundle.read_target(Path(model.source)) if (Path(model.source) / bundle.RECORD).is_file() else None
    if target is not None and precision == "float32":
        precision = _PRECISIONS.get(target.precision, precision)
    precision = precision.partition("-")[0]  # int8-dynamic: the same weights
    gates: Gates | None = getattr(read_toml(path or DEFAULT, _File), precision, None)
    if gates is None:
        known = " ".join(field.name for field in fields(_File))
        raise UserError(
            f"model '{model.backend.spec.name}' computes in {precision}, for which no gates are known: {known}"
        )
    return precision, gates


def compare(expected: Float32, got: Float32, *, logits: bool) -> Measures:
    """Measures of two arrays, in float64; of `logits` [N, V] also how often the best token is the same."""
    if expected.shape != got.shape:
        return Measures(fault=f"shape {list(got.shape)} instead of {list(expected.shape)}")
    if not np.isfinite(expected).all():
        return Measures(fault="the reference is not finite")
    wrong = int((~np.isfinite(got)).sum())
    if wrong:
        return Measures(fault=f"{wrong} of {got.size} values are not finite")
    left, right = expected.astype(np.float64).ravel(), got.astype(np.float64).ravel()
    difference = np.abs(left - right)
    lengths = float(np.linalg.norm(left)), float(np.linalg.norm(right))
    same = not difference.any()
    return Measures(
        cosine=1.0 if same else float(left @ right / (lengths[0] * lengths[1] or 1e-300)),
        mean_abs=float(difference.mean()) if difference.size else 0.0,
        max_abs=float(difference.max(initial=0.0)),
        relative_l2=0.0 if same else float(np.linalg.norm(left - right) / (lengths[0] or 1e-300)),
        top1=float((expected.argmax(-1) == got.argmax(-1)).mean()) if logits and expected.size else None,
    )


def compare_tokens(expected: tuple[int, ...], got: tuple[int, ...]) -> Measures:
    """Edit distance of two replies by the length of the first."""
    return Measures(error=edits([str(i) for i in expected], [str(i) for i in got]) / max(1, len(expected)))


def compare_texts(expected: str, got: str) -> Measures:
    """Edit distance of two texts, in words and Chinese characters, by the length of the first."""
    return Measures(error=edits(words(expected), words(got)) / max(1, len(words(expected))))


def worst(of: list[Measures]) -> Measures:
    """The worst of each measure; of the mean absolute difference the mean."""

    def column(name: str) -> list[float]:
        return [value for one in of if (value := getattr(one, name)) is not None]

    def pick(name: str, choose: object) -> float | None:
        values = column(name)
        return None if not values else float(choose(values))  # type: ignore[operator]

    return Measures(
        cosine=pick("cosine", min),
        mean_abs=pick("mean_abs", np.mean),
        max_abs=pick("max_abs", max),
        relative_l2=pick("relative_l2", max),
        top1=pick("top1", min),
        error=pick("error", max),
        fault="; ".join(dict.fromkeys(one.fault for one in of if one.fault)),
    )


def broken(measures: Measures, gate: Gate) -> str:
    """Which limits are exceeded, e.g. ``cosine 0.91 < 0.9999``; nothing where none is."""
    wrong = [measures.fault] if measures.fault else []
    for name, limit, is_least in (
        ("cosine", gate.min_cosine, True),
        ("relative_l2", gate.max_relative_l2, False),
        ("top1", gate.min_top1, True),
        ("error", gate.max_error, False),
    ):
        value = getattr(measures, name)
        if value is None or limit is None or (value >= limit if is_least else value <= limit):
            continue
        wrong.append(f"{name} {value:.3g} {'<' if is_least else '>'} {limit:g}")
    return ", ".join(wrong)
