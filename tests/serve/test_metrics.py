"""Figures for Prometheus: read back by its own parser, compared with what was done."""

from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.serve.gates import client, small
from zhiyin.serve.metrics import Metrics


def values(text: str) -> dict[tuple[str, ...], float]:
    """(name, label values sorted by label name) -> value."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def job(**given: Any) -> Any:
    """What metrics read of a job."""
    began = datetime(2026, 5, 1, tzinfo=timezone.utc)
    usual = {
        "mode": "upload",
        "state": "done",
        "created_at": began,
        "started_at": began + timedelta(seconds=3),
        "finished_at": began + timedelta(seconds=5),
        "duration_s": 8.0,
        "processing_s": 2.0,
        "real_time_factor": 0.25,
    }
    return SimpleNamespace(**(usual | given))


def test_requests(tmp_path: Path) -> None:
    service = small(tmp_path / "data")
    here = client(service)
    for path in ("/api/history/a", "/api/history/b", "/api/fault", "/made-up-1", "/made-up-2", "/api/stream"):
        here.get(path)
    answer = here.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = values(answer.text)
    assert found["zhiyin_requests_total", "GET", "/api/history/{id}", "200"] == 2
    assert found["zhiyin_requests_total", "GET", "/api/fault", "500"] == 1 == found["zhiyin_errors_total", "request"]
    assert found["zhiyin_requests_total", "GET", "unmatched", "404"] == 2 and "made-up" not in answer.text
    assert found["zhiyin_requests_in_progress",] == 1  # this one
    assert found["zhiyin_first_text_seconds_count", "sse"] == 1  # only streams have a first text
    assert found["zhiyin_request_seconds_count", "/api/stream"] == 1
    assert found["zhiyin_device_memory_bytes", "cpu", "used", "0"] == 3
    assert found["zhiyin_device_memory_bytes", "cpu", "total", "0"] == 10
    assert found["zhiyin_worker_memory_bytes", "cpu", "0"] == 7 << 20
    assert found["zhiyin_worker_ready", "cpu", "0"] == 1
    assert found["process_open_fds",] > 0


def test_jobs() -> None:
    metrics = Metrics()
    metrics.job_done(job())
    metrics.job_done(job(state="failed", duration_s=100.0))
    metrics.job_done(job(state="cancelled", started_at=None, finished_at=None))
    metrics.job_done(job(mode="live", duration_s=0.0, real_time_factor=0.0))
    metrics.batch(12)
    metrics.queue(5)
    metrics.queue(4)
    metrics.first_text("live", 0.7)
    found = values(metrics.text().decode())
    assert found["zhiyin_jobs_total", "upload", "done"] == found["zhiyin_jobs_total", "upload", "failed"] == 1
    assert found["zhiyin_audio_seconds_total", "upload"] == 8 and found["zhiyin_errors_total", "job"] == 1
    assert found["zhiyin_processing_seconds_total", "upload"] == 2
    assert found["zhiyin_real_time_factor_sum",] == 0.25 and found["zhiyin_real_time_factor_count",] == 1
    assert found["zhiyin_queue_wait_seconds_sum",] == 9 and found["zhiyin_queue_wait_seconds_count",] == 3
    assert found["zhiyin_job_seconds_sum", "upload"] == 5
    assert found["zhiyin_batch_windows_sum",] == 12 and found["zhiyin_batch_windows_bucket", "16.0"] == 1
    assert found["zhiyin_queue_depth",] == 4 and found["zhiyin_first_text_seconds_sum", "live"] == pytest.approx(0.7)


def test_two_services_in_one_process_do_not_share_figures() -> None:
    one, two = Metrics(), Metrics()
    one.batch(1)
    assert values(two.text().decode())["zhiyin_batch_windows_count",] == 0


def test_all_figures_of_the_issue_are_there(tmp_path: Path) -> None:
    names = {
        family.name for family in text_string_to_metric_families(client(small(tmp_path / "d")).get("/metrics").text)
    }
    assert {
        "zhiyin_requests",
        "zhiyin_errors",
        "zhiyin_audio_seconds",
        "zhiyin_real_time_factor",
        "zhiyin_queue_depth",
        "zhiyin_queue_wait_seconds",
        "zhiyin_batch_windows",
        "zhiyin_device_memory_bytes",
        "zhiyin_first_text_seconds",
        "zhiyin_request_seconds",
        "zhiyin_job_seconds",
    } <= names
