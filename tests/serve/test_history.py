"""The history: pages, search, filters, edits, deletion, purge; against a search by hand over all rows."""

import os
import random
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select, text, update

from tests.serve.rows import done, new, result
from tests.serve.test_jobs import HOSTILE
from zhiyin.errors import UserError
from zhiyin.serve import schema, search
from zhiyin.serve.database import reading, writing
from zhiyin.serve.history import History, Purged, Query
from zhiyin.serve.job import Job, new_id
from zhiyin.serve.jobs import Jobs, Wish
from zhiyin.serve.settings import Folders, Settings, folders

DAY = timedelta(days=1)


@pytest.fixture
def jobs(engine: Engine) -> Jobs:
    return Jobs(engine)


@pytest.fixture
def kept(tmp_path: Path) -> Folders:
    return folders(Settings(data=tmp_path / "data"))


@pytest.fixture
def history(engine: Engine, kept: Folders) -> History:
    return History(engine, kept)


def found(history: History, query: Query) -> list[str]:
    """The names of all rows, page by page."""
    ids: list[str] = []
    while True:
        page = history.search(query)
        ids += [job.id for job in page.rows]
        assert page.total is not None and page.total >= len(ids)
        if not page.next:
            return ids
        query = replace(query, after=page.next)


def age(engine: Engine, id: str, days: float, column: str = "created_at") -> None:
    """Make a row as old as this."""
    with writing(engine) as connection:
        at = datetime.now(timezone.utc) - days * DAY
        connection.execute(update(schema.JOBS).where(schema.JOBS.c.id == id).values({column: at}))


def recording(kept: Folders, id: str, size: int = 1000) -> str:
    """A recording on the disk; its path as a row has it."""
    path = kept.audio / id[-2:] / f"{id}.wav"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x" * size)
    return path.relative_to(kept.audio).as_posix()


def test_pages(history: History, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [new(jobs).id for _ in range(7)]
    assert found(history, Query(limit=3)) == ids[::-1]
    assert found(history, Query(limit=3, order="oldest")) == ids
    assert found(history, Query(limit=7)) == ids[::-1] and history.search(Query(limit=7)).next == ""
    assert [job.id for job in history.every(Query(limit=1), at_once=2)] == ids[::-1]
    monkeypatch.setattr("zhiyin.serve.history._FOUND_AT_ONCE", 3)
    assert [job.id for job in history.every(Query(), at_once=2)] == ids[::-1]
    assert [job.id for job in history.every(Query(after=ids[3], order="oldest"), at_once=3)] == ids[4:]
    assert history.search(Query(limit=3)).total == 7


def test_a_page_after_a_row_that_was_purged(history: History, jobs: Jobs, engine: Engine) -> None:
    ids = [new(jobs).id for _ in range(5)]
    with writing(engine) as connection:
        connection.execute(schema.JOBS.delete().where(schema.JOBS.c.id == ids[2]))
    assert found(history, Query(after=ids[2])) == [ids[1], ids[0]]
    assert found(history, Query(after=ids[2], order="oldest")) == ids[3:]
    first, last = "0" * 32, "f" * 32
    assert found(history, Query(after=last)) == [ids[4], ids[3], ids[1], ids[0]]
    assert found(history, Query(after=first)) == found(history, Query(after=last, order="oldest")) == []


def test_rows_of_pages_are_brief_and_those_of_every_are_whole(history: History, jobs: Jobs) -> None:
    job = done(jobs)
    assert history.search(Query()).rows == (replace(job, segments=[], result={}),)
    assert list(history.every(Query())) == [job]


CHINESE = "会议 会 议 合同 预算 的 张三 龘 开会 。 한국 😀"
LATIN = "turn left meeting MEETING Straße ＡＢＣ ａｂｃ é e\u0301 ﬁn İ ß a ab OR AND NEAR"
MARKS = "12 3.5 1=1 %_ ' \\ -- * ^ : ( ) { } \u3000"
WORDS = [word for words in (CHINESE, LATIN, MARKS) for word in words.split(" ")]


def by_hand(query: str, texts: tuple[str | None, ...]) -> bool:
    """Whether all words of a query are in one of the texts; written otherwise than the search itself."""

    def plain(text: str) -> str:
        return unicodedata.normalize("NFKC", text).casefold()

    wanted = [" ".join(plain(word).split()) for word in query.split()]
    return all(any(word in " ".join(plain(text).split()) for text in texts if text) for word in wanted)


def test_search_finds_what_a_search_by_hand_finds(history: History, jobs: Jobs) -> None:
    draw = random.Random(3)

    def some(count: int) -> str:
        return draw.choice(["", " ", "\n"]).join(draw.choices(WORDS, k=count))

    rows = [done(jobs, some(draw.randrange(8)), file_name=some(2), found={"written": some(3)}) for _ in range(40)]
    rows[3] = history.edit(rows[3].id, None, "改过的 edited 会议") or rows[3]
    queries = [*WORDS, "会议 left", "turn left", "Turn Left", "改过", "EDITED", "meetingmeeting", "nothing at all"]
    queries += [some(2) for _ in range(40)]
    queries += [job.text[a : a + n] for job in rows for a, n in ((0, 2), (3, 5))]
    hits = 0
    for query in queries:
        texts = [(job.file_name, job.text, job.written, job.edited) for job in rows]
        expected = {job.id for job, one in zip(rows, texts, strict=True) if by_hand(query, one)}
        assert set(found(history, Query(text=query, limit=500))) == expected, query
        hits += len(expected)
    assert hits > 500


def test_words_in_quotes_stand_together(history: History, jobs: Jobs) -> None:
    first, second = done(jobs, "please turn  left now"), done(jobs, "left turn")
    assert found(history, Query(text="turn left")) == [second.id, first.id]
    assert found(history, Query(text='"Turn left"')) == [first.id]
    assert found(history, Query(text='"turn left" now')) == [first.id]
    assert found(history, Query(text='"turn left')) == []  # a quote that does not close is a character
    assert found(history, Query(text='""')) == [second.id, first.id]


def test_answers_and_translations_are_found_and_texts_do_not_run_together(history: History, jobs: Jobs) -> None:
    job = done(jobs, "甲", file_name="乙", found={"answer": "yes", "translation": "no", "written": "丙"})
    assert found(history, Query(text="yes")) == found(history, Query(text="no")) == [job.id]
    assert found(history, Query(text="乙甲")) == found(history, Query(text="甲丙")) == []


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_words_find_themselves_and_nothing_else(history: History, jobs: Jobs, text: str) -> None:
    job, other = done(jobs, f"x{text}y", file_name="a"), done(jobs, "zz", file_name="b")
    ids = found(history, Query(text=text.replace('"', "")))
    assert job.id in ids and (other.id not in ids or not text.strip())
    for name in ("language", "model", "device", "label", "batch", "user"):
        assert found(history, Query(**{name: text})) == ([] if text or name == "user" else [other.id, job.id])
    assert found(history, Query(tasks=(text,))) == []
    with reading(history._engine) as connection:
        assert connection.execute(select(func.count()).select_from(schema.JOBS)).scalar() == 2


FILTERS: dict[str, tuple[Query, Callable[[Job], bool]]] = {
    "user": (Query(user="wang"), lambda job: job.user == "wang"),
    "states": (Query(states=("done", "failed")), lambda job: job.state in ("done", "failed")),
    "modes": (Query(modes=("live", "chat")), lambda job: job.mode in ("live", "chat")),
    "tasks": (Query(tasks=("asr", "ser")), lambda job: {"asr", "ser"} <= set(job.tasks)),
    "task": (Query(tasks=("sr",)), lambda job: False),
    "language": (Query(language="zh"), lambda job: job.language in ("zh", "zh-TW")),
    "model": (Query(model="pocket"), lambda job: job.model == "pocket"),
    "device": (Query(device="cpu"), lambda job: job.device.startswith("cpu")),
    "label": (Query(label="happy"), lambda job: "happy" in job.labels.values()),
    "task of label": (Query(label="sgc=happy"), lambda job: job.labels.get("sgc") == "happy"),
    "part of a label": (Query(label="happ"), lambda job: False),
    "batch": (Query(batch="b"), lambda job: job.batch == "b"),
    "several": (
        Query(user="li", states=("done",), batch="b", text="甲"),
        lambda job: (job.user, job.state, job.batch) == ("li", "done", "b") and "甲" in job.text,
    ),
}


def test_filters_find_what_a_look_at_each_row_finds(history: History, jobs: Jobs) -> None:
    draw = random.Random(5)
    for _ in range(40):
        wish = Wish(language=draw.choice(["zh", "zh-TW", "zhx", "en", ""]), tasks=("asr",))
        who = {"user": draw.choice(["li", "wang"]), "batch": draw.choice(["", "b", "bb"])}
        job = new(jobs, mode=draw.choice(["live", "chat", "api"]), wish=wish, **who)
        end = draw.randrange(4)
        if end == 1:
            jobs.fail(job.id, "x")
        elif end > 1:
            jobs.claim(job.id)
            labels = {draw.choice(["ser", "sgc"]): draw.choice(["happy", "unhappy", 'a "happy" one'])}
            tasks = draw.choice([("asr",), ("ser",), ("asr", "ser")])
            others = {"model": draw.choice(["pocket", "Pocket"]), "device": draw.choice(["cpu (auto)", "CPU", "gpu"])}
            jobs.finish(job.id, result(draw.choice("甲乙"), labels=labels, tasks=tasks, **others), "")
    rows = list(history.every(Query()))
    assert len(rows) == 40
    for name, (query, is_it) in FILTERS.items():
        expected = [job.id for job in rows if is_it(job)]
        assert found(history, replace(query, limit=9)) == expected, name
        assert expected or name in ("task", "part of a label")


def test_times(history: History, jobs: Jobs) -> None:
    first = new(jobs)
    time.sleep(0.01)
    second = new(jobs)
    china = second.created_at.astimezone(timezone(timedelta(hours=8)))
    assert found(history, Query(since=china)) == [second.id] and found(history, Query(until=china)) == [first.id]
    assert found(history, Query(since=china, until=china)) == []


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (Query(limit=0), "limit 0; give 1 to 500"),
        (Query(limit=501), "limit 501"),
        (Query(after="x"), "after 'x' is no job"),
        (Query(states=("gone",)), "state 'gone' is not known; known: queued"),
        (Query(modes=("fax",)), "mode 'fax' is not known"),
        (Query(order="best"), "order 'best' is not known"),  # type: ignore[arg-type]
        (Query(since=datetime(2026, 1, 1)), "since has no zone"),
        (Query(text="x" * 201), "201 characters; give at most 200"),
    ],
)
def test_queries_that_make_no_sense(history: History, query: Query, message: str) -> None:
    with pytest.raises(UserError, match=message):
        history.search(query)
    with pytest.raises(UserError, match=message):
        list(history.every(query))


def test_an_edit_is_kept_beside_the_original(history: History, jobs: Jobs) -> None:
    job, running = done(jobs, "旧的文字"), new(jobs)
    edited = history.edit(job.id, "li", "新的 text <b>")
    assert edited is not None and (edited.text, edited.edited) == ("旧的文字", "新的 text <b>")
    assert edited.edited_at is not None and edited.result == job.result
    assert found(history, Query(text="新的")) == found(history, Query(text="旧的")) == [job.id]
    assert history.edit(job.id, "li", "又一次") and found(history, Query(text="新的")) == []
    back = history.edit(job.id, "li", None)
    assert back == job and found(history, Query(text="又一")) == [] and found(history, Query(text="旧的文")) == [job.id]
    assert history.edit(job.id, "wang", "x") is None and history.edit(running.id, "li", "x") is None
    assert history.edit("x", None, "x") is None
    assert (empty := history.edit(job.id, None, "")) and empty.edited == ""


def test_deletion_can_be_undone(history: History, jobs: Jobs) -> None:
    job, other, running = done(jobs), done(jobs, user="wang"), new(jobs)
    assert history.delete([job.id, other.id, running.id, "x"], "li") == 1
    assert found(history, Query()) == [running.id, other.id] and found(history, Query(deleted=True)) == [job.id]
    assert found(history, Query(deleted=True, text="会议")) == [job.id]
    kept = jobs.get(job.id, "li")
    assert kept is not None and kept.deleted_at is not None and replace(kept, deleted_at=None) == job
    assert history.delete([job.id], None) == 0 and (again := jobs.get(job.id, None)) and again == kept
    assert history.undo([job.id], "wang") == 0 and history.undo([job.id], "li") == 1
    assert jobs.get(job.id, None) == job and found(history, Query(deleted=True)) == []
    assert history.undo([job.id], None) == 0 and history.delete([], None) == 0


def test_many_are_deleted_at_once(history: History, jobs: Jobs) -> None:
    id = done(jobs).id
    assert history.delete([*(new_id() for _ in range(1500)), id], None) == 1


def test_stats(history: History, jobs: Jobs) -> None:
    job = done(jobs, audio="aa/a.wav")
    done(jobs, user="wang")
    new(jobs, audio="bb/b.wav", bytes=7)
    history.delete([job.id], None)
    stats = history.stats(None)
    assert (stats.rows, stats.deleted, stats.audio_s, stats.audio_bytes) == (2, 1, 3.0, 17)
    assert stats.states == {"queued": 1, "running": 0, "done": 1, "failed": 0, "cancelled": 0}
    assert history.stats("nobody").rows == 0 and history.stats("wang").states["done"] == 1


def test_recordings(history: History, jobs: Jobs, kept: Folders) -> None:
    id = new_id()
    job = done(jobs, id=id, audio=recording(kept, id))
    path = history.recording(job)
    assert path is not None and path.read_bytes() == b"x" * 1000
    path.unlink()
    jobs.forget_audio(id)
    assert history.recording(job) is None
    assert (now := jobs.get(id, None)) and now.audio == "" and history.recording(now) is None and now.text
    (kept.data / "secret.wav").touch()
    for outside in ("../secret.wav", str(kept.data / "secret.wav"), "..", "", "a/b"):
        assert history.recording(replace(job, audio=outside)) is None


def _counts(engine: Engine) -> set[int]:
    with reading(engine) as connection:
        tables = (schema.JOBS, schema.JOB_TEXTS, schema.JOB_WORDS)
        return {int(connection.execute(select(func.count()).select_from(one)).scalar_one()) for one in tables}


def test_purge_removes_rows_and_recordings_by_age(history: History, jobs: Jobs, kept: Folders, engine: Engine) -> None:
    ids = [new_id() for _ in range(4)]
    for id in ids:
        done(jobs, f"独一无二 {id}", id=id, audio=recording(kept, id))
    for id, days in zip(ids, (40, 31, 29, 0), strict=True):
        age(engine, id, days)
    running = new(jobs)
    age(engine, running.id, 400)
    for dry_run in (True, True, False):
        purged = history.purge(30, dry_run)
        assert purged == Purged(2, 2, 2000, 0, dry_run)
        left = ids[2:] if not dry_run else ids
        assert found(history, Query(order="oldest")) == [*left, running.id]
        assert {path.stem for path in kept.audio.glob("*/*")} == set(left)
    assert found(history, Query(text=ids[0])) == [] and found(history, Query(text="独一")) == ids[:1:-1]
    assert _counts(engine) == {3} and _grams(engine) == 3
    assert history.purge(30) == Purged(0, 0, 0, 0, False)


def _grams(engine: Engine) -> int:
    """Rows in the index that have the piece "会", which all file names have."""
    with reading(engine) as connection:
        if engine.dialect.name == "sqlite":
            connection.execute(text("INSERT INTO job_grams (job_grams) VALUES ('integrity-check')"))
            match = text("SELECT count(*) FROM job_grams WHERE job_grams MATCH :gram")
            return int(connection.execute(match, {"gram": f"{ord('会'):x}"}).scalar_one())
        holds = schema.JOB_GRAMS.c.grams.contains([ord("会")])
        return int(connection.execute(select(func.count()).select_from(schema.JOB_GRAMS).where(holds)).scalar_one())


def test_purge_of_nothing(history: History, jobs: Jobs, engine: Engine) -> None:
    age(engine, done(jobs).id, 10_000)
    assert history.purge(0).rows == 0
    for ages in ({"older_than_days": -1.0}, {"older_than_days": 1.0, "deleted_days": -1.0}):
        with pytest.raises(UserError, match="an age is negative"):
            history.purge(**ages)


def test_what_was_deleted_is_purged_after_its_own_age(history: History, jobs: Jobs, engine: Engine) -> None:
    old, fresh, present = (done(jobs).id for _ in range(3))
    history.delete([old, fresh], None)
    age(engine, old, 31, "deleted_at")
    age(engine, present, 365)
    assert history.purge(0, True, deleted_days=30).rows == 1
    assert history.purge(0, deleted_days=30).rows == 1
    assert found(history, Query()) == [present] and found(history, Query(deleted=True)) == [fresh]


def test_purge_of_many(history: History, jobs: Jobs, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zhiyin.serve.history._AT_ONCE", 3)
    ids = [done(jobs).id for _ in range(8)]
    for id in ids[:7]:
        age(engine, id, 2)
    assert history.purge(1, True).rows == 7 and history.purge(1).rows == 7
    assert found(history, Query()) == [ids[7]]


def test_a_recording_that_is_gone_does_not_stop_a_purge(
    history: History, jobs: Jobs, kept: Folders, engine: Engine
) -> None:
    id = new_id()
    done(jobs, id=id, audio=recording(kept, id))
    (kept.audio / id[-2:] / f"{id}.wav").unlink()
    outside = done(jobs, audio="../../secret").id
    (kept.data.parent / "secret").touch()
    for one in (id, outside):
        age(engine, one, 2)
    assert history.purge(1) == Purged(2, 0, 0, 0, False)
    assert (kept.data.parent / "secret").exists()


def test_a_recording_that_cannot_be_removed_stops_a_purge(
    history: History, jobs: Jobs, kept: Folders, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = new_id()
    done(jobs, id=id, audio=recording(kept, id))
    age(engine, id, 2)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(UserError, match=r"cannot remove .*wav \(permission denied\)"):
            history.purge(1)
    assert found(history, Query()) == [id]
    assert history.purge(1) == Purged(1, 1, 1000, 0, False)


def test_a_purge_that_breaks_off_goes_on(history: History, jobs: Jobs, kept: Folders, engine: Engine) -> None:
    """Files go first: a stop before the rows go leaves rows that say that their file is gone."""
    id = new_id()
    job = done(jobs, id=id, audio=recording(kept, id))
    age(engine, id, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zhiyin.serve.history._remove_rows", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            history.purge(1)
    assert history.recording(job) is None and found(history, Query(text="今天")) == [id]
    assert history.purge(1).rows == 1 and found(history, Query()) == []


def test_recordings_without_a_row_are_removed_in_time(history: History, jobs: Jobs, kept: Folders) -> None:
    used, young, orphan = new_id(), new_id(), new_id()
    done(jobs, id=used, audio=recording(kept, used))
    for id in (used, young, orphan):
        path = kept.audio / recording(kept, id)
        os.utime(path, (0, 0) if id != young else None)
    (kept.audio / "aa").mkdir(exist_ok=True)
    (kept.audio / "aa" / "notes.txt").touch()
    os.utime(kept.audio / "aa" / "notes.txt", (0, 0))
    assert history.purge(0, True) == Purged(0, 0, 1000, 1, True)
    assert history.purge(0) == Purged(0, 0, 1000, 1, False)
    assert {path.stem for path in kept.audio.glob("*/*")} == {used, young, "notes"}


def test_chosen_rows(history: History, jobs: Jobs) -> None:
    first, second = done(jobs), done(jobs, user="wang")
    assert list(history.pick([second.id, "x", first.id], None)) == [second, first]
    assert list(history.pick([second.id, first.id], "li")) == [first]


def test_pieces_say_what_they_must() -> None:
    pieces = [
        "今",
        "天",
        "a",
        "b",
        "今天",
        "天a",
        "ab",
        "今天a",
        "天ab",
        "\U0010ffff",
        "\U0010ffff" * 2,
        "\U0010ffff" * 3,
    ]
    numbers = [search.needed(piece) for piece in pieces]
    assert len(set(numbers)) == len(pieces) and all(len(one) == 1 and max(one) < 2**63 for one in numbers)
    assert search.grams("今天ab") == frozenset().union(*numbers[:9])
    assert search.needed("今天开会") == search.needed("今天开") | search.needed("天开会")
    for term in ("a", "ab", "abc", "abcd", "今天开会了"):
        assert search.needed(term) <= search.grams(f"x{term}y")


@pytest.fixture(autouse=True)
def _nothing_half(engine: Engine) -> Iterator[None]:
    """After every test each job has its texts and its words."""
    yield
    assert len(_counts(engine)) == 1
