"""Answers for a judge, a person or another model, and the scores that come back; nothing here asks a model.

One JSON line per answer goes out: ``id``, ``question`` (the transcript), ``reference``, ``answer``. One JSON line per
answer comes back: ``id`` and ``score`` from 0 (useless) to 1 (as good as the reference).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zhiyin.data import manifest
from zhiyin.errors import UserError
from zhiyin.evaluate.measures import Row, said


def write(path: Path, rows: Sequence[Row]) -> int:
    """Write the answers of the rows that have one in truth; returns how many."""
    asked = [row for row in rows if "sttc" in row["tasks"] and row["reference"].get("answer")]
    lines: list[dict[str, Any]] = []
    for row in asked:
        truth = row["reference"]
        texts = {"question": truth.get("text") or "", "reference": truth["answer"], "answer": said(row)["answer"]}
        lines.append({"id": row["id"], **texts})
    manifest.write_lines(path, (json.dumps(line, ensure_ascii=False) for line in lines))
    return len(lines)


def read(path: Path) -> dict[str, float]:
    """Scores by id.

    Raises:
        UserError: the file is missing, or a line has no id or no score between 0 and 1.
    """
    found = {}
    for number, row in manifest.rows(path):
        score = row.get("score")
        if not isinstance(row.get("id"), str) or not isinstance(score, int | float) or not 0 <= score <= 1:
            raise UserError(
                f"judge's scores {path} line {number}: an id and a score from 0 to 1 are expected, got {row}; "
                "scores on another scale must be divided by its best one"
            )
        found[row["id"]] = float(score)
    return found
