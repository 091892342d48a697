"""The writers: each format read back by an independent reader, and text that would break a format made harmless."""

import csv
import dataclasses
import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin import write
from zhiyin.result import Correction, Result, Rewrite, Segment, Turn, Word

RESULT = Result(
    source="a.wav",
    duration_s=3725.5,
    tasks=("asr", "sgc"),
    text="turn left go",
    labels={"sgc": "male", "ser": "happy"},
    answer="four",
    translation="左转",
    segments=(
        Segment(1.2304, 2.0, "turn left", (Word("turn", 1.2304, 1.6), Word("left", 1.6, 2.0)), {"sgc": "male"}),
        Segment(2.5, 3.0),
        Segment(3723.0, 3725.4996, "go", labels={"sgc": "female", "ser": "happy"}, answer="four", translation="左转"),
    ),
    unparsed=("<what>",),
)


def test_txt_is_the_transcript_and_titled_lines() -> None:
    assert write.txt(RESULT) == (
        "turn left go\ngender: male\nemotion: happy\nanswer: four\ntranslation: 左转\nunparsed: <what>\n"
    )


def test_txt_of_nothing_is_empty() -> None:
    assert write.txt(Result("a.wav", 1.0, ("asr",))) == ""


def test_srt_times_and_cues() -> None:
    assert write.srt(RESULT) == (
        "1\n00:00:01,230 --> 00:00:02,064\nturn left [male]\n\n"
        "2\n01:02:03,000 --> 01:02:05,500\ngo [female, happy]\nfour\n左转\n"
    )


def test_vtt_times_and_cues() -> None:
    assert write.vtt(RESULT) == (
        "WEBVTT\n\n00:00:01.230 --> 00:00:02.064\nturn left [male]\n\n"
        "01:02:03.000 --> 01:02:05.500\ngo [female, happy]\nfour\n左转\n"
    )


TALK = Result(
    source="a.wav",
    duration_s=9.0,
    tasks=("asr",),
    text="how are you fine bye",
    labels={"sgc": "male"},
    segments=(
        Segment(0.0, 2.0, "how are you fine", turns=(Turn("Speaker 1", "how are you"), Turn("Speaker 2", "fine"))),
        Segment(3.0, 4.0, "um bye", labels={"sgc": "male"}, turns=(Turn("", "um"), Turn("Speaker 1", "b\ny-->e"))),
    ),
)


def test_turns_have_lines_of_their_own() -> None:
    spoken = "Speaker 1: how are you\nSpeaker 2: fine\n"
    assert write.txt(TALK) == spoken + "um\nSpeaker 1: b y-->e\ngender: male\n"
    assert write.srt(TALK) == (
        f"1\n00:00:00,000 --> 00:00:02,000\n{spoken}\n2\n00:00:03,000 --> 00:00:04,000\num\nSpeaker 1: b y→e [male]\n"
    )
    assert write.vtt(TALK) == (
        f"WEBVTT\n\n00:00:00.000 --> 00:00:02.000\n{spoken}\n"
        "00:00:03.000 --> 00:00:04.000\num\nSpeaker 1: b y--&gt;e [male]\n"
    )
    assert "Speaker 1: how are you Speaker 2: fine\t" in write.tsv(TALK)


def test_what_people_read_is_in_written_form_where_there_is_one() -> None:
    said = "they paid twenty dollars"
    segment = Segment(0.0, 2.0, said, written="they paid $20", written_spans=(Rewrite(10, 24, 10, 13),))
    result = Result("a.wav", 2.0, ("asr",), text=said, segments=(segment,), written="they paid $20")
    assert write.txt(result) == "they paid $20\n"
    assert write.srt(result) == "1\n00:00:00,000 --> 00:00:02,000\nthey paid $20\n"
    assert "they paid $20\n" in write.vtt(result)
    assert said not in write.tsv(result) and "they paid $20" in write.tsv(result)
    record = json.loads(write.to_json(result))
    assert (record["text"], record["written"]) == (said, "they paid $20")
    assert (record["segments"][0]["text"], record["segments"][0]["written"]) == (said, "they paid $20")
    span = {"spoken_start": 10, "spoken_end": 24, "written_start": 10, "written_end": 13}
    assert record["segments"][0]["written_spans"] == [span]
    turns = (Turn("Speaker 1", said, "they paid $20"), Turn("", "no", ""))
    talk = dataclasses.replace(result, segments=(dataclasses.replace(segment, turns=turns),))
    assert write.txt(talk) == "Speaker 1: they paid $20\nno\n"


def test_tsv_rows() -> None:
    rows = list(csv.DictReader(io.StringIO(write.tsv(RESULT)), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [row["start_ms"] for row in rows] == ["1230", "2500", "3723000"]
    assert rows[2] == {
        "start_ms": "3723000",
        "end_ms": "3725500",
        "text": "go",
        "labels": "sgc=female;ser=happy",
        "answer": "four",
        "translation": "左转",
    }


def test_json_holds_everything() -> None:
    for text in (write.to_json(RESULT), write.json_line(RESULT)):
        record = json.loads(text)
        assert record["segments"][0]["words"][1] == {"text": "left", "start_s": 1.6, "end_s": 2.0, "source": "model"}
        assert record["labels"] == {"sgc": "male", "ser": "happy"}
        assert set(record) == {field.name for field in dataclasses.fields(Result)}
    assert write.json_line(RESULT).count("\n") == 1


def test_every_field_is_documented() -> None:
    document = (Path(__file__).parents[1] / "docs" / "result.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", document, flags=re.M)
    example = json.loads(re.search(r"```json\n(.*?)```", document, re.S).group(1))  # type: ignore[union-attr]
    assert list(example) == [field.name for field in dataclasses.fields(Result)]
    assert list(example["segments"][0]) == [field.name for field in dataclasses.fields(Segment)]
    for title, kind in (
        ("The recording", Result),
        ("A segment", Segment),
        ("A turn", Turn),
        ("A word", Word),
        ("A rewrite", Rewrite),
        ("A correction", Correction),
    ):
        section = next(text for text in sections if text.startswith(title))
        missing = [field.name for field in dataclasses.fields(kind) if f"`{field.name}`" not in section]
        assert not missing, f"docs/result.md, {title}: {missing}"


_HOSTILE = st.text(alphabet='ab -->\n\r\t\x00\x1b\x85\u2028<&>\\"1', max_size=30)
_SEGMENTS = st.lists(
    st.builds(
        lambda start, length, text, answer: Segment(start, start + length, text, answer=answer),
        st.floats(0, 90_000),
        st.floats(0, 15),
        _HOSTILE,
        _HOSTILE,
    ),
    max_size=5,
)


@given(_SEGMENTS)
def test_any_text_leaves_srt_and_vtt_readable(segments: list[Segment]) -> None:
    result = Result("x", 1.0, ("asr",), segments=tuple(segments))
    spoken = [s for s in segments if write._line(s.text) or write._line(s.answer)]
    for text, head, point in ((write.srt(result), "", ","), (write.vtt(result), "WEBVTT\n\n", ".")):
        assert not set(text) & set("\r\t\x00\x1b\x85\u2028")
        assert text.startswith(head.strip())
        cues = [cue for cue in text[len(head) :].split("\n\n") if cue.strip()]
        assert len(cues) == len(spoken)
        clock = rf"(\d\d+):(\d\d):(\d\d){re.escape(point)}(\d\d\d)"
        for cue in cues:
            arrows = [line for line in cue.split("\n") if "-->" in line]
            assert len(arrows) == 1
            match = re.fullmatch(f"{clock} --> {clock}", arrows[0])
            assert match
            start, end = match.groups()[:4], match.groups()[4:]
            assert tuple(map(int, end)) > tuple(map(int, start))


@given(_SEGMENTS)
def test_any_text_leaves_tsv_readable(segments: list[Segment]) -> None:
    text = write.tsv(Result("x", 1.0, ("asr",), segments=tuple(segments)))
    lines = text.split("\n")
    assert len(lines) == len(segments) + 2
    assert all(line.count("\t") == 5 for line in lines[:-1])


def test_a_file_name_that_is_not_utf8_survives_json() -> None:
    text = write.json_line(Result("bad\udcff.wav", 1.0, ("asr",)))
    assert json.loads(text.encode("utf-8", "backslashreplace"))["source"] == "bad\udcff.wav"


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError):
        write.to_json(Result("x", float("nan"), ("asr",)))
