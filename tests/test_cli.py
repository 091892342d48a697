"""The command line: what comes out where, exit codes, and every kind of bad input."""

import io
import json
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

import zhiyin
from tests.fake_model import fake_model
from zhiyin import cli, cli_understand, pipeline
from zhiyin.audio.io import load
from zhiyin.cli_inputs import expand
from zhiyin.runtime.device import choose

RATE_HZ = 16_000


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command in this process, with a model that hears ``four one`` and a man."""

    def load_fake(
        model=None,
        device="auto",
        backend="auto",
        *,
        threads=None,
        dtype="auto",
        allow_download=False,
        allow_fallback=False,
    ) -> zhiyin.Model:
        choose(device, ("cpu",), engine="fake", allow_fallback=allow_fallback)
        return fake_model(
            lambda asked, number, seconds: "four one" * ("asr" in asked) + "<male>" * ("sgc" in asked),
            ["four one <male> <asr> who?"],
        )

    monkeypatch.setattr(zhiyin, "load", load_fake)
    return lambda *arguments: command(capsys, *map(str, arguments))


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> Outcome:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    captured = capsys.readouterr()
    return Outcome(int(stop.value.code or 0), captured.out, captured.err)


@pytest.fixture(scope="module")
def speech(repository: Path) -> np.ndarray:
    return load(repository / "samples" / "digits-1.flac")


@pytest.fixture
def wav(tmp_path: Path, speech: np.ndarray) -> Path:
    path = tmp_path / "good.wav"
    soundfile.write(path, speech, RATE_HZ)
    return path


# --- one recording


def test_one_recording_as_text(run, wav: Path) -> None:
    assert run("understand", wav, "--task", "asr,sgc") == Outcome(0, "four one\ngender: male\n", "")


def test_one_recording_as_json_is_the_result(run, wav: Path) -> None:
    outcome = run("understand", wav, "--format", "json")
    record = json.loads(outcome.out)
    assert (record["source"], record["text"], record["tasks"]) == (str(wav), "four one", ["asr"])
    assert outcome.out.count("\n") > 10  # indented: for people


@pytest.mark.parametrize(
    ("format", "pattern"),
    [
        ("srt", r"1\n00:00:00,\d{3} --> 00:00:01,\d{3}\nfour one\n"),
        ("vtt", r"WEBVTT\n\n00:00:00\.\d{3} --> 00:00:01\.\d{3}\nfour one\n"),
        ("tsv", r"start_ms\tend_ms\ttext\t.*\n\d+\t1\d\d\d\tfour one\t\t\t\n"),
    ],
)
def test_one_recording_as_table_or_subtitles(run, wav: Path, format: str, pattern: str) -> None:
    assert re.fullmatch(pattern, run("understand", wav, "--format", format).out)


def test_a_question_in_plain_language(run, wav: Path) -> None:
    outcome = run("understand", wav, "--ask", "who?")
    assert outcome.code == 0 and "who?" not in outcome.out


def test_standard_input(run, wav: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(wav.read_bytes())))
    assert json.loads(run("understand", "-", "--format", "json").out)["source"] == "<stdin>"


def test_raw_samples(run, tmp_path: Path, speech: np.ndarray) -> None:
    path = tmp_path / "raw.bin"
    path.write_bytes((speech * 32767).astype("<i2").tobytes())
    assert run("understand", path, "--pcm", "s16le:16000:1").out == "four one\n"
    wrong = run("understand", path, "--pcm", "s17")
    assert wrong.code == 2 and "s17" in wrong.err and wrong.err.count("\n") == 1


# --- many recordings


@pytest.fixture
def folder(tmp_path: Path, wav: Path, speech: np.ndarray) -> Path:
    """b.wav, monday/a.flac and things that are no recordings."""
    place = tmp_path / "folder"
    (place / "monday").mkdir(parents=True)
    (place / ".hidden").mkdir()
    soundfile.write(place / "b.wav", speech, RATE_HZ)
    soundfile.write(place / "monday" / "a.flac", speech, RATE_HZ)
    soundfile.write(place / ".hidden" / "c.wav", speech, RATE_HZ)
    (place / "._b.wav").write_bytes(b"side file")
    (place / "notes.txt").write_text("not audio")
    return place


def test_a_folder_as_text_has_headers_and_progress(run, folder: Path) -> None:
    outcome = run("understand", folder)
    first, second = folder / "b.wav", folder / "monday" / "a.flac"
    assert outcome.out == f"==> {first} <==\nfour one\n==> {second} <==\nfour one\n"
    assert outcome.err == f"[1/2] {first}\n[2/2] {second}\n"
    assert outcome.code == 0


def test_a_pattern_as_json_is_one_line_each(run, folder: Path) -> None:
    lines = run("understand", folder / "**" / "*.*a*", "--format", "json").out.splitlines()
    assert [Path(json.loads(line)["source"]).name for line in lines] == ["b.wav", "a.flac"]


def test_a_folder_with_one_recording_is_still_many(run, folder: Path) -> None:
    assert run("understand", folder / "monday").out.startswith("==> ")


def test_a_file_whose_name_is_a_pattern_is_that_file(run, tmp_path: Path, wav: Path) -> None:
    odd = wav.rename(tmp_path / "take[1].wav")
    assert run("understand", odd).out == "four one\n"


def test_a_file_per_recording_keeps_the_folders(run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "deep"
    outcome = run("understand", folder, "--output-dir", out, "--format", "srt")
    assert outcome.out == "" and outcome.code == 0
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert files == [".zhiyin.jsonl", "b.srt", "monday/a.srt"]
    assert (out / "b.srt").read_text().endswith("four one\n")


def test_a_recording_given_twice_is_done_once(run, wav: Path) -> None:
    assert run("understand", wav, wav, os.path.relpath(wav)).out.count("==>") == 1


def test_names_that_collide_keep_what_tells_them_apart(tmp_path: Path) -> None:
    for name in ("x/a.wav", "x/a.mp3", "y/a.wav", "y/b.wav", "y/a.wav.ogg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def names(*arguments: str) -> list[str]:
        return [entry.name.as_posix() for entry in expand([str(tmp_path / name) for name in arguments])]

    assert names("x/a.wav", "y/b.wav") == ["a", "b"]
    assert names("x/a.wav", "x/a.mp3") == ["a.wav", "a.mp3"]
    assert names("x/a.wav", "y/a.wav", "y/b.wav") == ["x/a.wav", "y/a.wav", "b"]
    assert names("x", "y/a.wav") == ["a.mp3", "x/a.wav", "y/a.wav"]
    assert names("x/a.wav", "x/a.mp3", "y/a.wav.ogg") == ["x/a.wav", "a.mp3", "y/a.wav.ogg"]


@given(
    st.lists(
        st.sampled_from([f"{d}{s}{e}" for d in ("", "p/", "q/p/") for s in "ab" for e in (".wav", ".wav.mp3", "")])
    )
)
def test_two_recordings_never_share_a_result(paths: list[str]) -> None:
    inputs = expand(paths)
    assert len({entry.name for entry in inputs}) == len(inputs) == len(set(paths))


# --- what the person sees


def test_a_note_is_told_on_standard_error(run, tmp_path: Path) -> None:
    path = tmp_path / "quiet.wav"
    soundfile.write(path, np.zeros(RATE_HZ), RATE_HZ)
    assert run("understand", path) == Outcome(0, "", f"zhiyin: {path}: no speech found\n")


def test_on_a_terminal_there_is_a_bar_and_no_data_in_it(run, folder: Path, monkeypatch, capsys) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", screen)
    outcome = run("understand", folder, "--format", "json")
    assert outcome.out.count("\n") == 2 and "\x1b" not in outcome.out
    assert "0/2" in screen.getvalue() and "b.wav" in screen.getvalue()


def test_tasks_lists_every_row(run) -> None:
    from zhiyin.tasks.table import TASKS

    lines = run("tasks").out.splitlines()
    assert [line.split()[0] for line in lines] == [task.id for task in TASKS]
    assert "female, male" in lines[5]


def test_info_says_what_a_model_is(run) -> None:
    out = run("info").out
    assert "model: fake\n" in out and "tasks: asr srwt" in out and "device: cpu (test)\n" in out
    assert "sgc labels: female, male\n" in out


def test_version_and_help(run) -> None:
    assert run("--version").out == f"zhiyin {zhiyin.__version__}\n"
    assert all(name in run("--help").out for name in ("understand", "tasks", "info"))


def test_help_loads_nothing_heavy(repository: Path) -> None:
    code = (
        "import sys, zhiyin.cli\ntry: zhiyin.cli.main(['--help'])\nexcept SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"  # the help itself goes to standard output
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stderr.split()}
    assert not loaded & {"numpy", "onnxruntime", "tokenizers", "soundfile", "av", "torch", "rich"}


# --- bad recordings: one line and exit code 2 alone; among others, the others go on and the exit code is 1


def _wav(path: Path, samples: np.ndarray, rate_hz: int = RATE_HZ, subtype: str = "PCM_16") -> None:
    soundfile.write(path, samples, rate_hz, subtype=subtype)


def _wav_with(value: float) -> Callable[[Path, np.ndarray], None]:
    def make(path: Path, speech: np.ndarray) -> None:
        broken = speech.copy()
        broken[100] = value
        _wav(path, broken, subtype="FLOAT")

    return make


BAD_RECORDINGS: dict[str, tuple[Callable[[Path, np.ndarray], object], str]] = {
    "missing": (lambda path, speech: None, "no such file"),
    "folder-without-audio": (lambda path, speech: path.mkdir(), "holds no recordings"),
    "empty": (lambda path, speech: path.touch(), "empty"),
    "text": (lambda path, speech: path.write_text("dear diary, " * 100), "not a recording"),
    "no-samples": (lambda path, speech: _wav(path, speech[:0]), "no audio samples"),
    "nan": (_wav_with(float("nan")), "not finite|NaN|nan"),
    "infinite": (_wav_with(float("inf")), "not finite|infinite|inf"),
}


@pytest.mark.parametrize("kind", BAD_RECORDINGS)
def test_a_bad_recording_alone(run, tmp_path: Path, speech: np.ndarray, kind: str) -> None:
    make, message = BAD_RECORDINGS[kind]
    path = tmp_path / "bad.wav"
    make(path, speech)
    outcome = run("understand", path)
    assert (outcome.code, outcome.out) == (2, "")
    assert re.fullmatch(rf"zhiyin: .*bad\.wav.*({message}).*\n", outcome.err)


@pytest.mark.parametrize("kind", BAD_RECORDINGS)
def test_a_bad_recording_among_others(run, tmp_path: Path, wav: Path, speech: np.ndarray, kind: str) -> None:
    make, message = BAD_RECORDINGS[kind]
    path, second = tmp_path / "bad.wav", tmp_path / "second.wav"
    make(path, speech)
    _wav(second, speech)
    outcome = run("understand", wav, path, second)
    assert outcome.code == 1
    assert outcome.out == f"==> {wav} <==\nfour one\n==> {second} <==\nfour one\n"
    complaints = [line for line in outcome.err.splitlines() if not line.startswith("[")]
    assert len(complaints) == 2
    assert re.search(message, complaints[0]) and "bad.wav" in complaints[0]
    assert complaints[1] == "zhiyin: 1 of 3 recordings failed"


def test_a_pattern_that_fits_nothing(run, tmp_path: Path) -> None:
    outcome = run("understand", tmp_path / "*.wav")
    assert (outcome.code, outcome.err) == (2, f"zhiyin: no file fits the pattern {tmp_path / '*.wav'}\n")


# --- odd recordings that are understood all the same


def _truncated_mp3(path: Path, speech: np.ndarray) -> None:
    whole = io.BytesIO()
    soundfile.write(whole, np.tile(speech, 3), RATE_HZ, format="MP3")
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) * 2 // 3])


def _claims_100_hours(path: Path, speech: np.ndarray) -> None:
    _wav(path, speech)
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", min(2**32 - 1, 100 * 3600 * RATE_HZ * 2) & 0xFFFFFFFE)
    path.write_bytes(data)


ODD_RECORDINGS: dict[str, tuple[str, Callable[[Path, np.ndarray], object]]] = {
    "truncated-mp3": (".mp3", _truncated_mp3),
    "claims-100-hours": (".wav", _claims_100_hours),
    "8-khz": (".wav", lambda path, speech: _wav(path, speech[::2], 8000)),
    "192-khz": (".wav", lambda path, speech: _wav(path, np.repeat(speech, 12), 192_000)),
    "8-channels": (".wav", lambda path, speech: _wav(path, np.stack([speech] * 8, axis=1))),
    "24-bit": (".wav", lambda path, speech: _wav(path, speech, subtype="PCM_24")),
    "float": (".wav", lambda path, speech: _wav(path, speech, subtype="FLOAT")),
    "wrong-ending": (".mp3", lambda path, speech: soundfile.write(path, speech, RATE_HZ, format="FLAC")),
}


@pytest.mark.parametrize("kind", ODD_RECORDINGS)
def test_an_odd_recording_is_understood(run, tmp_path: Path, speech: np.ndarray, kind: str) -> None:
    suffix, make = ODD_RECORDINGS[kind]
    path = tmp_path / f"odd{suffix}"
    make(path, speech)
    outcome = run("understand", path, "--format", "json")
    assert outcome.code == 0
    record = json.loads(outcome.out)
    assert record["text"].startswith("four one")
    seconds = 3 if kind == "truncated-mp3" else len(speech) / RATE_HZ
    assert record["duration_s"] == pytest.approx(seconds, rel=0.4)
    assert outcome.err == "".join(f"zhiyin: {path}: {note}\n" for note in record["notes"])
    assert not record["notes"] or kind in ("truncated-mp3", "claims-100-hours")


@pytest.mark.parametrize("seconds", [0.05, 3.0])
def test_silence_gives_an_empty_result(run, tmp_path: Path, seconds: float) -> None:
    path = tmp_path / "silence.wav"
    _wav(path, np.zeros(round(seconds * RATE_HZ)))
    outcome = run("understand", path, "--task", "asr,sgc", "--format", "json")
    record = json.loads(outcome.out)
    assert (outcome.code, record["text"], record["labels"], record["segments"]) == (0, "", {}, [])
    assert record["notes"] == ["no speech found"]


def test_fifty_milliseconds_of_speech(run, tmp_path: Path, speech: np.ndarray) -> None:
    path = tmp_path / "short.wav"
    _wav(path, speech[8000:8800])
    outcome = run("understand", path)
    assert outcome.code == 0 and outcome.err.count("\n") <= 1


# --- bad requests


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "asrr"], r"task 'asrr' is not known; .*did you mean 'asr'"),
        (["--task", ""], "no task was given"),
        (["--task", "sttc,ast"], "cannot be asked together"),
        (["--task", "sap"], "model 'fake' cannot do sap; it can do: asr"),
        (["--task", "asr", "--ask", "who?"], "given together"),
        (["--ask", " "], "the instruction is empty"),
        (["--language", "xx"], "does not know language 'xx'"),
        (["--format", "docx"], "format 'docx' is not known; known: txt json srt vtt tsv"),
        (["--device", "gpu"], "device 'gpu' is not known"),
        (["--output-dir", ""], "--output-dir is empty"),
    ],
)
def test_a_bad_request_is_one_line(run, wav: Path, arguments: list[str], message: str) -> None:
    for sources in ([wav], [wav, wav.with_name("other.wav")]):  # it is the request's fault, also for many recordings
        outcome = run("understand", *sources, *arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert re.fullmatch(rf"zhiyin: .*{message}.*\n", outcome.err)


def test_subtitles_of_many_need_a_folder(run, folder: Path) -> None:
    assert "add --output-dir" in run("understand", folder, "--format", "srt").err


def test_an_unknown_option_and_nothing_at_all(run) -> None:
    assert run("understand", "--frobnicate", "a.wav").code == 2
    assert run("understand").code == 2


# --- bad models; the real loader


@pytest.mark.parametrize("kind", ["missing", "foreign", "damaged", "pickle"])
def test_a_bad_model_is_one_line(tmp_path: Path, wav: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    path, trap = tmp_path / "model", tmp_path / "executed"
    if kind == "pickle":
        path = tmp_path / "model.pt"
        path.write_bytes(pickle.dumps(_Trap(str(trap))))
    elif kind != "missing":
        path.mkdir()
        (path / ("bundle.json" if kind == "damaged" else "readme.txt")).write_text("{")
    outcome = command(capsys, "understand", str(wav), "--model", str(path))
    assert (outcome.code, outcome.out) == (2, "")
    assert re.fullmatch(rf"zhiyin: .*{re.escape(str(path))}.*\n", outcome.err)
    assert not trap.exists()


class _Trap:
    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


# --- bad outputs


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_an_unwritable_output_is_refused_before_work(run, wav: Path, tmp_path: Path, monkeypatch, place: str) -> None:
    monkeypatch.setattr(zhiyin, "load", lambda *a, **k: pytest.fail("work began"))
    (tmp_path / "file").touch()
    outcome = run("understand", wav, "--output-dir", tmp_path / place)
    assert outcome.code == 2
    assert re.fullmatch(r"zhiyin: cannot write to .*choose another --output-dir\n", outcome.err)


def test_a_folder_in_the_way_of_a_result(run, wav: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "good.txt").mkdir(parents=True)
    outcome = run("understand", wav, "--output-dir", tmp_path / "out")
    assert outcome.code == 2 and "a folder has this name" in outcome.err


def test_a_disk_that_fills_up_leaves_whole_files_only(run, folder: Path, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.txt").write_text("from before")

    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    outcome = run("understand", folder, "--output-dir", out)
    assert outcome.code == 2 and "no space left on device" in outcome.err
    assert [path.name for path in out.rglob("*") if path.is_file()] == ["b.txt"]
    assert (out / "b.txt").read_text() == "from before"


def test_a_fault_of_ours_in_one_recording_does_not_stop_the_others(run, folder: Path, monkeypatch) -> None:
    understand = pipeline.understand

    def broken(source, *arguments, **options):
        if str(source).endswith("b.wav"):
            raise RuntimeError("boom")
        return understand(source, *arguments, **options)

    monkeypatch.setattr(pipeline, "understand", broken)
    outcome = run("understand", folder)
    assert outcome.code == 1 and outcome.out.endswith("four one\n")
    assert "a fault in zhiyin itself (RuntimeError('boom')); report it" in outcome.err and "Traceback" in outcome.err


# --- Ctrl-C


SLOW = """
import signal, sys, zhiyin
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell starts its children without one
from zhiyin import cli
from tests.fake_model import fake_model
zhiyin.load = lambda *a, **k: fake_model("four one", encode_s=0.5)
cli.main(sys.argv[1:])
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGINT is sent")
def test_ctrl_c_keeps_what_is_done(tmp_path: Path, speech: np.ndarray, repository: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for i in range(40):
        _wav(source / f"{i:02}.wav", speech)
    arguments = [sys.executable, "-c", SLOW, "understand", str(source), "--output-dir", str(out)]
    process = subprocess.Popen(arguments, cwd=repository, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (out / "01.txt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == cli_understand.INTERRUPTED
    files = sorted(path.name for path in out.iterdir() if path.suffix == ".txt")
    assert files[:2] == ["00.txt", "01.txt"] and len(files) < 40
    assert all((out / name).read_text() == "four one\n" for name in files)
    said = f"zhiyin: interrupted; {len(files)} of 40 recordings are done; --resume goes on from there"
    assert err.splitlines()[-1] == said
