"""Pulling models from a hub, and what is then said of them; the hub runs on this machine."""

import hashlib
import json
import pickle
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.fake_hub import COMMIT, Hub, serving
from zhiyin.errors import UserError
from zhiyin.runtime import hf_hub, hf_spec, known, store

NAME = "granite-speech-4.1-2b"
REPOSITORY = "ibm-granite/granite-speech-4.1-2b"
WEIGHTS = random.Random(1).randbytes(50_000)
FILES = {
    "config.json": b'{"model_type": "granite_speech"}',
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}",
    "empty.txt": b"",
    "README.md": b"# a model",
    "out_llm.safetensors": b"the same once more" * 100,
    "modeling.py": b"print('never')",
    "pytorch_model.bin": pickle.dumps(print),
    "assets/model.safetensors": b"in a folder",
}
WANTED = {"config.json", "model.safetensors", "tokenizer.json", "empty.txt", "README.md"}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of its own, the network allowed, no waiting."""
    monkeypatch.setenv("ZHIYIN_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(hf_hub, "RETRY_WAIT_S", 0.0)
    return tmp_path / "home" / "models"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub(dict(FILES))) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address + "/")
        yield running


def ranges(hub: Hub, file: str) -> list[str | None]:
    """The Range of every request for a file."""
    return [wanted for _, path, wanted, _ in hub.seen if path.endswith(f"/{file}")]


# --- pulling


def test_pull_takes_what_is_needed_and_nothing_else(hub: Hub, place: Path) -> None:
    lines: list[str] = []
    folder = store.pull(NAME, report=lines.append)
    assert folder == place / NAME == store.find(NAME)
    assert {path.name for path in folder.iterdir()} == WANTED | {store.MANIFEST}
    assert all((folder / name).read_bytes() == FILES[name] for name in WANTED)
    assert [path.name for path in place.iterdir()] == [NAME]  # nothing half-made lies beside it
    assert lines == [f"{REPOSITORY} at {COMMIT[:12]}; licence: Apache-2.0"]
    record = json.loads((folder / store.MANIFEST).read_text())
    assert (record["repository"], record["revision"], record["asked"]) == (REPOSITORY, COMMIT, "main")
    assert record["files"]["model.safetensors"] == {
        "bytes": len(WEIGHTS),
        "sha256": hashlib.sha256(WEIGHTS).hexdigest(),
    }
    assert set(record["files"]) == WANTED


def test_the_fake_hub_is_one_for_the_library_too(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else these tests would prove that two mistakes fit each other."""
    library = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(pytest.importorskip("huggingface_hub.constants"), "HF_HUB_OFFLINE", False)
    info = library.HfApi(endpoint=hub.address).model_info(REPOSITORY, files_metadata=True)
    ours = hf_hub.look_up(REPOSITORY, "main")
    assert {(s.rfilename, s.size, s.lfs.sha256 if s.lfs else "") for s in info.siblings} == {
        (file.path, file.size, file.sha256) for file in ours.files
    }
    assert (info.sha, info.card_data.license) == (ours.commit, ours.licence)
    path = library.hf_hub_download(
        REPOSITORY, "model.safetensors", revision=COMMIT, endpoint=hub.address, local_dir=tmp_path / "theirs"
    )
    assert Path(path).read_bytes() == WEIGHTS


def test_a_broken_connection_goes_on_where_it_stopped(hub: Hub) -> None:
    hub.drop_after = {"model.safetensors": [20_000, 7], "config.json": [5]}
    folder = store.pull(NAME)
    assert ranges(hub, "model.safetensors") == [None, "bytes=20000-", "bytes=20007-"]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert not store.check(folder)


def test_an_interrupted_pull_resumes_with_the_same_commit(hub: Hub, place: Path) -> None:
    def stop(step: store.Step) -> None:
        if step.file == "model.safetensors" and step.done_bytes:
            raise KeyboardInterrupt

    hub.drop_after = {"model.safetensors": [20_000]}
    with pytest.raises(KeyboardInterrupt):
        store.pull(NAME, on_step=stop)
    with pytest.raises(UserError, match=f"only partly here; zhiyin pull {NAME} goes on"):
        store.find(NAME)
    [entry] = store.entries()
    assert (entry.name, entry.complete, entry.repository) == (NAME, False, REPOSITORY)
    hub.seen.clear()
    hub.drop_after.clear()
    kept = (place / f".{NAME}.part" / "model.safetensors.partial").stat().st_size
    assert 0 < kept <= 20_000
    folder = store.pull(NAME)
    # main may have moved on meanwhile; what was begun is finished
    assert hub.seen[0][1] == f"/api/models/{REPOSITORY}/revision/{COMMIT}"
    assert ranges(hub, "model.safetensors") == [f"bytes={kept}-"] and ranges(hub, "config.json") == []
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS and not store.check(folder)


def test_another_revision_does_not_go_on_with_the_first(hub: Hub, place: Path) -> None:
    hub.drop_after = {"model.safetensors": [20_000] + [0] * hf_hub.ATTEMPTS}
    with pytest.raises(UserError, match=r"failed 5 times in a row .*; what came is kept, the same command goes on"):
        store.pull(NAME)
    hub.files["model.safetensors"] = bytes(reversed(WEIGHTS))
    hub.seen.clear()
    folder = store.pull(NAME, revision="v2")
    assert ranges(hub, "model.safetensors") == [None]
    assert (folder / "model.safetensors").read_bytes() == bytes(reversed(WEIGHTS))


def test_a_hub_without_ranges_begins_again(hub: Hub) -> None:
    hub.ranges = False
    hub.drop_after = {"model.safetensors": [20_000]}
    assert (store.pull(NAME) / "model.safetensors").read_bytes() == WEIGHTS


def test_a_busy_hub_is_asked_again(hub: Hub) -> None:
    hub.errors = [503, 429]
    assert store.pull(NAME).is_dir()
    assert [path for _, path, _, _ in hub.seen[:3]] == [f"/api/models/{REPOSITORY}/revision/main"] * 3


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_wrong_checksum_is_refused_and_the_file_removed(hub: Hub, place: Path, name: str) -> None:
    """Large files have a SHA-256 on the hub, small ones git's object id."""
    hub.listed = {name: FILES[name]}
    hub.files[name] = bytes(reversed(FILES[name]))
    with pytest.raises(UserError, match=rf"{name} came with another checksum than the hub's list says and was removed"):
        store.pull(NAME)
    assert not (place / NAME).exists() and not list(place.rglob(f"{name}*"))
    hub.files[name] = FILES[name]
    assert not store.check(store.pull(NAME))


def test_a_longer_answer_than_listed_is_refused(hub: Hub) -> None:
    hub.listed = {"model.safetensors": WEIGHTS}
    hub.files["model.safetensors"] = b"x" + WEIGHTS
    with pytest.raises(UserError, match="another checksum"):
        store.pull(NAME)


@pytest.mark.parametrize(
    "path", ["../evil.json", "/etc/evil.json", "a/../../evil.json", "c:evil.json", "..\\evil.json", "a//b"]
)
def test_paths_that_lead_elsewhere_are_refused(hub: Hub, place: Path, path: str) -> None:
    hub.names = (path,)
    with pytest.raises(UserError, match="which leads elsewhere"):
        store.pull(NAME)
    assert not place.exists()


@given(path=st.text(alphabet=st.sampled_from("ab./\\:\0 é"), max_size=9))
def test_a_safe_path_stays_in_its_folder(path: str) -> None:
    if hf_hub._is_safe(path):
        base = Path("base").resolve()
        assert (base / path).resolve().is_relative_to(base) and (base / path).resolve() != base


def test_what_is_here_is_not_pulled_again(hub: Hub, place: Path) -> None:
    store.pull(NAME)
    hub.seen.clear()
    lines: list[str] = []
    store.pull(NAME, report=lines.append)
    store.pull(REPOSITORY, report=lines.append)  # the same by its repository
    store.pull(NAME, revision=COMMIT)
    assert not hub.seen and lines == [f"{place / NAME}: already here"] * 2
    store.pull(NAME, revision="main")  # has it moved on? no
    assert [path for _, path, _, _ in hub.seen] == [f"/api/models/{REPOSITORY}/revision/main"]


def test_a_newer_revision_replaces_the_old(hub: Hub, place: Path) -> None:
    store.pull(NAME)
    hub.commit = "f" * 40
    hub.files["config.json"] = b'{"model_type": "granite_speech", "new": true}'
    folder = store.pull(NAME, revision="main")
    assert b"new" in (folder / "config.json").read_bytes()
    assert json.loads((folder / store.MANIFEST).read_text())["revision"] == "f" * 40
    assert [path.name for path in place.iterdir()] == [NAME]


def test_a_model_with_a_missing_file_is_refused_and_mended(hub: Hub) -> None:
    folder = store.pull(NAME)
    (folder / "model.safetensors").write_bytes(WEIGHTS[:-1])
    with pytest.raises(UserError, match=r"model.safetensors has 49999 bytes instead of 50000; zhiyin pull .* again"):
        store.find(NAME)
    assert store.find(store.pull(NAME).name) == folder


def test_any_repository_can_be_pulled(hub: Hub, place: Path) -> None:
    folder = store.pull("some/model")
    assert folder == place / "some--model" == store.find("some/model") == store.find("some--model")


def test_another_folder_can_be_chosen(hub: Hub, tmp_path: Path) -> None:
    assert store.pull(NAME, dest=tmp_path / "here") == tmp_path / "here"
    assert store.find(NAME) is None and not store.check(tmp_path / "here")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("...")
    with pytest.raises(UserError, match="holds something that was not pulled; choose another --dest"):
        store.pull(NAME, dest=tmp_path / "mine")
    with pytest.raises(UserError, match=rf"holds {REPOSITORY}; choose another --dest"):
        store.pull("some/model", dest=tmp_path / "here")


def test_a_bundle_on_the_hub(hub: Hub, repository: Path) -> None:
    bundle = repository / "zhiyin" / "pocket" / "bundle"
    hub.files = {path.name: path.read_bytes() for path in bundle.iterdir()}
    folder = store.pull("me/pocket")
    assert {path.name for path in folder.iterdir()} == set(hub.files) | {store.MANIFEST}
    [entry] = store.entries()
    assert (entry.family, entry.tasks, entry.complete) == ("zhiyin", ("asr", "srwt", "ved", "sgc"), True)


def test_shards_are_taken_once(hub: Hub) -> None:
    hub.files = {
        "model-00001-of-00002.safetensors": b"a",
        "model-00002-of-00002.safetensors": b"b",
        "consolidated.safetensors": b"ab",
    }
    assert not (store.pull(NAME) / "consolidated.safetensors").exists()


# --- what may not be pulled


def test_pickles_are_refused(hub: Hub, place: Path) -> None:
    del hub.files["model.safetensors"], hub.files["out_llm.safetensors"]
    with pytest.raises(UserError, match=r"no safetensors files or a bundle; found pytorch_model.bin, which could run"):
        store.pull(NAME)
    assert not place.exists()


def test_the_converter_gets_its_pickle_and_no_other(hub: Hub) -> None:
    hub.files = {"infer.pt": b"pt", "other.pt": b"pt", "train.bin": b"bin", "model.safetensors": b"s"}
    assert {path.name for path in store.pull("osum").iterdir()} == {"infer.pt", store.MANIFEST}
    [entry] = store.entries()
    assert entry.family == "osum" and "ser" in entry.tasks


def test_restricted_models_are_asked_about_before_anything_is_sent(hub: Hub, place: Path) -> None:
    with pytest.raises(UserError, match=r"not to be used within the European Union.*--accept-licence"):
        store.pull("openpangu-embedded-7b")
    assert not hub.seen and not place.exists()
    lines: list[str] = []
    store.pull("openpangu-embedded-7b", accept_licence=True, report=lines.append)
    assert "European Union" in lines[0]
    [entry] = store.entries()
    assert "European Union" in entry.licence_note


@pytest.mark.parametrize("licence", [None, "cc-by-nc-4.0", "other"])
def test_other_licences_are_asked_about(hub: Hub, place: Path, licence: str | None) -> None:
    hub.licence = licence
    with pytest.raises(UserError, match=rf"licence: {licence or 'none stated'}.*--accept-licence"):
        store.pull("some/model")
    assert not place.exists()
    assert store.pull("some/model", accept_licence=True).is_dir()


def test_a_full_disk_is_said_before(hub: Hub, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def free(size: int) -> None:
        usage = shutil._ntuple_diskusage(10**12, 10**12, store._SPARE_BYTES + size)  # type: ignore[attr-defined]
        monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage)

    free(len(WEIGHTS) - 1)
    with pytest.raises(UserError, match=r"needs 0.0 GB more, .* has 0.1 GB free; make room or choose another --dest"):
        store.pull(NAME)
    assert not place.exists()
    free(len(WEIGHTS) + 1000)
    hub.drop_after = {"model.safetensors": [40_000] + [0] * hf_hub.ATTEMPTS}
    with pytest.raises(UserError, match="the same command goes on"):
        store.pull(NAME)
    free(len(WEIGHTS) - 40_000)  # what is here already needs no more room
    assert store.pull(NAME).is_dir()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            401,
            r"\(401 Sorry\); check the name; if its page asks for a login or terms, accept them there and set HF_TOK",
        ),
        (404, r"\(404 Sorry\); check the name and --revision"),
    ],
)
def test_refusals_of_the_hub(hub: Hub, code: int, message: str) -> None:
    hub.errors = [code]
    with pytest.raises(UserError, match=message):
        store.pull(NAME)


def test_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"the hub cannot be reached \(.*refused\)"):
        store.pull(NAME)
    monkeypatch.setenv("HF_ENDPOINT", "file:///tmp")
    with pytest.raises(UserError, match="HF_ENDPOINT is 'file:///tmp'; the http address"):
        store.pull(NAME)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set, nothing is downloaded"):
        store.pull(NAME)


@pytest.mark.parametrize(
    "answer", [[], {"sha": COMMIT}, {"sha": COMMIT, "siblings": [{"rfilename": "a"}]}, {"sha": "../..", "siblings": []}]
)
def test_nonsense_from_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    monkeypatch.setattr(Hub, "listing", lambda self: answer)
    with pytest.raises(UserError, match="the hub's list of files is not understood"):
        store.pull(NAME)


def test_the_token_goes_to_the_hub_and_nowhere_else(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    with serving(Hub(dict(FILES))) as elsewhere:
        hub.redirect = elsewhere.address
        assert (store.pull(NAME) / "model.safetensors").read_bytes() == WEIGHTS
        assert {token for *_, token in hub.seen} == {"Bearer secret"}
        assert elsewhere.seen and {token for *_, token in elsewhere.seen} == {None}
    hub.redirect = hub.address  # a renamed repository
    hub.seen.clear()
    store.pull("some/model")
    assert {token for *_, token in hub.seen} == {"Bearer secret"} and any("elsewhere" in seen[1] for seen in hub.seen)


@pytest.mark.parametrize("name", ["", "..", "a/b/c", "../x", "osun", "/etc", "a b/c"])
def test_names_that_are_none(name: str) -> None:
    assert store.find(name) is None
    with pytest.raises(UserError, match=r"pull: no model '.*'; known: osum .*or OWNER/REPOSITORY"):
        store.pull(name)


# --- what is here


def test_check_finds_every_damage(hub: Hub) -> None:
    folder = store.pull(NAME)
    assert store.check(folder) == ()
    (folder / "model.safetensors").write_bytes(b"x" + WEIGHTS[1:])
    (folder / "config.json").write_bytes(b"{")
    (folder / "tokenizer.json").unlink()
    assert sorted(store.check(folder)) == [
        "config.json has 1 bytes instead of 32",
        "model.safetensors is damaged (its SHA-256 differs)",
        "tokenizer.json is missing",
    ]
    assert len(store.check(folder, hashes=False)) == 2
    (folder / store.MANIFEST).write_text("{")
    [fault] = store.check(folder)
    assert "zhiyin-manifest.json is damaged" in fault


def test_entries_know_folders_that_were_not_pulled(place: Path, repository: Path) -> None:
    assert store.entries() == []
    shutil.copytree(repository / "zhiyin" / "pocket" / "checkpoint", place / "mine")
    (place / "junk").mkdir()
    (place / "a file").write_text("")
    (place / "theirs").mkdir()
    (place / "theirs" / "config.json").write_text('{"model_type": "granite_speech_plus"}')
    junk, mine, theirs = store.entries()
    assert (junk.complete, junk.fault) == (False, "no model that zhiyin knows")
    assert (mine.family, mine.tasks, mine.complete) == ("zhiyin", ("asr", "srwt", "ved", "sgc"), True)
    assert mine.size_bytes == sum(path.stat().st_size for path in (place / "mine").iterdir())
    assert (theirs.family, theirs.tasks) == ("granite-speech-plus", ("asr", "srwt"))
    assert store.find("mine") == place / "mine"


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert store.home() == tmp_path / "home"
    monkeypatch.delenv("ZHIYIN_HOME")
    monkeypatch.setattr(store.sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert store.home() == tmp_path / "zhiyin"
    monkeypatch.setattr(store.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert store.home() == tmp_path / "local" / "zhiyin"


# --- the table


def test_the_table_of_known_models_is_sound() -> None:
    runs = {kind.family for kind in hf_spec.KINDS}
    for model in known.known().values():
        assert known.is_name(model.name) and "/" not in model.name
        assert known.is_name(model.repository) and "/" in model.repository
        families_of_use = {known.RUN: runs, known.CONVERT: {"osum", "osum-pangu"}, known.PART: {"encoder", "decoder"}}
        assert model.family in families_of_use[model.use]
        assert bool(model.tasks) == (model.use != known.PART)
        safe = (".safetensors", "tokenizer.json", "tokenizer.model")
        assert all(pattern.endswith(safe) for pattern in model.weights) or model.use == known.CONVERT
    assert {model.family for model in known.known().values()} >= runs  # what we run can be pulled by name
    restricted = {model.name for model in known.known().values() if model.licence_note}
    assert restricted == {"osum-pangu", "openpangu-embedded-7b", "openpangu-tokenizer"}


def test_a_tokenizer_alone(hub: Hub) -> None:
    assert {path.name for path in store.pull("qwen2-7b-tokenizer").iterdir()} == {
        *WANTED - {"model.safetensors"},
        store.MANIFEST,
    }
    assert store.find("Qwen/Qwen2-7B") is None
