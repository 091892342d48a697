"""`zhiyin listen`: what comes out, when, and what happens to streams that are not as they should be."""

import json
import os
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.live.test_source import FakeSounddevice
from tests.test_cli import Outcome, command, speech, wav
from zhiyin import cli_listen

__all__ = ["speech", "wav"]  # fixtures
SAID, WRITTEN = "four one seven two nine", "41729\n"
PAUSE_T = np.zeros(8000, np.float32)


def raw(samples_T: np.ndarray) -> bytes:
    return (samples_T * 32767).astype("<i2").tobytes()


@pytest.fixture
def send(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Outcome]]:
    """Run `zhiyin listen` in this process on what is sent to its standard input; an event is waited for."""
    ends: list[int] = []

    def run(pieces: list[bytes | threading.Event], *arguments: str, keep_open: bool = False) -> Outcome:
        incoming, outgoing = os.pipe()
        ends.extend([incoming, outgoing])
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(fileno=lambda: incoming))

        def write() -> None:
            for piece in pieces:
                if isinstance(piece, bytes):
                    os.write(outgoing, piece)
                else:
                    assert piece.wait(60)
            if not keep_open:
                os.close(outgoing)
                ends.remove(outgoing)

        writer = threading.Thread(target=write)
        writer.start()
        outcome = command(capsys, "listen", *arguments)
        writer.join()
        return outcome

    yield run
    for end in ends:
        os.close(end)


def events(outcome: Outcome) -> list[dict]:
    return [json.loads(line) for line in outcome.out.splitlines()]


def test_raw_samples(send, speech: np.ndarray) -> None:
    outcome = send([raw(speech), raw(PAUSE_T)])
    assert outcome == Outcome(0, WRITTEN, "")
    assert send([raw(speech)], "--no-itn") == Outcome(0, f"{SAID}\n", "")


def test_events(send, speech: np.ndarray) -> None:
    blocks = [raw(piece) for piece in np.array_split(np.concatenate([speech, PAUSE_T]), 30)]
    found = events(send(blocks, "--format", "json", "--task", "asr,ved"))
    kinds = [event["event"] for event in found]
    assert kinds[0] == "speech_started" and kinds[-2:] == ["speech_ended", "final"] and "partial" in kinds
    final = found[-1]["segment"]
    assert (final["text"], final["labels"], final["tasks"]) == (SAID, {"ved": "none"}, ["asr", "ved"])
    assert [word["text"] for word in final["words"]] == SAID.split()
    assert all(SAID.startswith(event["committed"]) for event in found if event["event"] == "partial")


def test_a_recording(run_listen, wav: Path) -> None:
    assert run_listen(wav) == Outcome(0, WRITTEN, "")


@pytest.fixture
def run_listen(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    return lambda *arguments: command(capsys, "listen", *map(str, arguments))


def test_a_recording_as_if_it_were_live(run_listen, wav: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    clock = types.SimpleNamespace(monotonic=lambda: sum(slept), sleep=slept.append)
    monkeypatch.setattr(cli_listen, "time", clock)
    assert run_listen(wav, "--paced").out == WRITTEN
    assert abs(sum(slept) - 1.96) < 0.1 and max(slept) < 0.11


def test_44100_hz(send, speech: np.ndarray) -> None:
    """Declared, it is resampled; undeclared, nobody can know it, and it sounds slow."""
    import soxr

    fast = raw(soxr.resample(speech, 16_000, 44_100))
    assert send([fast], "--pcm", "s16le:44100:1") == Outcome(0, WRITTEN, "")


def test_an_end_inside_a_sample(send, speech: np.ndarray) -> None:
    outcome = send([raw(speech), b"\x07"])
    assert (outcome.code, outcome.out) == (0, WRITTEN)
    assert outcome.err == "zhiyin: the stream ended inside a sample frame of s16le:16000:1; 1 bytes were left out\n"


def test_nothing_came(send) -> None:
    assert send([]) == Outcome(0, "", "zhiyin: no samples came\n")


def test_a_stall_ends_what_is_open(send, speech: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """The final comes although neither silence nor the end of the stream came; then the stream goes on."""
    stalled = threading.Event()
    finish = cli_listen.LiveSession.finish
    monkeypatch.setattr(cli_listen.LiveSession, "finish", lambda self: [finish(self), stalled.set()][0])
    outcome = send([raw(speech[:22_400]), stalled, raw(speech)], "--format", "json", "--stall", "0.2")
    finals = [event for event in events(outcome) if event["event"] == "final"]
    assert len(finals) == 2 and finals[0]["stream_s"] == 1.4 and finals[1]["segment"]["text"] == SAID
    assert finals[1]["segment"]["start_s"] > 1.4


def test_a_stream_that_stays_away(send, speech: np.ndarray) -> None:
    outcome = send([raw(speech)], "--timeout", "0.5", keep_open=True)
    assert (outcome.code, outcome.out) == (0, WRITTEN)


def test_not_a_number(send, speech: np.ndarray) -> None:
    """What was said before is shown, then the fault in one line."""
    bad = np.concatenate([speech, PAUSE_T]).astype("<f4").tobytes() + np.full(100, np.nan, "<f4").tobytes()
    outcome = send([bad], "--pcm", "f32le:16000:1")
    assert (outcome.code, outcome.out) == (2, WRITTEN)
    at_s = (len(speech) + len(PAUSE_T)) / 16_000
    assert outcome.err.startswith(f"zhiyin: live stream: the sample nan at {at_s:.3f} s")
    assert outcome.err.count("\n") == 1


def test_a_recording_on_standard_input(send, wav: Path) -> None:
    outcome = send([wav.read_bytes()])
    assert outcome.code == 2 and "header" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "srt"], "format 'srt' is not known; known: txt json"),
        (["--paced"], "--paced plays a recording"),
        (["--mic", "--pcm", "s16le"], "a microphone says itself"),
        (["--task", "nothing"], "task 'nothing' is not known"),
        (["--task", "sap"], "sap"),
        (["nowhere.wav"], "cannot read nowhere.wav"),
    ],
)
def test_mistakes(run_listen, arguments: list[str], message: str) -> None:
    outcome = run_listen(*arguments)
    assert outcome.code == 2 and message in outcome.err and outcome.err.count("\n") == 1


def test_a_microphone(run_listen, speech: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = np.array_split(np.concatenate([speech, PAUSE_T])[: 38 * 1024], 38)
    module = FakeSounddevice(16_000, [(block_T, number == 5) for number, block_T in enumerate(blocks)])
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    outcome = run_listen("USB", "--mic")
    assert (outcome.code, outcome.out) == (0, WRITTEN)
    assert outcome.err.splitlines() == [
        "zhiyin: listening to USB mic at 16000 Hz; Ctrl-C ends",
        "zhiyin: this machine was too slow: sound was lost 1 times",
    ]
    assert not module.is_open


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_finishes_with_the_last_final(speech: np.ndarray) -> None:
    # a background shell starts its children with the signal ignored
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from zhiyin.cli import main; main(['listen', '--format', 'json'])"
    )
    command_line = [sys.executable, "-c", code]
    process = subprocess.Popen(command_line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin and process.stdout and process.stderr
    process.stdin.write(raw(speech[:28_000]))  # still speaking
    process.stdin.flush()
    seen = b""
    while b"two" not in seen:
        seen = process.stdout.readline()
        assert seen
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)  # with its input still open: an end of the stream is no Ctrl-C
    out, err = process.communicate()
    last = json.loads(out.splitlines()[-1])
    assert (process.returncode, err) == (130, b"")
    assert last["event"] == "final" and last["segment"]["text"].startswith("four one seven two")


def test_on_a_terminal(run_listen, wav: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The open segment is redrawn, its tail dim; what is final stays, and no code of the model reaches the terminal."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    outcome = run_listen(wav)
    assert outcome.code == 0 and "\x1b[2mseven two\x1b[0m" in outcome.out and "\x1b[2K41729\n" in outcome.out
    assert cli_listen._clean("a\x1b[31m\nb\u202e") == "a [31m b"
