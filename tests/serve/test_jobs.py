"""Jobs: what is kept of them, and which state follows which."""

import json
import threading
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine

from tests.serve.rows import done, new, result
from zhiyin.ask import Options
from zhiyin.audio.vad import Thresholds
from zhiyin.config import build
from zhiyin.result import Result, Segment
from zhiyin.serve.job import STATES, new_id
from zhiyin.serve.jobs import Jobs, Wish

HOSTILE = (
    "'; DROP TABLE jobs; --",
    '" OR 1=1 --',
    "%_\\",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "../../etc/passwd",
    "=cmd|' /C calc'!A0",
    "{{7*7}} ${7*7} %s %(x)s :name ?",
    "会议\u202e\u200b‮😀\U0010ffff",
    " \t\r\n x \u2028",
    "",
)


@pytest.fixture
def jobs(engine: Engine) -> Jobs:
    return Jobs(engine)


def test_what_is_added_comes_back(jobs: Jobs) -> None:
    wish = Wish(("asr", "ser"), "", "zh", "en", ("张三", "a => b"), True, False, False, "plain", "split")
    wish = replace(wish, vad=Thresholds(min_silence_s=0.7), model="pocket")
    before = datetime.now(timezone.utc)
    id = new_id()
    job = new(jobs, wish=wish, duration_s=2.5, batch="周一", id=id, audio=f"ab/{id}.wav")
    assert jobs.get(id, "li") == job
    assert (job.id, job.wish, job.batch, job.duration_s, job.audio) == (id, wish, "周一", 2.5, f"ab/{id}.wav")
    assert (job.state, job.attempts, job.edited, job.result, job.segments) == ("queued", 0, None, {}, [])
    assert (job.tasks, job.language) == (("asr", "ser"), "zh")
    assert before <= job.created_at <= datetime.now(timezone.utc) and job.created_at.utcoffset() == timedelta(0)


def test_what_is_found_comes_back(jobs: Jobs) -> None:
    found = result(answer="yes", translation="meeting today", notes=("a note",), unparsed=("<x>",))
    job = new(jobs)
    jobs.claim(job.id)
    assert jobs.finish(job.id, found, "abc")
    kept = jobs.get(job.id, None)
    assert kept is not None and kept.started_at and kept.finished_at
    assert kept.result == json.loads(json.dumps(found.to_dict())) and kept.segments == kept.result["segments"]
    assert build(Result, kept.result, "") == found
    facts = {name: getattr(kept, name) for name in ("text", "written", "answer", "translation", "labels", "tasks")}
    assert facts == {name: getattr(found, name) for name in facts}
    assert (kept.model, kept.model_hash, kept.backend, kept.device) == ("pocket", "abc", "onnx", found.device)
    assert (kept.precision, kept.processing_s, kept.duration_s) == ("float32", 0.6, 3.0)
    assert kept.real_time_factor == pytest.approx(0.2)
    assert (kept.state, kept.attempts, kept.progress_s, kept.language) == ("done", 1, 3.0, "zh")


def test_the_language_asked_is_kept(jobs: Jobs) -> None:
    assert done(jobs, wish=Wish(language="yue")).language == "yue"
    silent = (Segment(0.0, 1.0),)
    assert done(jobs, found={"segments": silent, "duration_s": 0.0}).language == ""


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_come_back_as_they_were(jobs: Jobs, text: str) -> None:
    wish = Wish((), text, text, text, (text,), template=text, model=text)
    job = new(jobs, user=text, file_name=text, batch=text, wish=wish, audio=text)
    assert (job.user, job.file_name, job.batch, job.wish, job.audio) == (text, text, text, wish, text)
    jobs.claim(job.id)
    segment = Segment(0.0, 1.0, text, labels={text: text}, unparsed=(text,))
    texts: dict[str, Any] = {name: text for name in ("source", "written", "answer", "translation", "model", "device")}
    jobs.finish(job.id, result(text, **texts, labels={text: text}, segments=(segment,)), text)
    kept = jobs.get(job.id, text)
    assert kept is not None
    assert {getattr(kept, name) for name in (*texts, "text", "model_hash") if name != "source"} == {text}
    assert kept.labels == {text: text} and build(Segment, kept.segments[0], "") == segment
    failed = new(jobs, user=text)
    assert jobs.fail(failed.id, text)
    assert [job.id for job in jobs.recent(text)] == [failed.id, job.id]
    assert len(jobs.recent(None)) == 2 and jobs.usage(text, job.created_at).bytes == 20


def test_what_no_database_holds_is_made_visible(jobs: Jobs) -> None:
    job = new(jobs, file_name="a\x00b\udcff.wav", wish=Wish(instruction="\x00", hotwords=("\udcff",)))
    assert job.file_name == "a␀b\\udcff.wav"
    assert job.wish == Wish(instruction="\x00", hotwords=("\udcff",))  # JSON has a way to write them


def test_jobs_of_others_are_not_there(jobs: Jobs) -> None:
    job = new(jobs, user="li")
    assert jobs.get(job.id, "li") is not None and jobs.get(job.id, None) is not None
    assert jobs.get(job.id, "Li") is None and jobs.get(job.id, "") is None
    for id in ("", "0" * 32, job.id.upper(), job.id + "0", "' OR 1=1 --", "一" * 32):
        assert jobs.get(id, None) is None and not jobs.cancel(id) and not jobs.claim(id)


# action -> the states it may follow, and the state after it; the truth of docs/history.md
ACTIONS: dict[str, tuple[set[str], str]] = {
    "claim": ({"queued"}, "running"),
    "progress": ({"running"}, "running"),
    "finish": ({"running"}, "done"),
    "fail": ({"queued", "running"}, "failed"),
    "cancel": ({"queued", "running"}, "cancelled"),
    "requeue": ({"running"}, "queued"),
    "retry": ({"failed", "cancelled"}, "queued"),
}


def _in_state(jobs: Jobs, state: str) -> str:
    id = new(jobs).id
    if state != "queued":
        jobs.claim(id)
    {"done": lambda: jobs.finish(id, result(), ""), "failed": lambda: jobs.fail(id, "x\ny")}.get(state, bool)()
    if state == "cancelled":
        jobs.cancel(id)
    return id


def _act(jobs: Jobs, action: str, id: str) -> object:
    arguments: dict[str, tuple[Any, ...]] = {"progress": (1.5,), "finish": (result(), "h"), "fail": ("broken",)}
    return getattr(jobs, action)(id, *arguments.get(action, ()))


@pytest.mark.parametrize("action", ACTIONS)
def test_which_state_follows_which(jobs: Jobs, action: str) -> None:
    allowed, after = ACTIONS[action]
    for state in STATES:
        id = _in_state(jobs, state)
        before = jobs.get(id, None)
        assert before is not None and before.state == state
        did = _act(jobs, action, id)
        now = jobs.get(id, None)
        assert now is not None
        if state in allowed:
            assert now.state == after and (did or action == "progress")
        else:
            assert now == before and not did


def test_attempts_are_counted(jobs: Jobs) -> None:
    id = new(jobs).id
    for number in (1, 2):
        assert jobs.claim(id) == number
        jobs.requeue(id)
    jobs.claim(id)
    jobs.requeue(id, attempt=False)
    assert (job := jobs.get(id, None)) and job.attempts == 2
    jobs.fail(id, "a\n b")
    assert (job := jobs.get(id, None)) and (job.error, job.finished_at is None) == ("a b", False)
    jobs.retry(id)
    assert (job := jobs.get(id, None)) and (job.attempts, job.error, job.finished_at) == (0, "", None)


def test_progress_is_kept(jobs: Jobs) -> None:
    id = new(jobs, duration_s=1.0).id
    jobs.claim(id)
    jobs.progress(id, 2.0)
    assert (job := jobs.get(id, None)) and (job.progress_s, job.duration_s) == (2.0, 1.0)
    jobs.progress(id, 3.0, 9.0)
    assert (job := jobs.get(id, None)) and (job.progress_s, job.duration_s) == (3.0, 9.0)


def test_one_of_many_gets_a_job(jobs: Jobs) -> None:
    id, got, gate = new(jobs).id, list[int](), threading.Barrier(8)

    def take() -> None:
        gate.wait()
        got.append(jobs.claim(id))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [0] * 7 + [1]


def test_a_job_ends_once(jobs: Jobs) -> None:
    for _ in range(5):
        id, ends, gate = new(jobs).id, dict[str, bool](), threading.Barrier(3)
        jobs.claim(id)

        def end(action: str, id: str = id, ends: dict[str, bool] = ends, gate: threading.Barrier = gate) -> None:
            gate.wait()
            ends[action] = bool(_act(jobs, action, id))

        threads = [threading.Thread(target=end, args=[action]) for action in ("finish", "cancel", "fail")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        job = jobs.get(id, None)
        assert job is not None and [ACTIONS[action][1] for action, did in ends.items() if did] == [job.state]


def test_lists(jobs: Jobs) -> None:
    first, second = new(jobs, user="li", batch="b"), new(jobs, user="wang")
    jobs.claim(second.id)
    third = done(jobs, user="li", batch="b")
    assert [job.id for job in jobs.unfinished()] == [first.id, second.id]
    assert jobs.open_of("li") == (2, 1) and jobs.open_of("nobody") == (2, 0)
    assert [job.id for job in jobs.recent(None)] == [third.id, second.id, first.id]
    assert jobs.recent(None)[0] == replace(third, segments=[], result={})
    assert [job.id for job in jobs.recent("li", batch="b", states=("done",))] == [third.id]
    assert len(jobs.recent(None, limit=1)) == 1
    usage = jobs.usage("li", first.created_at)
    assert (usage.bytes, usage.audio_s) == (20, 3.0)
    assert jobs.usage("li", datetime.now(timezone.utc)).bytes == 0


def test_a_live_session_is_kept_when_it_has_ended(jobs: Jobs) -> None:
    began = datetime(2026, 5, 1, 8, 0, 0, 123456, timezone(timedelta(hours=8)))
    job = jobs.add_done(user="li", mode="live", file_name="", wish=Wish(), result=result(), started_at=began)
    assert (job.state, job.text, job.mode, job.attempts) == ("done", result().text, "live", 1)
    assert job.started_at == began and jobs.get(job.id, "li") == job and jobs.open_of("li") == (0, 0)


def test_a_recording_that_went_is_forgotten(jobs: Jobs) -> None:
    id = done(jobs, audio="ab/x.wav").id
    jobs.forget_audio(id)
    assert (job := jobs.get(id, None)) and job.audio == ""


def test_a_fault_of_ours_is_no_row(jobs: Jobs) -> None:
    for wrong in ({"mode": "fax"}, {"id": "../x"}):
        with pytest.raises(ValueError):
            new(jobs, **wrong)
    assert jobs.recent(None) == []


def test_ids_sort_by_time() -> None:
    ids = []
    for _ in range(50):
        ids.append(new_id())
        threading.Event().wait(0.00002)
    assert all(a < b for a, b in pairwise(ids))
    assert {(UUID(id).version, UUID(id).variant) for id in ids} == {(7, "specified in RFC 4122")}
    assert abs((int(ids[0], 16) >> 80) / 1000 - datetime.now(timezone.utc).timestamp()) < 5


def test_a_wish_is_what_the_main_job_takes() -> None:
    assert Wish().options() == Options(written=True)
    wish = Wish((), "what is said", "zh", "en", ("张三",), True, True, False, "plain", "split")
    assert wish.options() == Options("what is said", "zh", "en", ("张三",), True, True, False, "plain", "split")
