"""A live session with a detector and a model that follow a script: what was said comes out, in bounded memory."""

import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fake_model import fake_model
from zhiyin.ask import Options
from zhiyin.audio.features import SAMPLE_RATE_HZ
from zhiyin.audio.vad import Span
from zhiyin.errors import UserError
from zhiyin.live import session as sessions
from zhiyin.live.events import Event, Final, Partial, SpeechEnded, SpeechStarted, to_dict
from zhiyin.live.session import LiveSession, Settings
from zhiyin.live.work import Work
from zhiyin.result import Segment, Word
from zhiyin.tasks.parse import join_words

HANGOVER_S = 0.24
NAMES = ("five", "two", "nine", "five five")


@dataclass(frozen=True)
class Script:
    """What is said in a stream: utterances of words with times."""

    utterances: tuple[tuple[Word, ...], ...]

    @property
    def words(self) -> list[Word]:
        return [word for utterance in self.utterances for word in utterance]

    @property
    def end_s(self) -> float:
        return self.words[-1].end_s + 1.0


def script(gaps_s: Sequence[float], names: Sequence[str], word_s: float = 0.3) -> Script:
    """Words of `word_s`, before each a gap; one longer than 0.3 s begins an utterance."""
    utterances: list[list[Word]] = []
    now_s = 0.3
    for gap_s, name in zip(gaps_s, names, strict=True):
        now_s += gap_s
        if gap_s > 0.3 or not utterances:
            utterances.append([])
        utterances[-1].append(Word(name.replace(" ", "-"), now_s, now_s + word_s, "ctc"))
        now_s += word_s
    return Script(tuple(map(tuple, utterances)))


def shifted(script: Script, by_s: float) -> Script:
    """The same, later."""
    return Script(
        tuple(
            tuple(Word(word.text, word.start_s + by_s, word.end_s + by_s, "ctc") for word in utterance)
            for utterance in script.utterances
        )
    )


class ScriptedDetector:
    """Finds the utterances of a script, when a real detector could know of them; strict about its use."""

    script: Script

    def __init__(self, thresholds: object) -> None:
        self.now_s, self.told = 0.0, 0

    def push(self, samples_T: np.ndarray) -> list[Span]:
        assert 0 < len(samples_T) <= 1600
        self.now_s += len(samples_T) / SAMPLE_RATE_HZ
        return self._ended(self.now_s - HANGOVER_S)

    def finish(self) -> list[Span]:
        spans = self._ended(self.now_s)
        open_span = self.open
        return spans + ([open_span] if open_span else [])

    @property
    def open(self) -> Span | None:
        for utterance in self.script.utterances[self.told :]:
            if utterance[0].start_s + 0.1 <= self.now_s:
                return Span(utterance[0].start_s, min(utterance[-1].end_s, self.now_s))
        return None

    @property
    def settled_s(self) -> float:
        following = [utterance[0].start_s for utterance in self.script.utterances[self.told :]]
        return min([self.now_s, *following])

    def _ended(self, before_s: float) -> list[Span]:
        found = []
        for utterance in self.script.utterances[self.told :]:
            if utterance[-1].end_s <= before_s:
                found.append(Span(utterance[0].start_s, utterance[-1].end_s))
        self.told += len(found)
        return found


class ScriptedModel:
    """Hears the script's words that lie whole in a window; of a word that is cut by its end, something else."""

    def __init__(self, script: Script, *, timed: bool = True, sure: Callable[[Work], float] | None = None) -> None:
        self.script, self.timed, self.sure = script, timed, sure
        self.works: list[Work] = []

    def __call__(self, works: Sequence[Work]) -> list[Segment]:
        self.works += works
        return [self._hear(work) for work in works]

    def _hear(self, work: Work) -> Segment:
        heard = []
        for word in self.script.words:
            if work.window.start_s <= (word.start_s + word.end_s) / 2 and word.end_s <= work.until_s:
                heard.append(word)
            elif word.start_s < work.until_s < word.end_s:
                heard.append(Word("mumble", word.start_s, work.until_s, "ctc"))
        text = join_words(word.text for word in heard)
        confidence = self.sure(work) if self.sure is not None else None
        words = tuple(heard) if self.timed else ()
        return Segment(work.window.start_s, work.until_s, text, words, confidence=confidence)


def run(
    script: Script,
    blocks: Sequence[int],
    *,
    timed: bool = True,
    sure: Callable[[Work], float] | None = None,
    **changes: float,
) -> tuple[list[Event], ScriptedModel]:
    """All events of a script that arrives in blocks of these sizes, again and again."""
    ScriptedDetector.script = script
    hear = ScriptedModel(script, timed=timed, sure=sure)
    made = fake_model("x", ctc=("x",) if timed else (), min_confidence=0.4)
    session = LiveSession(made.loaded, compute=hear, settings=Settings(hangover_s=HANGOVER_S, **changes))
    samples_T = np.zeros(round(script.end_s * SAMPLE_RATE_HZ), np.float32)
    events: list[Event] = []
    at = number = 0
    while at < len(samples_T):
        size = blocks[number % len(blocks)]
        events += session.push(samples_T[at : at + size])
        at, number = at + size, number + 1
    return [*events, *session.finish()], hear


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "Detector", ScriptedDetector)


def said(events: Sequence[Event]) -> list[str]:
    return [word for event in events if isinstance(event, Final) for word in event.segment.text.split()]


def check_order(events: Sequence[Event]) -> None:
    """Partials of a segment keep what was committed, and its final begins with it; speech starts before it ends."""
    committed, is_open = "", False
    for event in events:
        if isinstance(event, SpeechStarted):
            assert not is_open
            is_open = True
        elif isinstance(event, SpeechEnded):
            assert is_open
            is_open = False
        elif isinstance(event, Partial):
            assert event.committed.startswith(committed)
            committed = event.committed
        else:
            assert event.segment.text.startswith(committed)
            committed = ""
    assert not is_open


gaps = st.lists(st.sampled_from((0.02, 0.15, 0.4, 0.5, 0.9, 2.0)), min_size=1, max_size=25)
blocks = st.lists(st.sampled_from((1, 160, 1024, 1600, 5000, 40_000)), min_size=1, max_size=4).filter(
    lambda sizes: sum(sizes) > 2000
)


@settings(max_examples=60)
@given(gaps, blocks, st.sampled_from((0.2, 0.3, 0.7)), st.randoms(use_true_random=False))
def test_what_was_said_comes_out_once(gaps_s: list[float], sizes: list[int], step_s: float, random) -> None:
    wanted = script(gaps_s, [random.choice(NAMES) for _ in gaps_s])
    events, model = run(wanted, sizes, step_s=step_s, window_s=random.choice((2.0, 8.0)))
    assert said(events) == [word.text for word in wanted.words]
    check_order(events)
    finals = [event.segment for event in events if isinstance(event, Final)]
    words = [word for segment in finals for word in segment.words]
    assert [word.text for word in words] == [word.text for word in wanted.words]
    assert all(abs(a.start_s - b.start_s) < 1e-6 for a, b in zip(words, wanted.words, strict=True))
    assert all(a.end_s <= b.start_s + 1e-6 for a, b in pairwise(finals))
    assert max(len(work.window.samples_T) for work in model.works) <= 15 * SAMPLE_RATE_HZ


@settings(max_examples=40)
@given(gaps, blocks, st.randoms(use_true_random=False))
def test_without_word_times(gaps_s: list[float], sizes: list[int], random) -> None:
    wanted = script(gaps_s, [random.choice(NAMES) for _ in gaps_s])
    events, model = run(wanted, sizes, timed=False)
    assert said(events) == [word.text for word in wanted.words]
    check_order(events)
    assert all(not event.segment.words for event in events if isinstance(event, Final))
    assert all(work.asked.tasks[0].id == "asr" for work in model.works)


@pytest.mark.parametrize("timed", [True, False])
def test_speech_without_a_pause(timed: bool) -> None:
    """A minute without a pause: windows stay short, and nothing is lost where they are cut between words."""
    wanted = script([0.1] * 150, [f"w{i}" for i in range(150)])
    events, model = run(wanted, [1600], timed=timed)
    lengths_s = [len(work.window.samples_T) / SAMPLE_RATE_HZ for work in model.works]
    assert max(lengths_s) <= (8.0 + 0.3 + 0.1 if timed else 15.0) + 1e-6
    check_order(events)
    if timed:
        assert said(events) == [word.text for word in wanted.words]
    else:  # digital silence has no quiet place: a word may lie on the cut
        assert len(set(said(events)) & {word.text for word in wanted.words}) >= 140
    assert sum(isinstance(event, Final) for event in events) >= 4


def test_memory_of_a_long_stream() -> None:
    """After the first minute of a stream an hour more takes nothing."""
    ScriptedDetector.script = minute = script([0.15, 0.15, 0.5] * 25, ["one", "two", "three"] * 25)
    hear = ScriptedModel(minute)
    session = LiveSession(fake_model("x", ctc=("x",)).loaded, compute=hear, settings=Settings(hangover_s=HANGOVER_S))
    silence_T = np.zeros(round(minute.end_s * SAMPLE_RATE_HZ), np.float32)
    sizes = []
    tracemalloc.start()
    try:
        for _ in range(6):
            session.push(silence_T)
            session.finish()
            hear.works.clear()
            hear.script = shifted(minute, session.now_s)
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert len(session._audio) < 10 * SAMPLE_RATE_HZ
    assert max(sizes[2:]) - sizes[1] < 100_000


def test_buckets() -> None:
    """Windows are whole seconds long, filled with what was before, or with silence."""
    wanted = script([0.4, 0.1, 0.9, 0.1, 0.1], ["a", "b", "c", "d", "e"])
    events, model = run(wanted, [1600], bucket_s=1.0)
    assert said(events) == ["a", "b", "c", "d", "e"]
    assert {len(work.window.samples_T) % SAMPLE_RATE_HZ for work in model.works} == {0}


def test_many_sessions_share_the_computing() -> None:
    """What two sessions want can be computed together; the events are those of each one alone."""
    ScriptedDetector.script = wanted = script([0.2, 0.1, 0.6], ["one", "two", "three"])
    hear = ScriptedModel(wanted)
    model = fake_model("x", ctc=("x",)).loaded
    pair = [LiveSession(model, settings=Settings(hangover_s=HANGOVER_S)) for _ in range(2)]
    events: list[list[Event]] = [[], []]
    silence_T = np.zeros(1600, np.float32)
    for _ in range(round(wanted.end_s * 10)):
        for session, own in zip(pair, events, strict=True):
            own += session.feed(silence_T)
        while works := [(i, work) for i, session in enumerate(pair) if (work := session.due())]:
            assert pair[works[0][0]].due() is None  # one at a time
            for (i, work), heard in zip(works, hear([work for _, work in works]), strict=True):
                events[i] += pair[i].take(work, heard)
    alone, _ = run(wanted, [1600])
    assert events[0] == events[1] == alone[: len(events[0])] and said(events[0]) == ["one", "two", "three"]
    with pytest.raises(ValueError):
        pair[0].take(works[0][1] if works else Work(None, None, None, 0.0, True), Segment(0, 0))  # type: ignore[arg-type]


@settings(max_examples=40)
@given(gaps, blocks, st.randoms(use_true_random=False))
def test_what_is_not_sure_waits_and_nothing_is_lost(gaps_s: list[float], sizes: list[int], random) -> None:
    wanted = script(gaps_s, [random.choice(NAMES) for _ in gaps_s])
    events, _ = run(wanted, sizes, sure=lambda work: random.choice((0.3, 0.9)))
    assert said(events) == [word.text for word in wanted.words]
    check_order(events)


def test_what_is_not_sure_goes_on_when_speech_does() -> None:
    """0.4 s of silence end a segment that is sure; one that is not waits for 0.6 s."""
    wanted = script([0.2, 0.4, 0.4, 0.8], ["one", "two", "three", "four"])

    def finals(sure: float) -> list[tuple[str, float]]:
        events, _ = run(wanted, [800], sure=lambda work: sure)
        assert sum(isinstance(event, SpeechStarted) for event in events) == len(
            [event for event in events if isinstance(event, SpeechEnded)]
        )
        return [
            (event.segment.text, round(event.stream_s - event.segment.end_s, 2))
            for event in events
            if isinstance(event, Final)
        ]

    assert [text for text, _ in finals(0.9)] == ["one", "two", "three", "four"]
    assert all(late_s < HANGOVER_S + 0.07 for _, late_s in finals(0.9))
    assert [text for text, _ in finals(0.5)] == ["one two three", "four"]
    assert all(0.6 <= late_s < 0.67 for _, late_s in finals(0.5))


def test_a_stall_ends_what_is_open_and_the_stream_goes_on() -> None:
    ScriptedDetector.script = wanted = script([0.2, 0.1], ["one", "two"])
    hear = ScriptedModel(wanted)
    session = LiveSession(fake_model("x", ctc=("x",)).loaded, compute=hear, settings=Settings(hangover_s=HANGOVER_S))
    until = round(wanted.words[-1].end_s * SAMPLE_RATE_HZ)
    session.push(np.zeros(until, np.float32))
    assert session.is_open
    events = session.finish()
    assert [type(event) for event in events] == [SpeechEnded, Final] and said(events) == ["one", "two"]
    assert not session.is_open and session.finish() == []
    hear.script = shifted(wanted, 100.0)
    assert said([*session.push(np.zeros(2 * SAMPLE_RATE_HZ, np.float32)), *session.finish()]) == []


def test_bad_samples_are_refused_and_the_session_lives() -> None:
    ScriptedDetector.script = wanted = script([0.2], ["one"])
    session = LiveSession(fake_model("x", ctc=("x",)).loaded, compute=ScriptedModel(wanted))
    session.push(np.zeros(1600, np.float32))
    for value in (np.nan, np.inf, 1e6):
        bad_T = np.zeros(20_000, np.float32)
        bad_T[17_600] = value
        with pytest.raises(UserError, match=r"at 1\.200 s.*finite"):
            session.push(bad_T)
    assert session.now_s == 0.1
    assert session.push(np.zeros(0, np.float32)) == []


def test_hotwords_and_written_form() -> None:
    """Words are put right before they are committed; figures come with the final."""
    ScriptedDetector.script = wanted = script([0.2, 0.1, 0.1, 0.1], ["nein", "one", "two", "three"])
    options = Options(hotwords=["nein => nine"], written=True)
    settings = Settings(hangover_s=HANGOVER_S)
    session = LiveSession(
        fake_model("x", ctc=("x",)).loaded, options=options, settings=settings, compute=ScriptedModel(wanted)
    )
    blocks = [np.zeros(1600, np.float32)] * round(wanted.end_s * 10)
    events = [event for block_T in blocks for event in session.push(block_T)]
    check_order(events)
    assert any(isinstance(event, Partial) and event.committed.startswith("nine") for event in events)
    segment = next(event.segment for event in events if isinstance(event, Final))
    assert (segment.text, segment.written) == ("nine one two three", "9123")
    assert [(one.heard, one.became, one.start, one.end) for one in segment.corrections] == [("nein", "nine", 0, 4)]


def test_what_a_stream_cannot_be_asked() -> None:
    model = fake_model("x", ctc=("x",)).loaded
    with pytest.raises(UserError, match="plain language"):
        LiveSession(model, options=Options(instruction="what is said?"))
    with pytest.raises(UserError, match="sap"):
        LiveSession(model, "sap")


def test_events_as_dictionaries() -> None:
    assert to_dict(Partial(0.1, "one", "two", 0.9)) == {
        "event": "partial",
        "start_s": 0.1,
        "committed": "one",
        "tail": "two",
        "stream_s": 0.9,
    }
    assert to_dict(Final(Segment(0, 1, "one"), 1.5))["segment"]["text"] == "one"
    kinds = [to_dict(event)["event"] for event in (SpeechStarted(0, 0.2), SpeechEnded(1, 1.2))]
    assert kinds == ["speech_started", "speech_ended"]
