"""The pocket model in graphs of fixed size says of every sample what its packaged bundle says."""

import dataclasses
from pathlib import Path

import numpy as np
import soundfile

import zhiyin
from zhiyin.deploy.export import export
from zhiyin.deploy.export_plan import Options
from zhiyin.result import Result

POCKET = Path(zhiyin.__file__).parent / "pocket"


def said(result: Result) -> list[object]:
    return [(s.start_s, s.end_s, s.text, s.words, s.labels) for s in result.segments]


def test_samples_say_the_same(repository: Path, tmp_path: Path) -> None:
    options = Options("int8", buckets_s=(1.8, 4.0))
    static = zhiyin.load(export(POCKET / "checkpoint", tmp_path / "out", options).folder, threads=1)
    packaged = zhiyin.load("pocket", backend="onnx", threads=1)
    paths = sorted((repository / "samples").glob("*.flac"))
    durations_s = [soundfile.info(path).duration for path in paths]
    assert min(durations_s) < 1.8 < max(durations_s) < 4.0, "both buckets are used"
    for path in paths:
        for task in ("srwt", "ved"):
            one, other = (model.understand(path, tasks=[task]) for model in (static, packaged))
            assert said(one) == said(other) and one.segments
    # A recording longer than the longest bucket: windows are cut for it, and not a sample is lost in silence.
    joined = np.concatenate([soundfile.read(path, dtype="float32")[0] for path in paths * 2])
    spec = packaged.loaded.backend.spec
    assert static.loaded.backend.spec.max_window_s == 4.0 < spec.max_window_s < len(joined) / 16_000
    packaged.loaded.backend.spec = dataclasses.replace(spec, max_window_s=4.0)
    one, other = (model.understand(joined, tasks=["srwt"]) for model in (static, packaged))
    assert said(one) == said(other) and len(one.segments) > 4
