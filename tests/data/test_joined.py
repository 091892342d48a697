"""Strings joined from single words: of one speaker, with times that are those of the sound."""

from pathlib import Path

import numpy as np
import soundfile

from zhiyin.data import joined, manifest
from zhiyin.data.manifest import Record
from zhiyin.tasks.render import TimedWord

RATE_HZ = 16_000


def word(folder: Path, speaker: str, text: str, language: str, level: float) -> Record:
    """A recording of 0.5 s: quiet, a word of constant level from 0.1 to 0.3 s, quiet."""
    samples_T = np.zeros(RATE_HZ // 2)
    samples_T[RATE_HZ // 10 : 3 * RATE_HZ // 10] = level
    path = folder / f"{speaker}-{text}.wav"
    soundfile.write(path, samples_T, RATE_HZ)
    times = (TimedWord(text, 0.1, 0.3),)
    labels = {"sgc": "female", "sap": "adult"}
    more = {"labels": labels, "language": language, "speaker": speaker, "licence": f"of {speaker}"}
    return Record(path.stem, path, 0.5, ("asr", "srwt", "sgc", "sap"), text=text, words=times, **more)


def test_words_of_one_speaker_with_the_times_of_their_sound(tmp_path: Path) -> None:
    levels = {"one": 0.2, "two": 0.4, "一": 0.6}
    words = [
        word(tmp_path, speaker, text, language, levels[text])
        for speaker, text, language in (("a", "one", "en"), ("a", "two", "en"), ("b", "one", "en"), ("b", "一", "zh"))
    ]
    found = joined.join_words(tmp_path / "out", words, 12, seed=1)
    assert manifest.read(tmp_path / "out" / "manifest.jsonl") == found
    assert {(one.speaker, one.language) for one in found} == {("a", "en"), ("b", "en"), ("b", "zh")}
    for record in found:
        samples_T, _ = soundfile.read(record.audio)
        assert record.duration_s == round(len(samples_T) / RATE_HZ, 3)
        assert record.text == ("" if record.language == "zh" else " ").join(one.text for one in record.words)
        assert 2 <= len(record.words) <= 6 and record.licence == f"of {record.speaker}"
        assert record.tasks == ("asr", "srwt", "sgc") and record.labels == {"sgc": "female"}
        loud_T = np.zeros(len(samples_T))
        for one in record.words:
            middle = slice(round(one.start_s * RATE_HZ) + 5, round(one.end_s * RATE_HZ) - 5)
            assert np.allclose(samples_T[middle], levels[one.text], atol=1e-3)
            loud_T[round(one.start_s * RATE_HZ) - 5 : round(one.end_s * RATE_HZ) + 5] = 1
        assert np.abs(samples_T[loud_T == 0]).max() < 0.01


def test_the_same_seed_gives_the_same_strings_and_leaves_files_alone(tmp_path: Path) -> None:
    words = [word(tmp_path, "a", text, "en", 0.3) for text in ("one", "two")]
    first = joined.join_words(tmp_path / "out", words, 3, seed=1)
    times = [record.audio.stat().st_mtime_ns for record in first]
    assert joined.join_words(tmp_path / "out", words, 3, seed=1) == first
    assert [record.audio.stat().st_mtime_ns for record in first] == times
    assert joined.join_words(tmp_path / "other", words, 3, seed=2) != first
