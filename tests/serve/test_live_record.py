"""The audio of live sessions on the disk: whole, half, and of a service that was killed."""

import shutil
from pathlib import Path

import numpy as np
import soundfile

import zhiyin
from tests.serve.live_speech import stream, truth
from tests.serve.live_streams import Streams, serving
from zhiyin.audio.io import load
from zhiyin.result import Segment, Word
from zhiyin.serve import live_record, uploads
from zhiyin.serve.job import Wish, new_id
from zhiyin.serve.listening import shifted
from zhiyin.serve.live_record import Kept, Owner, Recorder, result
from zhiyin.serve.settings import Folders, Settings, folders

OWNER = Owner("speaker", "早会", Wish(language="en", hotwords=("知音",)))


def written(places: Folders, samples_T: np.ndarray, id: str) -> Recorder:
    recorder = Recorder(id, OWNER, places, 0)
    for at in range(0, len(samples_T), 1000):
        recorder.write(samples_T[at : at + 1000])
    return recorder


def test_samples_come_out_as_they_came(tmp_path: Path) -> None:
    places, id = folders(Settings(data=tmp_path)), new_id()
    codes_T = np.arange(-32768, 32768, dtype=np.int16)
    recorder = written(places, codes_T.astype(np.float32) / 32768, id)
    kept = recorder.finish()
    assert kept.path == f"{id[-2:]}/{id}.flac" and kept.bytes and len(kept.sha256) == 64
    assert not (places.audio / kept.path).exists()
    recorder.keep()
    found_T, rate_hz = soundfile.read(places.audio / kept.path, dtype="int16")
    assert rate_hz == 16_000 and np.array_equal(found_T, codes_T)
    assert not list(places.uploads.iterdir())


def test_louder_than_full_scale_is_clipped(tmp_path: Path) -> None:
    places = folders(Settings(data=tmp_path))
    recorder = written(places, np.array([-2.0, -1.0, 1.0, 2.0], np.float32), new_id())
    recorder.finish()
    found_T, _ = soundfile.read(next(places.uploads.glob("*.part")), dtype="int16")
    assert found_T.tolist() == [-32768, -32768, 32767, 32767]


def test_nothing_heard_nothing_kept(tmp_path: Path) -> None:
    places = folders(Settings(data=tmp_path))
    recorder = Recorder(new_id(), OWNER, places, 0)
    assert recorder.finish() == Kept()
    recorder.keep()
    recorder.drop()
    assert not list(places.uploads.iterdir()) and not list(places.audio.iterdir())


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    """What was written so far is taken away, and a note says why."""
    places = folders(Settings(data=tmp_path))
    recorder = written(places, np.zeros(32_000, np.float32), new_id())
    recorder._free_bytes = 1 << 60
    for _ in range(12):
        recorder.write(np.zeros(16_000, np.float32))
    assert "disk of the service is full" in recorder.note and recorder.finish() == Kept()
    assert not list(places.uploads.iterdir())


def test_a_service_that_was_killed(tmp_path: Path) -> None:
    """What was on the disk at that moment is a job after the next start, of the same user, with the same wishes."""
    id, samples_T = new_id(), stream("digits-1", "words-1")
    places = folders(Settings(data=tmp_path / "first"))
    recorder = written(places, samples_T, id)
    model = zhiyin.load(threads=1)
    with serving(tmp_path / "second", Streams(model.loaded)) as (_, service):
        shutil.copytree(places.uploads, service.folders.uploads, dirs_exist_ok=True)  # as it is, not closed
        (service.folders.uploads / f"{new_id()}.live.json").write_text('{"user": "spea')  # killed while it wrote this
        assert live_record.recover(service) == 1
        uploads.recover(service)
        assert not list(service.folders.uploads.iterdir())
        (job,) = service.jobs.unfinished()
        assert (job.id, job.user, job.file_name, job.mode, job.wish) == (id, "speaker", "早会", "live", OWNER.wish)
        path = service.folders.audio / job.audio
        assert path.stat().st_size == job.bytes
        assert np.array_equal(load(path), samples_T[: len(load(path))]) and len(load(path)) > len(samples_T) - 8192
        assert model.understand(path).text == f"{truth()['digits-1']} {truth()['words-1']}"
        assert live_record.recover(service) == 0
    recorder.drop()


def test_a_session_that_was_stored_is_not_a_job_again(tmp_path: Path) -> None:
    """The service was killed between the history and the folder of recordings: only the file is moved."""
    with serving(tmp_path, Streams(zhiyin.load(threads=1).loaded)) as (_, service):
        id = new_id()
        kept = written(service.folders, stream("digits-4"), id).finish()
        made = result([], OWNER.wish, None, source="x", duration_s=1, processing_s=0, notes=())
        service.jobs.add_done(
            id=id,
            user="speaker",
            mode="live",
            file_name="x",
            audio=kept.path,
            wish=OWNER.wish,
            result=made,
            model_hash="",
        )
        assert live_record.recover(service) == 0
        uploads.recover(service)
        assert (service.folders.audio / kept.path).exists() and not list(service.folders.uploads.iterdir())
        assert not service.jobs.unfinished()


def test_a_result_like_that_of_a_recording() -> None:
    segments = [
        Segment(0.0, 2.0, "two", labels={"sgc": "male"}, written="2"),
        Segment(3.0, 4.0, "三", labels={"sgc": "female"}, written="3"),
    ]
    made = result(segments, Wish(tasks=("asr", "sgc")), None, source="live", duration_s=5, processing_s=1, notes=("x",))
    assert (made.text, made.written, made.labels, made.notes) == ("two三", "2 3", {"sgc": "male"}, ("x",))
    assert made.segments == tuple(segments) and made.duration_s == 5 and made.tasks == ("asr", "sgc")


def test_times_of_a_second_stream() -> None:
    word = vars(Word("x", 1.0, 1.5, "ctc"))
    event = {"event": "final", "segment": {"start_s": 1.0, "end_s": 2.0, "text": "x", "words": [word]}, "stream_s": 2.5}
    moved = shifted(event, 10.0)
    assert moved["stream_s"] == 12.5 and (moved["segment"]["start_s"], moved["segment"]["end_s"]) == (11.0, 12.0)
    assert moved["segment"]["words"] == [{**word, "start_s": 11.0, "end_s": 11.5}]
    assert event["segment"]["start_s"] == 1.0, "the event itself stays as it was"
    assert shifted({"event": "flushed"}, 3.0) == {"event": "flushed"}
