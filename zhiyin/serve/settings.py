"""What one installation of the service is told: a TOML file, then flags of the command line."""

import dataclasses
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zhiyin.config import build
from zhiyin.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Limits:
    """What is refused, so that one user or one recording cannot take the service from the others.

    Attributes:
        upload_bytes: of one recording; 413 above it.
        audio_s: of one recording, decoded; 413 above it.
        jobs: waiting and running jobs of the whole service; then 503 with Retry-After.
        jobs_per_user: the same of one user; then 429 with Retry-After.
        requests_per_minute: of one user, or of one address without a user; 429 above it.
        bytes_per_day: uploaded by one user; 0 is no limit.
        audio_s_per_day: uploaded by one user; 0 is no limit.
        live_streams: at once, of the whole service.
        live_streams_per_user: at once, of one user.
        free_bytes: kept free on the disk of the data; 507 below it.
        upload_stall_s: an upload without a byte for so long is ended with 408.
        upload_bytes_per_s: an upload slower than this, on average after the first `upload_stall_s`, too.
    """

    upload_bytes: int = 2 << 30
    audio_s: float = 12 * 3600.0
    jobs: int = 1000
    jobs_per_user: int = 300
    requests_per_minute: int = 3000
    bytes_per_day: int = 0
    audio_s_per_day: float = 0.0
    live_streams: int = 32
    live_streams_per_user: int = 16
    free_bytes: int = 512 << 20
    upload_stall_s: float = 30.0
    upload_bytes_per_s: float = 1024.0


@dataclass(frozen=True)
class Settings:
    """One installation.

    Attributes:
        data: folder of everything that is kept: database, recordings, audit log.
        db: SQLAlchemy URL of the history, ``sqlite:///...`` or ``postgresql://...``; empty: SQLite in `data`.
        host: address to listen on.
        port: port to listen on.
        model: name or folder of the model; empty: the small one that ships with the package.
        devices: one worker for each, as `--device` of the command line takes them.
        backend: as `--backend`.
        threads: of one worker; 0 leaves it to the runtime.
        dtype: as `--dtype`.
        allow_fallback: whether a device that does not open may be replaced by the CPU, visibly.
        insecure: whether an address other than loopback may be served without any token.
        page: whether the web page is served.
        tls_cert: PEM file of the certificate chain; with `tls_key` the service speaks TLS itself.
        tls_key: PEM file of its key.
        trusted_proxies: addresses whose X-Forwarded-For is believed.
        origins: origins beside our own from which browsers may use cookies and WebSockets.
        keep_days: age in days at which history and recordings are removed; 0 keeps them.
        keep_deleted_days: days for which a deletion in the history can be undone; 0 keeps them.
        keep_audio: whether recordings are kept after they were understood.
        audit_days: how long the audit log is kept.
        idle_unload_s: a model that was not used for so long is unloaded; 0 is never.
        slots: recordings a worker works on at once.
        attempts: how often a job is begun before it fails (a killed worker, a lost device).
        drain_s: how long a stop waits for what is being worked on.
        limits: what is refused.
    """

    data: Path
    db: str = ""
    host: str = "127.0.0.1"
    port: int = 7860
    model: str = ""
    devices: tuple[str, ...] = ("auto",)
    backend: str = "auto"
    threads: int = 0
    dtype: str = "auto"
    allow_fallback: bool = False
    insecure: bool = False
    page: bool = True
    tls_cert: str = ""
    tls_key: str = ""
    trusted_proxies: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    keep_days: int = 0
    keep_deleted_days: int = 30
    keep_audio: bool = True
    audit_days: int = 180
    idle_unload_s: float = 0.0
    slots: int = 16
    attempts: int = 3
    drain_s: float = 30.0
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Folders:
    """Where an installation keeps its things; all under its data folder.

    Attributes:
        data: the data folder itself.
        uploads: recordings that are still arriving, ``*.part``.
        audio: recordings of jobs.
        journals: what was heard of recordings that are worked on.
        audit: audit log.
        database: file of the SQLite history; not there where `Settings.db` names another.
    """

    data: Path
    uploads: Path
    audio: Path
    journals: Path
    audit: Path
    database: Path


def default_data() -> Path:
    """Where an installation lies by itself: in the user's data folder, never in a temporary one."""
    if own := os.environ.get("ZHIYIN_DATA"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "zhiyin" / "service"


def read(file: Path | None, given: Mapping[str, object]) -> Settings:
    """Settings of a TOML file, overruled by what was given as flags.

    Args:
        file: a TOML file, or none.
        given: field name -> value; None is a flag that was not given. ``limits`` may be a mapping of its own.

    Raises:
        UserError: the file cannot be read, a name is unknown, or a value does not fit.
    """
    where = f"config {file}" if file else "settings"
    record = _toml(file) if file else {}
    flags = {name: value for name, value in given.items() if value is not None}
    limits = record.get("limits", {})
    if isinstance(flags.get("limits"), Mapping) and isinstance(limits, dict):
        flags["limits"] = {**limits, **flags["limits"]}  # type: ignore[dict-item]
    record = {"data": default_data(), **record, **flags}
    if isinstance(record["data"], str):
        record["data"] = Path(record["data"]).expanduser()
    settings = build(Settings, record, where)
    _check(settings, where)
    return settings


def folders(settings: Settings) -> Folders:
    """The folders of an installation, made where they are missing; nobody else may look into them.

    Raises:
        UserError: one cannot be made or written to.
    """
    data = settings.data.absolute()
    names = ("uploads", "audio", "journals", "audit")
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in names:
            (data / name).mkdir(mode=0o700, exist_ok=True)
            (data / name).chmod(0o700)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"data folder {data}: cannot be made ({reason}); give another with --data DIR") from None
    if not os.access(data, os.W_OK | os.X_OK):
        raise UserError(f"data folder {data}: cannot be written to; give another with --data DIR")
    return Folders(data, **{name: data / name for name in names}, database=data / "history.db")


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"config {file}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"config {file}: not TOML ({error})") from None


def _check(settings: Settings, where: str) -> None:
    """What types do not say."""
    for part, prefix in ((settings, ""), (settings.limits, "limits.")):
        for one in dataclasses.fields(part):
            value = getattr(part, one.name)
            if isinstance(value, int | float) and not 0 <= value < float("inf"):
                raise UserError(f"{where}: {prefix}{one.name} is {value}; give a number from 0 on")
    if not 0 <= settings.port <= 65535:
        raise UserError(f"{where}: port {settings.port}; ports go from 0 (any free one) to 65535")
    if not settings.devices or not all(settings.devices):
        raise UserError(f"{where}: devices is empty; give at least one, 'auto' chooses")
    for name in ("slots", "attempts"):
        if getattr(settings, name) < 1:
            raise UserError(f"{where}: {name} is 0; give at least 1")
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise UserError(f"{where}: tls_cert and tls_key belong together; give both or none")
