"""festival: its words where the sound is, rate and pitch measured, nothing of a text read as a command."""

import itertools
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soxr
from typer.testing import CliRunner

from tests.data.test_synth_run import tree
from tests.data.test_synth_sounds import RATE_HZ, loud_s, voicing
from zhiyin.audio.features import Float32
from zhiyin.cli import app
from zhiyin.data import manifest, synth_engines, synth_run, synth_voices
from zhiyin.data.synth_festival import VOICES, Festival, quoted
from zhiyin.data.synth_rules import SPLITS
from zhiyin.data.synth_run import Plan
from zhiyin.errors import UserError

ALL = synth_voices.ENGINES
DIPHONES = ("kal_diphone", "ked_diphone")


def missing(*engines: str) -> str:
    """Why engines cannot speak here, or nothing."""
    try:
        synth_engines.require(engines)
    except UserError as error:
        return str(error)
    return ""


needs_festival = pytest.mark.skipif(bool(missing("festival")), reason=missing("festival"))
needs_all = pytest.mark.skipif(bool(missing(*ALL)), reason=missing(*ALL))


@pytest.fixture(scope="module")
def festival() -> Iterator[Festival]:
    """One process for all tests."""
    one = Festival()
    yield one
    del one


def sound(festival: Festival, name: str, text: str, words_per_minute: float = 150, pitch: float = 1.0) -> Float32:
    """Samples at 16 kHz."""
    samples_T, rate_hz, _ = festival.say(name, text.split(), words_per_minute, pitch)
    return np.asarray(soxr.resample(samples_T, rate_hz, RATE_HZ), np.float32)


@needs_festival
@pytest.mark.parametrize("name", sorted(VOICES))
def test_times_of_words_agree_with_the_sound(name: str) -> None:
    """A comma makes a pause that can be heard: the words beside it must end and begin at its edges."""
    words = ["seven,", "apples", "and", "four,", "oranges", "at", "five", "o'clock"]
    one = synth_engines.say("festival", name, words, "en", words_per_minute=120, pitch=50, tract=1.1)
    assert one.times_s is not None and len(one.times_s) == len(words)
    loud = loud_s(one.samples_T)
    assert abs(one.times_s[0][0] - loud[0]) < 0.08 and abs(one.times_s[-1][1] - loud[-1]) < 0.12
    end_s, start_s = max(itertools.pairwise(loud), key=lambda edges: edges[1] - edges[0])
    assert start_s - end_s > 0.08
    assert abs(one.times_s[3][1] - end_s) < 0.08 and abs(one.times_s[4][0] - start_s) < 0.08
    assert all(a < b for a, b in one.times_s)


@needs_festival
def test_a_word_of_several_is_one(festival: Festival) -> None:
    words = ["she's", "got", "251", "apples", "at", "5", "o'clock"]
    _, _, times_s = festival.say("kal_diphone", words, 150, 1.0)
    assert times_s is not None and len(times_s) == 7
    assert times_s[2][1] - times_s[2][0] > 2 * (times_s[5][1] - times_s[5][0]), "two hundred and fifty one, five"
    assert festival.say("kal_diphone", ["yes", "-", "no"], 150, 1.0)[2] is None, "a sign alone has no time"


@needs_festival
@pytest.mark.parametrize("name", sorted(VOICES))
def test_rate_and_pitch_do_what_they_say(festival: Festival, name: str) -> None:
    text = "we were away a long while"
    plain_T, high_T = sound(festival, name, text), sound(festival, name, text, pitch=math.sqrt(2))
    spans = [np.ptp(loud_s(sound(festival, name, text, words_per_minute=rate))) for rate in (90, 270)]
    assert 2.4 < spans[0] / spans[1] < 3.6
    expected = math.sqrt(2) if name in DIPHONES else 1.0
    assert voicing(high_T)[0] == pytest.approx(expected * voicing(plain_T)[0], rel=0.06)
    low_hz, high_hz = (80, 150) if name in DIPHONES else (155, 250)
    assert low_hz < voicing(plain_T)[0] < high_hz, "the gender its package names"
    assert np.array_equal(sound(festival, name, text), plain_T), "nothing is left of what was said before"


@needs_festival
def test_a_text_is_no_command(festival: Festival, tmp_path: Path) -> None:
    before_T = sound(festival, "kal_diphone", "yes")
    bait = tmp_path / "bait"
    text = f'") (system "touch\t{bait}") (quit) \\" \\ #t `(x ;no \'a'.replace("\t", " ")
    samples_T, rate_hz, _ = festival.say("kal_diphone", text.split(), 150, 1.0)
    assert len(samples_T) > 2 * rate_hz and not bait.exists()
    assert np.array_equal(sound(festival, "kal_diphone", "yes"), before_T)
    assert quoted(['a\\"', '(b"']) == r'"a\\\" (b\""'


@pytest.mark.parametrize("word", ["café", "一", "a\nb", "a b", "a\0", ""])
def test_other_scripts_are_refused(word: str) -> None:
    with pytest.raises(UserError, match="of ASCII, not"):
        quoted(["yes", word])


def test_nothing_to_say_is_refused() -> None:
    for words in ([], ["-", "..."]):
        with pytest.raises(UserError, match="there is no word in"):
            quoted(words)


@needs_festival
def test_a_voice_that_is_not_there_is_named(festival: Festival, monkeypatch: pytest.MonkeyPatch) -> None:
    festival.require(*VOICES)
    with pytest.raises(UserError, match="no voice 'nobody'"):
        festival.say("nobody", ["yes"], 150, 1.0)
    monkeypatch.setitem(VOICES, "nobody_diphone", ("festvox-nobody", 150.0))
    for attempt in (festival.require, lambda name: festival.say(name, ["yes"], 150, 1.0)):
        with pytest.raises(UserError, match=r"install the package festvox-nobody \(apt install festvox-nobody\)"):
            attempt("nobody_diphone")
    assert len(festival.say("kal_diphone", ["yes"], 150, 1.0)[0]) > 1000, "it goes on"


@needs_festival
def test_an_end_in_the_middle_is_one_line() -> None:
    one = Festival()
    one._process.kill()
    for _ in range(2):
        with pytest.raises(UserError, match="festival ended while it was asked to speak"):
            one.say("kal_diphone", ["yes"], 150, 1.0)


@needs_festival
def test_no_file_at_home_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (".festivalrc", ".festivalvarsrc", ".siodvarsrc"):
        (tmp_path / name).write_text(f'(system "touch {tmp_path}/read")')
    monkeypatch.setenv("HOME", str(tmp_path))
    Festival().require("kal_diphone")
    assert not (tmp_path / "read").exists()


HOLD = """
import time
from zhiyin.data.synth_festival import Festival
one = Festival()
print(one._process.pid, flush=True)
time.sleep(60)
"""


@needs_festival
def test_it_ends_with_whoever_asked() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        number = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
    begun = time.monotonic()
    while is_running(number) and time.monotonic() - begun < 30:
        time.sleep(0.02)
    assert not is_running(number)


def is_running(number: int) -> bool:
    """Whether there is such a process that has not ended (nobody may be there to collect it)."""
    try:
        return ") Z " not in Path(f"/proc/{number}/stat").read_text()
    except FileNotFoundError:
        return False


@needs_all
def test_a_set_with_three_engines(tmp_path: Path) -> None:
    plan = Plan("commands", records=20, seed=5, dev=25, test=25, per_chunk=10, engines=ALL[::-1])
    synth_run.run(plan, tmp_path / "out", jobs=2)
    synth_run.run(plan, tmp_path / "again", jobs=1)
    assert tree(tmp_path / "out") == tree(tmp_path / "again")
    assert '"festival"' in (tmp_path / "out" / "plan.json").read_text()
    engines = set()
    for split in SPLITS:
        for record in manifest.read(tmp_path / "out" / f"{split}.jsonl"):
            engine, _, rest = record.speaker.partition(":")
            engines.add(engine)
            if engine == "festival":
                name = rest.partition("@")[0]
                assert name in synth_voices.festival_voices(split) and record.words
                assert record.labels["sgc"] == ("male" if name in DIPHONES else "female")
    assert engines == {"espeak", "flite", "festival"}
    with pytest.raises(UserError, match="begun with another engines"):
        synth_run.run(replace(plan, engines=ALL[:2]), tmp_path / "out")


def test_ids_and_voices_are_as_before_without_it() -> None:
    plain = Plan("digits", records=5)
    runs = [synth_run.kit(Plan("digits", records=5, engines=engines)).run for engines in (ALL, ALL[1::-1], ALL[:1])]
    assert runs[1] == synth_run.kit(plain).run and len(set(runs)) == 3
    rng = random.Random(1)
    drawn = [synth_voices.draw("en", "train", rng).name for _ in range(7)]
    before = ["slt", "rms", "en-gb-x-rp+steph", "en-029+m1", "en-gb-x-rp+Mario", "slt", "en-029+adam"]
    assert drawn == before, "what a seed gave before festival was there"


@pytest.mark.parametrize(
    ("engines", "said"),
    [
        ("espeak-ng,festival", "festival is not installed; install it and its voices (apt install festival festvox-"),
        ("festival", "espeak-ng must be among the engines"),
        ("espeak-ng,festivol", "there is no engine 'festivol'; there are espeak-ng, flite, festival"),
    ],
)
@pytest.mark.skipif(bool(missing("espeak-ng")), reason="espeak-ng is not installed")
def test_engines_that_are_not_there_are_refused(
    engines: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    result = CliRunner().invoke(
        app, ["data", "synth", "digits", str(tmp_path / "out"), "--records", "5", "--engines", engines]
    )
    assert isinstance(result.exception, UserError) and said in str(result.exception)
    assert "\n" not in str(result.exception) and not (tmp_path / "out").exists()
