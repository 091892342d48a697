"""Public corpora by the layout of their folders, each fabricated with a few tiny files."""

import json
from pathlib import Path

import pytest

from tests.data.made import tone
from zhiyin.data import check, manifest
from zhiyin.data.corpora import (
    aishell,
    audio_mnist,
    common_voice,
    crema_d,
    esc50,
    librispeech,
    ravdess,
    speech_commands,
    speech_pack,
)
from zhiyin.data.corpora.normal import plain
from zhiyin.data.manifest import Imported
from zhiyin.errors import UserError


def put(path: Path, text: str) -> None:
    """A text file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def facts(got: Imported) -> dict[str, list[tuple]]:
    """What tests look at, by split."""
    return {split: [(r.id, r.text, r.labels, r.speaker) for r in records] for split, records in got.splits.items()}


def fits(got: Imported, folder: Path) -> None:
    """Everything an importer makes passes `zhiyin data check`, with our own label sets."""
    paths = []
    for split, records in got.splits.items():
        manifest.write(folder / f"{split}.jsonl", records)
        paths.append(folder / f"{split}.jsonl")
    assert check.check(paths, labels={})[1] == []


def test_librispeech(tmp_path: Path) -> None:
    put(tmp_path / "SPEAKERS.TXT", "; comment\n19   | F | train-clean-100 | 25.19 | Kara\n26 | M | dev-clean | 1 | X\n")
    put(tmp_path / "train-clean-100/19/198/19-198.trans.txt", "19-198-0000 IT'S A TEST\n19-198-0001 TWO\n")
    put(tmp_path / "dev-clean/26/1/26-1.trans.txt", "26-1-0000 THREE\n")
    for n, name in enumerate(("train-clean-100/19/198/19-198-0000", "train-clean-100/19/198/19-198-0001")):
        tone(tmp_path / f"{name}.flac", seed=n)
    tone(tmp_path / "dev-clean/26/1/26-1-0000.flac", seed=9)
    got = librispeech.read(tmp_path, tmp_path)
    assert facts(got) == {
        "train-clean-100": [
            ("19-198-0000", "it's a test", {"sgc": "female"}, "librispeech_19"),
            ("19-198-0001", "two", {"sgc": "female"}, "librispeech_19"),
        ],
        "dev-clean": [("26-1-0000", "three", {"sgc": "male"}, "librispeech_26")],
    }
    fits(got, tmp_path)
    (tmp_path / "dev-clean/26/1/26-1-0000.flac").unlink()
    with pytest.raises(UserError, match=r"26-1\.trans\.txt line 1"):
        librispeech.read(tmp_path, tmp_path)


def test_aishell(tmp_path: Path) -> None:
    root = tmp_path / "data_aishell"
    put(root / "transcript/aishell_transcript_v0.8.txt", "BAC009S0002W0122 而 对 楼市 成交\n")
    put(tmp_path / "resource_aishell/speaker.info", "0002 F\n")
    tone(root / "wav/train/S0002/BAC009S0002W0122.wav")
    tone(root / "wav/train/S0002/BAC009S0002W0999.wav")
    got = aishell.read(tmp_path, tmp_path)
    assert facts(got) == {"train": [("BAC009S0002W0122", "而对楼市成交", {"sgc": "female"}, "aishell1_S0002")]}
    assert got.notes == ("1 recordings have no transcript; they were left out",)
    fits(got, tmp_path)


def test_common_voice(tmp_path: Path) -> None:
    root = tmp_path / "zh-CN"
    head = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tlocale\tsegment\n"
    put(root / "train.tsv", head + 'aa\tx1.wav\t他说："你好，世界。\t2\t0\ttwenties\tmale\t\tzh-CN\t\n')
    put(root / "test.tsv", head + "bb\tx2.wav\t再见！\t2\t0\tteens\tfemale_feminine\t\tzh-CN\t\n")
    tone(root / "clips/x1.wav", seed=1)
    tone(root / "clips/x2.wav", 0.5, seed=2)
    put(root / "clip_durations.tsv", "clip\tduration[ms]\nx2.wav\t500\n")
    got = common_voice.read(root, tmp_path)
    assert facts(got) == {
        "train": [("x1", "他说你好世界", {"sgc": "male", "sap": "adult"}, "cv_aa")],
        "test": [("x2", "再见", {"sgc": "female"}, "cv_bb")],
    }
    assert got.splits["test"][0].language == "zh" and got.splits["test"][0].duration_s == 0.5
    fits(got, tmp_path)


def test_speech_commands(tmp_path: Path) -> None:
    put(tmp_path / "validation_list.txt", "yes/aa_nohash_0.wav\n")
    put(tmp_path / "testing_list.txt", "no/bb_nohash_1.wav\n")
    names = ("yes/aa_nohash_0", "no/bb_nohash_1", "no/cc_nohash_0", "_background_noise_/running_tap")
    for n, name in enumerate(names):
        tone(tmp_path / f"{name}.wav", seed=n)
    got = speech_commands.read(tmp_path, tmp_path)
    assert facts(got) == {
        "train": [("no_cc_nohash_0", "no", {}, "sc_cc")],
        "dev": [("yes_aa_nohash_0", "yes", {}, "sc_aa")],
        "test": [("no_bb_nohash_1", "no", {}, "sc_bb")],
    }
    fits(got, tmp_path)


def test_audio_mnist(tmp_path: Path) -> None:
    speakers = {"01": {"age": "30", "gender": "male"}, "28": {"age": 1234, "gender": "female"}}
    put(tmp_path / "data/audioMNIST_meta.txt", json.dumps(speakers))
    tone(tmp_path / "data/01/7_01_0.wav", seed=1)
    tone(tmp_path / "data/28/0_28_3.wav", seed=2)
    got = audio_mnist.read(tmp_path, tmp_path)
    assert facts(got)["all"] == [
        ("amnist_7_01_0", "seven", {"sgc": "male", "sap": "adult"}, "amnist_01"),
        ("amnist_0_28_3", "zero", {"sgc": "female"}, "amnist_28"),
    ]
    fits(got, tmp_path)


def test_esc50(tmp_path: Path) -> None:
    rows = "1-1-A-20.wav,1,20,crying_baby,True,1,A\n1-1-B-0.wav,1,0,dog,True,1,B\n5-2-A-21.wav,5,21,sneezing,True,2,A\n"
    put(tmp_path / "meta/esc50.csv", "filename,fold,target,category,esc10,src_file,take\n" + rows)
    for n, row in enumerate(rows.splitlines()):
        tone(tmp_path / "audio" / row.split(",")[0], seed=n)
    got = esc50.read(tmp_path, tmp_path)
    assert facts(got) == {
        "fold1": [
            ("esc50_1-1-A-20", "", {"ved": "cry"}, "esc50_1"),
            ("esc50_1-1-B-0", "", {"ved": "other"}, "esc50_1"),
        ],
        "fold5": [("esc50_5-2-A-21", "", {"ved": "sneeze"}, "esc50_2")],
    }
    fits(got, tmp_path)


def test_ravdess(tmp_path: Path) -> None:
    for n, name in enumerate(("03-01-06-01-02-01-12", "03-01-05-02-01-01-01", "03-02-05-02-01-01-01")):
        tone(tmp_path / f"Actor_{name[-2:]}" / f"{name}.wav", seed=n)
    got = ravdess.read(tmp_path, tmp_path)
    assert facts(got)["all"] == [
        (
            "ravdess_03-01-05-02-01-01-01",
            "kids are talking by the door",
            {"ser": "anger", "sgc": "male"},
            "ravdess_01",
        ),
        (
            "ravdess_03-01-06-01-02-01-12",
            "dogs are sitting by the door",
            {"ser": "fear", "sgc": "female"},
            "ravdess_12",
        ),
    ]
    assert got.notes == ("1 files are no audio-only speech; they were left out",)
    fits(got, tmp_path)


def test_crema_d(tmp_path: Path) -> None:
    put(tmp_path / "VideoDemographics.csv", "ActorID,Age,Sex,Race,Ethnicity\n1001,74,Male,X,Y\n")
    tone(tmp_path / "AudioWAV/1001_DFA_ANG_XX.wav", seed=1)
    tone(tmp_path / "AudioWAV/1002_IEO_HAP_HI.wav", seed=2)
    got = crema_d.read(tmp_path, tmp_path)
    assert facts(got)["all"] == [
        (
            "cremad_1001_DFA_ANG_XX",
            "don't forget a jacket",
            {"ser": "anger", "sgc": "male", "sap": "old"},
            "cremad_1001",
        ),
        ("cremad_1002_IEO_HAP_HI", "it's eleven o'clock", {"ser": "happy"}, "cremad_1002"),
    ]
    fits(got, tmp_path)


READERS = [aishell, audio_mnist, common_voice, crema_d, esc50, librispeech, ravdess, speech_commands]


@pytest.mark.parametrize("corpus", READERS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_a_wrong_folder_is_named(corpus, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}.*give the folder|unpack"):
        corpus.read(tmp_path, tmp_path)


def test_the_speech_pack_is_left_as_it_is(shared: Path) -> None:
    got = speech_pack.read_all(shared / "data", Path())
    assert {split: len(records) for split, records in got.splits.items()} == {"train": 9801, "dev": 770, "test": 1001}
    assert got.notes == ("400 clips have no truth for our tasks; they were left out",)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("Don't stop, Mr. O’Neil!", "don't stop mr o'neil"),
        ("他说：“你好，世界。”", "他说 你好 世界"),
        ("'Tis 5% co-op", "tis 5 co op"),
    ],
)
def test_transcripts_are_plain(text: str, want: str) -> None:
    assert plain(text) == want
