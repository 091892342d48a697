"""Jobs and results for tests of the history."""

from typing import Any

from zhiyin.result import Result, Segment, Turn, Word
from zhiyin.serve.jobs import Job, Jobs, Wish


def result(text: str = "今天开会 turn left", **others: Any) -> Result:
    """A result with everything in it."""
    words = (Word("今天", 0.1, 0.5, "ctc"), Word("开会", 0.5, 1.0, "ctc"))
    segment = Segment(0.1, 1.0, text, words, {"ser": "happy"}, tasks=("asr", "ser"), language="zh")
    second = Segment(2.0, 2.5, "hello", turns=(Turn("Speaker 1", "hello"),), guards=("repetition cut",), language="en")
    given = {
        "source": "会议.wav",
        "duration_s": 3.0,
        "tasks": ("asr", "ser"),
        "text": text,
        "written": text.upper(),
        "labels": {"ser": "happy"},
        "segments": (segment, second),
        "model": "pocket",
        "backend": "onnx",
        "device": "cpu (auto: no other device)",
        "precision": "float32",
        "processing_s": 0.6,
    }
    return Result(**{**given, **others})


def new(jobs: Jobs, **others: Any) -> Job:
    """A queued job."""
    given: dict[str, Any] = {"user": "li", "mode": "upload", "file_name": "会议.wav", "audio": "", "sha256": "ab" * 32}
    return jobs.add(**{**given, "bytes": 10, "wish": Wish(tasks=("asr", "ser")), **others})


def done(jobs: Jobs, text: str = "今天开会 turn left", *, found: dict[str, Any] | None = None, **others: Any) -> Job:
    """A job that is done; `found` goes into its result."""
    job = new(jobs, **others)
    jobs.claim(job.id)
    assert jobs.finish(job.id, result(text, **(found or {})), "abc")
    kept = jobs.get(job.id, None)
    assert kept is not None
    return kept
