"""Figures of a running service in Prometheus' text format: requests, jobs, the queue, batches, devices, latencies.

No label holds anything a client can choose: routes are templates, never paths; there are no names of users.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from zhiyin.serve.job import Job

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_FACTORS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Worker(Protocol):
    """What is shown of a worker; `Dispatcher.workers()` gives them."""

    @property
    def device(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def memory_bytes(self) -> int | None: ...
    @property
    def device_memory(self) -> tuple[int, int] | None: ...


class Workers(Protocol):
    """Whoever knows the workers."""

    def workers(self) -> Sequence[Worker]:
        """As they are now."""


class Metrics:
    """The figures of one service, in a registry of its own; safe between threads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        own = self.registry
        self._requests = Counter("zhiyin_requests", "Answered requests.", ("method", "route", "status"), registry=own)
        self._errors = Counter("zhiyin_errors", "Requests answered with 5xx, and failed jobs.", ("kind",), registry=own)
        self._latency = Histogram(
            "zhiyin_request_seconds", "Until a request was answered.", ("route",), registry=own, buckets=_SECONDS
        )
        self._now = Gauge("zhiyin_requests_in_progress", "Requests and streams being answered.", registry=own)
        self._jobs = Counter("zhiyin_jobs", "Jobs that ended.", ("mode", "state"), registry=own)
        self._audio = Counter("zhiyin_audio_seconds", "Audio that was understood.", ("mode",), registry=own)
        self._computing = Counter("zhiyin_processing_seconds", "Time it took.", ("mode",), registry=own)
        self._factor = Histogram(
            "zhiyin_real_time_factor", "Processing time by audio time of a job.", registry=own, buckets=_FACTORS
        )
        self._depth = Gauge("zhiyin_queue_depth", "Jobs that wait.", registry=own)
        self._wait = Histogram("zhiyin_queue_wait_seconds", "From accepted to begun.", registry=own, buckets=_SECONDS)
        self._total = Histogram(
            "zhiyin_job_seconds", "From accepted to done.", ("mode",), registry=own, buckets=_SECONDS
        )
        self._first = Histogram(
            "zhiyin_first_text_seconds", "Until the first text of a stream.", ("kind",), registry=own, buckets=_SECONDS
        )
        self._batch = Histogram("zhiyin_batch_windows", "Windows computed together.", registry=own, buckets=_BATCHES)
        self._audit = Counter("zhiyin_audit_failures", "Audit lines that could not be written.", registry=own)

    def text(self) -> bytes:
        """What `/metrics` answers."""
        return generate_latest(self.registry)

    def watch(self, workers: Workers) -> None:
        """Show memory and state of these at every look."""
        self.registry.register(_Devices(workers))

    def request_began(self) -> None:
        """One more is being answered."""
        self._now.inc()

    def request_done(self, method: str, route: str, status: int, seconds: float, first_s: float | None) -> None:
        """It was answered; `first_s` is when the first bytes of an event stream left."""
        self._now.dec()
        self._requests.labels(method, route, str(status)).inc()
        self._latency.labels(route).observe(seconds)
        if status >= 500:
            self._errors.labels("request").inc()
        if first_s is not None:
            self.first_text("sse", first_s)

    def job_done(self, job: Job) -> None:
        """A job reached its last state."""
        self._jobs.labels(job.mode, job.state).inc()
        if job.state == "failed":
            self._errors.labels("job").inc()
        if job.started_at is not None:
            self._wait.observe(max(0.0, (job.started_at - job.created_at).total_seconds()))
        if job.state == "done":
            self._audio.labels(job.mode).inc(job.duration_s)
            self._computing.labels(job.mode).inc(job.processing_s)
            if job.duration_s > 0:
                self._factor.observe(job.real_time_factor)
            if job.finished_at is not None:
                self._total.labels(job.mode).observe(max(0.0, (job.finished_at - job.created_at).total_seconds()))

    def batch(self, size: int) -> None:
        """So many windows were computed together."""
        self._batch.observe(size)

    def queue(self, depth: int) -> None:
        """So many jobs wait now."""
        self._depth.set(depth)

    def first_text(self, kind: str, seconds: float) -> None:
        """The first text of a stream (`sse`, `live`, `realtime`) came after so long."""
        self._first.labels(kind).observe(seconds)

    def audit_failed(self) -> None:
        """An audit line could not be written."""
        self._audit.inc()


class _Devices(Collector):
    """Asked at every look, so that nobody has to keep gauges up to date."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Worker and device memory, and which workers are ready."""
        device = GaugeMetricFamily(
            "zhiyin_device_memory_bytes", "Memory of a device.", labels=("worker", "device", "what")
        )
        own = GaugeMetricFamily("zhiyin_worker_memory_bytes", "Memory of a worker.", labels=("worker", "device"))
        ready = GaugeMetricFamily("zhiyin_worker_ready", "1: it can work.", labels=("worker", "device"))
        for number, worker in enumerate(self._workers.workers()):
            who = (str(number), worker.device.split(" ")[0])  # without the reason
            own.add_metric(who, worker.memory_bytes or 0)
            ready.add_metric(who, float(worker.state == "ready"))
            if worker.device_memory is not None:
                for what, value in zip(("used", "total"), worker.device_memory, strict=True):
                    device.add_metric((*who, what), value)
        yield from (device, own, ready)
