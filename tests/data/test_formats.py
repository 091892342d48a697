"""Other formats: what is written comes back, and files written by others are read as their makers meant them."""

import csv
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.made import RATE_HZ, lists, tone
from zhiyin.data import clip, manifest
from zhiyin.data.formats import cuts, kaldi, osum, osum_tars, tabular
from zhiyin.data.manifest import Record
from zhiyin.errors import UserError
from zhiyin.tasks.render import TimedWord

AUDIO = tone(Path(tempfile.mkdtemp()) / "a.wav")  # read by every example, written by none
PLAIN_IDS = st.from_regex(r"[a-zA-Z0-9._\-]{1,8}", fullmatch=True)


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """A quarter of a second."""
    return tone(tmp_path / "a.wav")


@settings(max_examples=25)
@given(lists(AUDIO))
def test_a_manifest_holds_every_record(records: list[Record]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        manifest.write(Path(folder) / "m.jsonl", records)
        assert manifest.read(Path(folder) / "m.jsonl") == records


@settings(max_examples=25)
@given(lists(AUDIO))
def test_osum_raw_holds_every_record(records: list[Record]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        osum.write(records, Path(folder) / "m.jsonl")
        assert osum.read(Path(folder) / "m.jsonl", Path(folder)).splits["all"] == records


@pytest.mark.parametrize(
    ("write", "read"),
    [
        (osum_tars.write_shards, osum_tars.read_shards),
        (osum_tars.write_combine, osum_tars.read_combine),
    ],
)
def test_osum_tars_hold_every_record(write: object, read: object) -> None:
    @settings(max_examples=8)
    @given(lists(AUDIO))
    def holds(records: list[Record]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "tars"
            write(records, place)  # type: ignore[operator]
            back = read(place, Path(folder) / "out").splits["all"]  # type: ignore[operator]
            assert [replace(record, audio=AUDIO) for record in back] == records
            assert {record.audio.read_bytes() for record in back} == {AUDIO.read_bytes()}
            assert all(record.audio.is_relative_to(Path(folder) / "out" / "audio") for record in back)

    holds()


@settings(max_examples=25)
@given(lists(AUDIO))
def test_tables_hold_every_record(records: list[Record]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tabular.write_csv(records, Path(folder) / "metadata.csv")
        assert tabular.read(Path(folder), Path()).splits["all"] == records
        tabular.write_jsonl(records, Path(folder) / "m.jsonl")
        assert tabular.read(Path(folder) / "m.jsonl", Path()).splits["all"] == records
        with (Path(folder) / "metadata.csv").open(encoding="utf-8", newline="") as file:  # any reader of CSV agrees
            assert [row["text"] for row in csv.DictReader(file)] == [record.text or "" for record in records]


@settings(max_examples=25)
@given(lists(AUDIO, PLAIN_IDS))
def test_kaldi_holds_what_it_has_a_place_for(records: list[Record]) -> None:
    known = [
        Record(
            id=r.id,
            audio=r.audio,
            duration_s=r.duration_s,
            tasks=tuple(t for t in r.tasks if t == "asr" or (t == "sgc" and r.speaker)),
            text=None if r.text is None else " ".join(r.text.split()),
            labels={t: label for t, label in r.labels.items() if t == "sgc" and r.speaker},
            language=r.language,
            speaker=r.speaker,
        )
        for r in records
    ]
    genders = {r.speaker: r.labels["sgc"] for r in records if "sgc" in r.labels}  # Kaldi has one for each speaker
    with tempfile.TemporaryDirectory() as folder:
        kaldi.write(records, Path(folder))
        lines = (Path(folder) / "utt2spk").read_bytes().splitlines()
        assert lines == sorted(lines), "sorted as `LC_ALL=C sort` does"
        back = {record.id: record for record in kaldi.read(Path(folder), Path()).splits["all"]}
    assert set(back) == {r.id for r in records}
    for record in known:
        got = back[record.id]
        if record.speaker in genders:
            assert set(got.labels.values()) <= {r.labels.get("sgc") for r in records if r.speaker == record.speaker}
            got, record = replace(got, labels={}, tasks=()), replace(record, labels={}, tasks=())
        if record.speaker != record.id:
            assert got == record


def test_kaldi_segments_are_parts_of_a_recording(tmp_path: Path) -> None:
    tone(tmp_path / "long.wav", 2.0)
    (tmp_path / "wav.scp").write_text("rec long.wav\n")
    (tmp_path / "segments").write_text("u1 rec 0.25 1.0\nu2 rec 1.0 -1\n")
    (tmp_path / "text").write_text("u1 打开 灯\nu2\n", encoding="utf-8")
    (tmp_path / "utt2spk").write_text("u1 s\nu2 s\n")
    (tmp_path / "spk2gender").write_text("s f\n")
    first, second = kaldi.read(tmp_path, tmp_path).splits["all"]
    assert (first.start_s, first.end_s, first.duration_s, first.text) == (0.25, 1.0, 0.75, "打开 灯")
    assert (second.start_s, second.end_s, second.duration_s, second.text) == (1.0, None, 1.0, "")
    assert first.labels == {"sgc": "female"} and first.tasks == ("asr", "sgc")
    truth, _ = soundfile.read(tmp_path / "long.wav", dtype="float32")
    assert (clip.samples(first) == truth[RATE_HZ // 4 : RATE_HZ]).all()
    assert (clip.samples(second) == truth[RATE_HZ:]).all()
    kaldi.write([first, second], tmp_path / "again")
    again = kaldi.read(tmp_path / "again", tmp_path).splits["all"]
    assert [(r.id, r.start_s, r.duration_s, r.audio.resolve()) for r in again] == [
        (r.id, r.start_s, r.duration_s, r.audio.resolve()) for r in (first, second)
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("u1 touch ran |", "line 1: 'touch ran |' is a command"),
        ("u1 | touch ran", "is a command"),
        ("u1 feats.ark:123", "part of an archive"),
    ],
)
def test_kaldi_commands_are_refused_and_never_run(
    tmp_path: Path, line: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wav.scp").write_text(line + "\n")
    with pytest.raises(UserError, match=r"wav\.scp") as told:
        kaldi.read(tmp_path, tmp_path)
    assert said in str(told.value)
    assert not (tmp_path / "ran").exists()


# Lines as OSUM's maintainers wrote them, or as its code takes them.
@pytest.mark.parametrize(
    ("line", "want"),
    [
        ({"task": "<TRANSCRIBE> <EMOTION>", "txt": "你好<anger>"}, {"text": "你好", "labels": {"ser": "anger"}}),
        ({"task": "<TRANSCRIBE> <CAPTION>", "txt": "啊<THROAT CLEARING>"}, {"labels": {"ved": "throat clearing"}}),
        ({"task": "<AGE> <GENDER>", "txt": "<ADULT><MALE>"}, {"text": None, "labels": {"sap": "adult", "sgc": "male"}}),
        ({"task": "<TRANSCRIBE> <STYLE>", "txt": "从前<小说>"}, {"labels": {"ssr": "有声书"}}),
        ({"task": "<TRANSCRIBE> <S2TCHAT>", "txt": "几点<开始回答>三点"}, {"text": "几点", "answer": "三点"}),
        ({"task": "<TRANSCRIBE><GENDER>", "txt": "<female>", "lang": "<CN>"}, {"text": "", "language": "zh"}),
        (
            {"task": "<TRANSCRIBE> <ALIGN>", "txt": "<0.1>你<0.3><0.3>好<0.5>"},
            {"text": "你好", "words": (TimedWord("你", 0.1, 0.3), TimedWord("好", 0.3, 0.5))},
        ),
        ({"task": "<TRANSCRIBE> <ALIGN>", "txt": "turn<0.1, 0.3> left<0.3, 0.5>"}, {"text": "turn left"}),
        ({"txt": "hello", "start": 0.05, "end": 0.2}, {"start_s": 0.05, "end_s": 0.2, "duration_s": 0.15}),
        ({"txt": "hello", "gender": "male", "speaker": "<NONE>"}, {"labels": {"sgc": "male"}, "speaker": ""}),
    ],
)
def test_lines_of_osum_are_read(tmp_path: Path, audio: Path, line: dict, want: dict) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps({"key": "0001", "wav": "a.wav", **line}, ensure_ascii=False))
    (record,) = osum.read(tmp_path / "m.jsonl", tmp_path).splits["all"]
    assert {name: getattr(record, name) for name in want} == want


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"task": "<TRANSCRIBE> <EMOTIO>", "txt": "a<b>"}, r"line 1: task tag '<EMOTIO>' is not OSUM's \(did you mean"),
        ({"task": "<TRANSCRIBE> <EMOTION>", "txt": "a"}, "should end with 1 labels, for ser"),
        ({"task": "<TRANSCRIBE> <S2TCHAT>", "txt": "a"}, "no <开始回答>"),
        ({"task": "<TRANSCRIBE> <ALIGN>", "txt": "a b"}, "no times"),
        ({"task": "<TRANSCRIBE>"}, "'key' or 'txt' is missing"),
        ({"txt": "a", "start": 0.2, "end": 0.1}, "'end' must lie behind 'start'"),
    ],
)
def test_broken_lines_of_osum_are_named(tmp_path: Path, audio: Path, line: dict, said: str) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps({"key": "0001", "wav": "a.wav", **line}, ensure_ascii=False))
    with pytest.raises(UserError, match=said):
        osum.read(tmp_path / "m.jsonl", tmp_path)


def test_what_osum_drops_is_said(tmp_path: Path, audio: Path) -> None:
    row = {"key": "1", "wav": "a.wav", "task": "<TRANSCRIBE> <EMOTION>", "txt": "你<None>"}
    (tmp_path / "m.jsonl").write_text(json.dumps(row))
    got = osum.read(tmp_path / "m.jsonl", tmp_path)
    assert got.splits["all"] == [] and "1 lines" in got.notes[0]


def test_an_edited_line_of_osum_counts(tmp_path: Path, audio: Path) -> None:
    """The point of "combine": labels are mended in the JSONL, the tars stay as they are."""
    record = Record("x", audio, 0.25, ("asr", "ser", "sgc"), "你好", labels={"ser": "happy", "sgc": "male"})
    osum_tars.write_combine([record], tmp_path / "c")
    lines = tmp_path / "c" / "combine_00000.list"
    lines.write_text(lines.read_text(encoding="utf-8").replace("你好<happy>", "你们好<sad>"), encoding="utf-8")
    (back,) = osum_tars.read_combine(tmp_path / "c" / "train.list", tmp_path / "out").splits["all"]
    assert back.labels == {"ser": "sad", "sgc": "male"} and back.text == "你们好"


def test_one_line_for_each_prompt_osum_has() -> None:
    labels = {"ved": "cough", "ser": "sad", "ssr": "客服", "sap": "old", "sgc": "male"}
    record = Record("x", AUDIO, 0.25, ("asr", "ved", "ser", "ssr", "sgc", "sap"), "嗯", labels=labels)
    got = {line["task"]: line["txt"] for line in osum.to_lines(record)}
    assert got == {
        "<TRANSCRIBE> <CAPTION>": "嗯<cough>",
        "<TRANSCRIBE> <EMOTION>": "嗯<sad>",
        "<TRANSCRIBE> <STYLE> <AGE> <GENDER>": "嗯<客服><old><male>",
    }


def test_the_usual_names_of_columns_are_understood(tmp_path: Path, audio: Path) -> None:
    (tmp_path / "metadata.csv").write_text(
        'file_name,transcription,speaker_id,Gender,gender,odd\na.wav,"Turn, left",7,x,Female,1\n'
    )
    got = tabular.read(tmp_path, tmp_path)
    (record,) = got.splits["all"]
    assert (record.id, record.text, record.speaker, record.labels) == ("a", "Turn, left", "7", {"sgc": "female"})
    assert record.tasks == ("asr", "sgc") and record.duration_s == 0.25
    assert got.notes == ("columns that are not understood were left out: Gender, odd",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file_name,text\na.wav\n", "line 2: 1 cells, and the header has 2"),
        ('file_name,text\na.wav,"x\n', "not a table that can be read"),
        ("name,text\na.wav,x\n", "line 2: no column names the audio"),
        ("file_name,duration\na.wav,long\n", "line 2: duration_s is 'long'"),
    ],
)
def test_a_broken_table_is_named(tmp_path: Path, audio: Path, text: str, said: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        tabular.read(tmp_path / "t.csv", tmp_path)


def test_lhotse_cuts_hold_every_record() -> None:
    lhotse = pytest.importorskip("lhotse", exc_type=ImportError)

    @settings(max_examples=8)
    @given(lists(AUDIO))
    def holds(records: list[Record]) -> None:
        made = cuts.to_cuts(records)
        assert cuts.from_cuts(made) == [replace(r, audio=r.audio.absolute()) for r in records]
        assert [cut.supervisions[0].text for cut in made] == [record.text for record in records]
        with tempfile.TemporaryDirectory() as folder:
            cuts.write(records, Path(folder) / "c.jsonl.gz")
            assert cuts.read(Path(folder) / "c.jsonl.gz", Path()).splits["all"] == cuts.from_cuts(made)

    holds()
    part = Record("p", AUDIO, 0.1, ("asr", "srwt"), "a", (TimedWord("a", 0.01, 0.05),), start_s=0.1, end_s=0.2)
    (cut,) = cuts.to_cuts([part])
    truth, _ = soundfile.read(AUDIO, dtype="float32")
    assert (cut.load_audio()[0] == truth[1600:3200]).all(), "lhotse plays the same part"
    word = cut.supervisions[0].alignment["word"][0]
    assert (word.symbol, word.start, word.duration) == ("a", 0.01, 0.04)
    with pytest.raises(UserError, match="changed while it is read"):
        cuts.from_cuts(lhotse.CutSet.from_cuts([cut]).perturb_speed(1.1))
