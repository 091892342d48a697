"""Settings of the service: file, flags, checks, folders."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from zhiyin.errors import UserError
from zhiyin.serve import settings
from zhiyin.serve.settings import Limits, Settings


def test_without_anything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZHIYIN_DATA", str(tmp_path))
    assert settings.read(None, {"port": None}) == Settings(data=tmp_path)


def test_the_default_folder_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ZHIYIN_DATA", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/somebody")
    assert settings.default_data() == Path("/somebody/.local/share/zhiyin/service")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert settings.default_data() == Path("/data/zhiyin/service")
    monkeypatch.setenv("ZHIYIN_DATA", "~/mine")
    assert settings.default_data() == Path("/somebody/mine")
    assert not settings.default_data().is_relative_to(tempfile.gettempdir())


def test_flags_overrule_the_file(tmp_path: Path) -> None:
    file = tmp_path / "service.toml"
    file.write_text('data = "/a"\nport = 80\ndevices = ["cpu"]\ndrain_s = 5\n[limits]\njobs = 7\naudio_s = 60\n')
    found = settings.read(file, {"port": 81, "host": "::1", "limits": {"audio_s": 5.0}, "db": None})
    assert found == Settings(
        data=Path("/a"), port=81, devices=("cpu",), host="::1", drain_s=5.0, limits=Limits(jobs=7, audio_s=5.0)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "no setting 'prot'; did you mean 'port'"),
        ("[limits]\njob = 1", "limits: no setting 'job'; did you mean 'jobs'"),
        ("port = '80'", "port: int was expected"),
        ("port = 65536", "ports go from 0"),
        ("threads = -1", "threads is -1; give a number from 0 on"),
        ("[limits]\nfree_bytes = -1", "limits.free_bytes is -1"),
        ("drain_s = inf", "drain_s is inf"),
        ("drain_s = nan", "drain_s is nan"),
        ("slots = 0", "slots is 0; give at least 1"),
        ("devices = []", "devices is empty"),
        ("tls_cert = 'a.pem'", "belong together"),
        ("limits = 3", "a table of settings was expected"),
        ("a b", "not TOML"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "service.toml"
    file.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        settings.read(file, {})
    assert str(error.value).startswith(f"config {file}: ") and "\n" not in str(error.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        settings.read(tmp_path / "no.toml", {})
    (tmp_path / "no.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not TOML"):
        settings.read(tmp_path / "no.toml", {})


def test_folders_are_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = settings.folders(Settings(data=tmp_path / "a" / "b"))
        (made.audio).chmod(0o755)
        made = settings.folders(Settings(data=tmp_path / "a" / "b"))
    finally:
        os.umask(before)
    assert made.database.parent == made.data == tmp_path / "a" / "b"
    for folder in (made.data, made.uploads, made.audio, made.journals, made.audit):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be made .*; give another with --data DIR"):
        settings.folders(Settings(data=tmp_path / "file" / "data"))
