"""Synthetic sets on disk: right, apart, and the same files whatever happens on the way."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from tests.data.test_synth_sounds import installed
from zhiyin.cli import app
from zhiyin.data import check, manifest, shards, sources, synth_lines, synth_make, synth_run
from zhiyin.data.synth_run import Plan
from zhiyin.errors import UserError
from zhiyin.tasks import instructions

pytestmark = pytest.mark.skipif(not (installed("espeak-ng") and installed("flite")), reason="an engine is missing")
STYLES = {"ssr": ("normal", "slow", "fast", "whisper", "shout")}


def tree(folder: Path) -> dict[str, str]:
    """Hash of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def invoke(*words: str | Path) -> tuple[int, str]:
    """A command's exit code and everything it said."""
    result = CliRunner().invoke(app, ["data", *map(str, words)])
    said = result.output if not isinstance(result.exception, UserError) else str(result.exception)
    return result.exit_code, said


def read(folder: Path) -> dict[str, list[manifest.Record]]:
    """Records of each split."""
    return {split: manifest.read(folder / f"{split}.jsonl") for split in ("train", "dev", "test")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set, made in three chunks by two processes."""
    out = tmp_path_factory.mktemp("synth") / "pocket"
    synth_run.run(Plan("pocket", records=60, seed=5, dev=20, test=20, per_chunk=20), out, jobs=2)
    return out


def test_what_is_made_passes_the_check(made: Path) -> None:
    found = read(made)
    assert sum(map(len, found.values())) == 60 and min(map(len, found.values())) >= 4
    placed, faults = check.check(
        [made / f"{split}.jsonl" for split in found], labels=STYLES, with_audio=True, workers=1
    )
    assert len(placed) == 60 and not [str(fault) for fault in faults if "same audio" not in str(fault)]
    assert {path.name for path in made.iterdir()} == {"audio", "plan.json", *(f"{split}.jsonl" for split in found)}
    for record in (one for some in found.values() for one in some):
        assert record.source == "synthetic" and record.licence == "CC0-1.0" and record.id.startswith("syn_")
        assert soundfile.info(record.audio).samplerate == 16_000
        assert record.translation == "" or record.instruction


def test_voices_and_sentences_of_dev_and_test_are_new(made: Path) -> None:
    found = read(made)
    voices = {split: {one.speaker.partition("@")[0] for one in some} for split, some in found.items()}
    assert not voices["train"] & (voices["dev"] | voices["test"]) and not voices["dev"] & voices["test"]
    texts = {split: {one.text for one in some if len(str(one.text)) > 8} for split, some in found.items()}
    assert not texts["train"] & (texts["dev"] | texts["test"])


def test_words_lie_where_the_sound_is(made: Path) -> None:
    """Around each word there is more energy than in the pauses before the first and after the last."""
    counted = 0
    for record in read(made)["train"]:
        if record.words and not record.labels.get("ssr"):
            samples_T, _ = soundfile.read(record.audio)
            edges = [round(time_s * 16_000) for time_s in (record.words[0].start_s, record.words[-1].end_s)]
            inside = np.mean(samples_T[edges[0] : edges[1]] ** 2)
            outside = np.mean(np.concatenate([samples_T[: edges[0]], samples_T[edges[1] :]]) ** 2)
            assert inside > 3 * outside, record.id
            counted += 1
    assert counted > 10


def test_the_number_of_processes_changes_nothing(made: Path, tmp_path: Path) -> None:
    synth_run.run(Plan("pocket", records=60, seed=5, dev=20, test=20, per_chunk=20), tmp_path / "one", jobs=1)
    assert tree(tmp_path / "one") == tree(made)


COMMAND = (
    "from pathlib import Path; from zhiyin.data.synth_run import *; run(Plan('pocket', records=60, seed=5, dev=20, "
)
COMMAND += "test=20, per_chunk=20), Path({out!r}), jobs=2, resume=True)"


def test_killed_at_any_time_it_ends_with_the_same_files(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    for wait_for in ("audio", "parts/00000.jsonl"):
        process = subprocess.Popen([sys.executable, "-c", COMMAND.format(out=str(out))], start_new_session=True)
        begun = time.monotonic()
        while not (out / wait_for).exists() and process.poll() is None and time.monotonic() - begun < 60:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (out / "train.jsonl").exists()
    with pytest.raises(UserError, match="is not complete; give --resume"):
        synth_run.run(Plan("pocket", records=60, seed=5, dev=20, test=20, per_chunk=20), out)
    synth_run.run(Plan("pocket", records=60, seed=5, dev=20, test=20, per_chunk=20), out, jobs=2, resume=True)
    assert tree(out) == tree(made)


def test_hours_say_how_much(tmp_path: Path) -> None:
    done = synth_run.run(Plan("digits", hours=0.01, per_chunk=5), tmp_path / "a", jobs=2)
    seconds = [one.duration_s for some in read(tmp_path / "a").values() for one in some]
    assert 36 <= sum(seconds) < 36 + 15 and len(list((tmp_path / "a" / "audio").rglob("*.flac"))) == len(seconds)
    assert sum(num for _, num, _ in done.parts) == len(seconds) and done.new_s > 0
    again = synth_run.run(Plan("digits", hours=0.01, per_chunk=5), tmp_path / "a")
    assert again.new_s == 0 and again.parts == done.parts


def test_shards_hold_the_same_records(tmp_path: Path) -> None:
    for name in ("files", "tars"):
        synth_run.run(Plan("commands", records=24, dev=25, test=25), tmp_path / name, shards=name == "tars")
    assert not list((tmp_path / "tars").rglob("*.flac")) and not (tmp_path / "tars" / "train.jsonl").exists()
    for split, records in read(tmp_path / "files").items():
        packed = shards.open_shards(str(tmp_path / "tars" / split))
        assert not list(packed.faults())
        assert [item.record.id for item in packed.stream()] == [record.id for record in records]


def test_events_are_made_and_real_ones_are_joined(tmp_path: Path) -> None:
    done = synth_run.run(Plan("events", records=40, dev=0, test=0), tmp_path / "made")
    assert done.parts[1][1] == done.parts[2][1] == 0
    records = read(tmp_path / "made")["train"]
    events = [one for one in records if "ved" in one.tasks]
    assert len({one.labels["ved"] for one in events}) >= 5
    alone = [one for one in events if one.text == ""]
    assert alone and all(one.tasks == ("ved",) and not one.speaker for one in alone)

    beep_T = np.sin(np.arange(8000) * 0.5) * 0.3
    soundfile.write(tmp_path / "beep.wav", beep_T, 16_000)
    clips = [
        manifest.Record(
            f"c{i}", tmp_path / "beep.wav", 0.5, ("ved",), labels={"ved": "cough"}, licence="CC-BY-9", source="x"
        )
        for i in range(3)
    ]
    manifest.write(tmp_path / "clips.jsonl", clips)
    plan = Plan("events", records=20, dev=0, test=0, clips=str(tmp_path / "clips.jsonl"))
    synth_run.run(plan, tmp_path / "joined")
    joined = [one for one in read(tmp_path / "joined")["train"] if "ved" in one.tasks]
    assert joined and all(one.labels["ved"] == "cough" and one.licence == "CC0-1.0; CC-BY-9" for one in joined)


def test_sounds_of_one_speaker_go_to_one_split() -> None:
    def clip(number: int, **more: object) -> manifest.Record:
        return manifest.Record(f"c{number}", Path("x.wav"), 1.0, (), speaker=f"s{number % 20}", **more)  # type: ignore[arg-type]

    some = [clip(i, labels={"ved": "cough"}) for i in range(200)] + [clip(i, text="") for i in range(100, 300)]
    some += [clip(400, text="words")]
    found = synth_make.sorted_clips(some, {"dev": 0.3, "test": 0.3})
    homes: dict[str, set[str]] = {}
    for split, clips in found.items():
        for one in (*clips.events, *clips.backgrounds):
            homes.setdefault(one.speaker, set()).add(split)
    assert all(len(splits) == 1 for splits in homes.values()) and len(found["test"].events) > 10
    assert sum(len(clips.backgrounds) for clips in found.values()) == 200, "speech is no background"


def test_styles_are_labelled_and_change_the_sound(tmp_path: Path) -> None:
    synth_run.run(Plan("styles", records=40, dev=0, test=0), tmp_path / "out")
    pace: dict[str, list[float]] = {}
    for record in read(tmp_path / "out")["train"]:
        style = record.labels["ssr"]
        assert "ssr" in record.tasks and (style != "whisper" or "sgc" not in record.labels)
        if record.words and record.language == "en":
            pace.setdefault(style, []).append((record.words[-1].end_s - record.words[0].start_s) / len(record.words))
    assert max(pace["fast"]) < min(pace["slow"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pocket"], "either --hours or --records"),
        (["pocket", "--hours", "1", "--records", "5"], "either --hours or --records"),
        (["pocket", "--records", "5", "--dev", "60", "--test", "40"], "together below 100"),
        (["pockets", "--records", "5"], "did you mean 'pocket'"),
        (["pocket", "--records", "5", "--clips", "none.jsonl"], "no such file"),
    ],
)
def test_wrong_wishes_are_refused(tmp_path: Path, words: Sequence[str], said: str) -> None:
    code, output = invoke("synth", words[0], tmp_path / "out", *words[1:])
    assert code != 0 and said in output and not (tmp_path / "out").exists()


def test_a_folder_with_something_else_is_refused(made: Path, tmp_path: Path) -> None:
    code, output = invoke("synth", "digits", made, "--records", "5")
    assert code != 0 and "begun with another grammar and records" in output
    (tmp_path / "notes.txt").write_text("mine")
    code, output = invoke("synth", "digits", tmp_path, "--records", "5")
    assert code != 0 and "not empty" in output
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "plan.json").write_text("{")
    code, output = invoke("synth", "digits", tmp_path / "bad", "--records", "5")
    assert code != 0 and "cannot be read" in output


def test_trouble_in_a_process_is_said_by_the_command(tmp_path: Path) -> None:
    grammar = tmp_path / "big.toml"
    grammar.write_text(
        '[slots.a]\nnumbers = [0, 9999]\n[[rules]]\nid = "x"\nwhere = "a > 9990"\n'
        'text = { en = ["{a} {a + 9}"] }\nheld_out = "never"\n[[rules]]\nid = "y"\ntext = { en = ["one"] }\n'
    )
    code, output = invoke("synth", grammar, tmp_path / "out", "--records", "5")
    assert code != 0 and "0 to 9999 can" in output


def test_the_command_makes_a_set(tmp_path: Path) -> None:
    code, output = invoke("synth", "questions", tmp_path / "out", "--records", "12", "--seed", "2")
    assert code == 0 and f"{tmp_path / 'out' / 'train.jsonl'}:" in output and "times as fast as it plays" in output
    plan = json.loads((tmp_path / "out" / "plan.json").read_text(encoding="utf-8"))
    assert plan["complete"] and plan["seed"] == 2 and plan["grammar"] == "questions"
    assert all(record.answer for some in read(tmp_path / "out").values() for record in some)


def test_two_runs_can_be_trained_together(tmp_path: Path) -> None:
    """Ids differ where recordings do: another seed, grammar, shares or clips; more of the same has the same ids."""
    plans = [
        Plan("digits", records=6, dev=0, test=0),
        Plan("digits", records=6, dev=0, test=0, seed=2),
        Plan("pocket", records=6, dev=0, test=0),
        Plan("digits", records=6, dev=0, test=30),
    ]
    ids = []
    for place, plan in enumerate(plans[:2]):
        synth_run.run(plan, tmp_path / str(place))
        ids.append({one.id for one in read(tmp_path / str(place))["train"]})
    corpus = sources.read([sources.Source(f"{place}/train.jsonl") for place in range(2)], tmp_path)
    assert {record.id for record in corpus.records} == ids[0] | ids[1] and len(corpus.records) == 12
    runs = {synth_run.kit(plan).run for plan in plans}
    assert len(runs) == 4 and all(len(run) == 6 for run in runs)
    assert synth_run.kit(replace(plans[0], records=0, hours=2.0, dev=0.0)).run == synth_run.kit(plans[0]).run


def test_orders_ask_for_the_drink() -> None:
    kit = synth_run.kit(Plan("orders", records=5, dev=40, test=40))
    for made in (synth_make.make(kit, number) for number in range(8)):
        ways = [instructions.about("drink", language, made.split) for language in instructions.LANGUAGES]
        assert made.record.instruction in (*ways[0], *ways[1])
        assert "sttc" in made.record.tasks and made.record.answer in str(made.record.text)


def test_what_is_drawn_depends_on_the_number_alone() -> None:
    kit = synth_run.kit(Plan("phrases", records=5))
    first = [synth_make.make(kit, number).record for number in (3, 1, 2)]
    second = [synth_make.make(kit, number).record for number in (1, 2, 3)]
    assert {one.id: (one.text, one.speaker) for one in first} == {one.id: (one.text, one.speaker) for one in second}
    assert isinstance(kit.sources[0].grammar.rules[0].weight, float) and synth_lines.READINGS
