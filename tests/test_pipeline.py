"""The main job with a model without weights: what reaches it, and what becomes of what it says."""

import dataclasses
import io
import math
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fake_model import ENDLESS, FakeBackend, fake_model
from zhiyin import Model, Segment, UserError, Word, hear, pipeline, segments, write
from zhiyin.audio import front_end
from zhiyin.audio.decode import Chunk
from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.audio.io import Recording, load
from zhiyin.audio.vad import Span
from zhiyin.audio.windows import Window
from zhiyin.tasks.parse import join_words
from zhiyin.text import guard


@pytest.fixture(scope="module")
def speech(repository: Path) -> Float32:
    """Two seconds: five spoken digits."""
    return load(repository / "samples" / "digits-1.flac")


def silence(seconds: float) -> Float32:
    return np.zeros(round(seconds * SAMPLE_RATE_HZ), np.float32)


def noise(seconds: float, level: float = 0.1) -> Float32:
    return (level * np.random.default_rng(0).standard_normal(round(seconds * SAMPLE_RATE_HZ))).astype(np.float32)


def backend(model: Model) -> FakeBackend:
    running = model.loaded.backend
    assert isinstance(running, FakeBackend)
    return running


@pytest.fixture
def cut_into(monkeypatch: pytest.MonkeyPatch):
    """Replace the search for speech by given windows: (start, end) or (start, end, overlap with the one before)."""

    def replace(*windows: tuple[float, ...]) -> None:
        def cut(blocks, *, limit_s: float, overlap_s: float, keep_nonspeech: bool, **_) -> Iterator[Window]:
            assert sum(map(len, blocks))
            for start_s, end_s, *overlap in windows:
                yield Window(start_s, noise(end_s - start_s), (Span(start_s, end_s),), *overlap)

        monkeypatch.setattr(pipeline, "cut", cut)

    return replace


def test_a_recording_becomes_a_result(speech: Float32) -> None:
    model = fake_model("four one<female>")
    padded = np.concatenate([silence(1.0), speech, silence(1.0)])
    result = model.understand(padded, ["sgc", "asr"])
    assert backend(model).prompts == ["<asr> <sgc>"]
    assert (result.text, result.labels, result.tasks) == ("four one", {"sgc": "female"}, ("asr", "sgc"))
    assert (result.source, result.model, result.backend, result.device) == ("<array>", "fake", "fake", "cpu (test)")
    assert result.duration_s == pytest.approx(len(padded) / SAMPLE_RATE_HZ, abs=1e-3)
    assert result.processing_s > 0
    (segment,) = result.segments
    assert 1.0 < segment.start_s < 1.4 and 2.5 < segment.end_s < 3.0
    assert (segment.text, segment.labels, segment.tasks) == ("four one", {"sgc": "female"}, ("asr", "sgc"))
    assert not result.notes and not result.unparsed and not segment.guards


@pytest.mark.parametrize("asked", [None, "asr", ["asr"], ("ASR",)])
def test_the_transcript_is_what_is_asked_by_default(asked, speech: Float32) -> None:
    assert fake_model("four").understand(speech, asked).tasks == ("asr",)


@pytest.mark.parametrize("windows_per_batch", [1, 3, 8])
def test_many_windows_come_out_complete_and_in_order(
    windows_per_batch: int, speech: Float32, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "WINDOWS_PER_BATCH", windows_per_batch)
    names = [f"w{i}" for i in range(11)]
    model = fake_model(names)
    heard: list[Segment] = []
    result = model.understand(np.concatenate([speech, silence(1.0)] * 11), on_segment=heard.append)
    assert result.text == " ".join(names)
    assert max(backend(model).batches) == windows_per_batch and sum(backend(model).batches) == 11
    assert tuple(heard) == result.segments
    times = [time for segment in result.segments for time in (segment.start_s, segment.end_s)]
    assert times == sorted(times)


def test_short_windows_share_speech_that_goes_on(speech: Float32) -> None:
    """A real cut inside speech: the words of both sides are joined and none is lost."""
    talk = np.tile(speech[4000:27000], 6)
    model = fake_model([f"w{i} x{i}" for i in range(40)], max_window_s=2.0)
    result = model.understand(talk)
    assert sum(backend(model).batches) > 4
    assert result.text == " ".join(f"w{i} x{i}" for i in range(sum(backend(model).batches)))


def test_chinese_is_joined_without_spaces(cut_into) -> None:
    cut_into((0, 1), (2, 3), (4, 5))
    assert fake_model(["打开", "北京", "wifi"]).understand(noise(6)).text == "打开北京wifi"


def test_the_label_with_most_speech_wins(cut_into) -> None:
    cut_into((0, 1), (2, 3), (4, 8))
    model = fake_model(["<male>", "<male>", "<female>"])
    result = model.understand(noise(10), ["sgc"])
    assert result.labels == {"sgc": "female"}
    assert [segment.labels["sgc"] for segment in result.segments] == ["male", "male", "female"]


def test_of_equal_labels_the_first_wins(cut_into) -> None:
    cut_into((0, 2), (3, 5))
    assert fake_model(["<female>", "<male>"]).understand(noise(6), "sgc").labels == {"sgc": "female"}


def test_a_label_outside_the_models_own_set_is_shown_and_not_guessed(speech: Float32) -> None:
    model = fake_model("four<cheerful>", labels={"ser": ("happy", "calm")})
    result = model.understand(speech, "asr,ser")
    assert (result.text, result.labels, result.unparsed) == ("four", {}, ("<cheerful>", "ser: no label"))
    assert result.notes == ("1 of 1 segments hold pieces of the model's reply that could not be read",)
    assert fake_model("<calm>", labels={"ser": ("happy", "calm")}).understand(speech, "ser").labels == {"ser": "calm"}


def test_answers_and_translations(cut_into) -> None:
    cut_into((0, 2), (3, 5))
    assert fake_model(["four", "nine"]).understand(noise(6), "sttc").answer == "four nine"
    both = fake_model(["one<translation>一", "two<translation>二"]).understand(noise(6), "asr,ast")
    assert (both.text, both.translation) == ("one two", "一二")


def test_word_times_are_those_of_the_recording(cut_into) -> None:
    cut_into((1.5, 3.0), (10.0, 12.0))
    model = fake_model(["<0.10>turn<0.40>left<0.75>", "<0.25>go<0.50>"])
    result = model.understand(noise(13), "srwt")
    first, second = result.segments
    assert first.words == (Word("turn", 1.6, 1.9, "model"), Word("left", 1.9, 2.25, "model"))
    assert second.words == (Word("go", 10.25, 10.5, "model"),)
    assert result.text == "turn left go"


def test_words_in_the_overlap_of_two_windows_come_once(cut_into) -> None:
    cut_into((0, 10), (9, 19, 1.0), (30, 31))
    model = fake_model(["a b c d e f g h i j k", "j k l m n o p q r s t", "u"])
    result = model.understand(noise(32))
    assert result.text == "a b c d e f g h i j k l m n o p q r s t u"
    assert join_words(segment.text for segment in result.segments) == result.text
    assert [segment.text[-1] for segment in result.segments][1:] == ["t", "u"]


def test_timed_words_in_the_overlap_come_once(cut_into) -> None:
    cut_into((0, 10), (9, 19, 1.0))
    model = fake_model(["<8.00>turn<8.40>left<9.30>at<9.60>", "<0.00>left<0.30>at<0.60>home<1.50>"])
    first, second = model.understand(noise(20), "srwt").segments
    assert [word.text for word in first.words] == ["turn", "left", "at"] and first.text == "turn left at"
    assert [word.text for word in second.words] == ["home"] and second.text == "home"
    times = [word.start_s for word in (*first.words, *second.words)]
    assert times == sorted(times)


_WORDS = st.lists(st.sampled_from(["a", "ab", "b", "好", "天", "c,"]), max_size=6).map(join_words)


@given(_WORDS, _WORDS, st.text("ab 好", max_size=4))
def test_dividing_a_merged_text_loses_nothing_and_breaks_no_word(left: str, right: str, heard: str) -> None:
    merged = join_words([left, right])
    parts = segments.split(merged, heard + right)
    assert join_words(parts) == merged


def test_a_loop_is_cut_and_said_so(speech: Float32) -> None:
    result = fake_model("go " + "left " * 30).understand(speech)
    assert result.text == "go left"
    assert result.segments[0].guards == ("repetition cut",)
    assert result.notes == ("a guard cut 1 of 1 segments; see their guards",)


def test_timed_loops_are_cut_with_their_times(speech: Float32) -> None:
    reply = "<0.00>" + "".join(f"left<{0.05 * (i + 1):.2f}>" for i in range(20))
    (segment,) = fake_model(reply).understand(speech, "srwt").segments
    assert [word.text for word in segment.words] == ["left"] and segment.text == "left"
    assert segment.guards == ("repetition cut",)


def test_more_words_than_speech_allows_are_cut(speech: Float32) -> None:
    (segment,) = fake_model(" ".join(f"w{i}" for i in range(200))).understand(speech).segments
    assert segment.guards == ("text denser than speech cut",)
    assert 10 < len(segment.text.split()) < 60


def test_a_reply_that_does_not_end_is_cut_and_said_so(speech: Float32) -> None:
    (segment,) = fake_model(f"four one {ENDLESS}", max_tokens=9).understand(speech).segments
    assert segment.text.startswith("four one one")
    assert segment.guards == ("reply cut at the token limit",)


@pytest.mark.parametrize("samples", [silence(3), noise(3, 1e-5), silence(0.05)])
def test_where_nobody_speaks_no_word_is_invented(samples: Float32) -> None:
    model = fake_model("hello")
    result = model.understand(samples, "asr,sgc")
    assert (result.text, result.labels, result.segments) == ("", {}, ())
    assert result.notes == ("no speech found",)
    assert not backend(model).batches  # the model was not even asked


def test_a_vocal_event_is_kept_though_it_is_no_speech() -> None:
    result = fake_model("hello<cough>").understand(noise(0.5), "asr,ved")
    assert (result.text, result.labels) == ("", {"ved": "cough"})
    assert result.segments[0].guards == ("text without speech cut",)
    assert fake_model("<cough>").understand(noise(0.5), "ved").notes == ()


def test_an_event_is_not_sought_in_silence() -> None:
    assert fake_model("<cough>").understand(silence(2), "ved").notes == ("no speech found",)


def test_a_request_in_plain_language(speech: Float32) -> None:
    asked = "who is speaking, a man or a woman?"
    model = fake_model("<asr><sgc>four one<female>", [asked])
    result = model.understand(speech, instruction=f" {asked}\n")
    assert backend(model).prompts == [asked]
    assert (result.tasks, result.text, result.labels) == (("asr", "sgc"), "four one", {"sgc": "female"})
    assert result.instruction == asked


def test_a_request_that_fits_no_task(speech: Float32) -> None:
    result = fake_model("<none>", ["order me a pizza"], tasks=("asr", "sgc")).understand(
        speech, instruction="order me a pizza"
    )
    assert (result.tasks, result.text, result.unparsed) == ((), "", ())
    assert result.notes == ("the request fits no task that the model knows; it can do: asr sgc",)


def test_a_reply_without_tags_to_a_plain_request_is_unparsed(speech: Float32) -> None:
    result = fake_model("four one", ["write"]).understand(speech, instruction="write")
    assert result.text == "" and "four one" in result.unparsed


def test_a_plain_request_invents_no_words_for_noise() -> None:
    result = fake_model("<asr>hello", ["write"]).understand(noise(1), instruction="write")
    assert (result.text, result.notes[0]) == ("", "no speech found")


def test_a_transcript_from_the_ctc_head(speech: Float32) -> None:
    model = fake_model("<male>", ctc=["four one one"])
    assert model.understand(speech, tasks=["asr"]).text == "four one one"
    assert backend(model).prompts == [], "the decoder has nothing to add"
    result = model.understand(speech, tasks=["asr", "sgc"])
    assert (result.tasks, result.text, result.labels) == (("asr", "sgc"), "four one one", {"sgc": "male"})
    assert backend(model).prompts == ["<sgc>"]
    assert model.understand(speech, tasks=["sgc"]).text == ""


@pytest.mark.parametrize(("count", "alone"), [(0, False), (1, True)])
def test_labels_and_requests_are_asked_of_as_much_as_the_model_says(speech: Float32, count: int, alone: bool) -> None:
    said = {"<sgc>": "<male>", "<ser>": "<sad>", "<ast>": "hello", "who?": "<sgc>"}
    model = fake_model(
        lambda asked, number, seconds: said[asked],
        [*said, *said.values()],
        ctc=["four"],
        label_vectors=count,
        request_alone=alone,
    )
    result = model.understand(speech, tasks=["sgc", "ser", "ast"])
    assert (result.labels, result.translation) == ({"sgc": "male", "ser": "sad"}, "hello")
    seen = dict(zip(backend(model).prompts, backend(model).vector_counts, strict=True))
    assert seen["<ast>"] > 1 and {seen["<sgc>"], seen["<ser>"]} == {count or seen["<ast>"]}
    backend(model).vector_counts.clear()
    assert model.understand(speech, instruction="who?").labels == {"sgc": "male"}
    request, label = backend(model).vector_counts
    assert (request, label) == (0 if alone else seen["<ast>"], count or seen["<ast>"])


def test_a_request_is_asked_once_where_it_is_asked_alone(speech: Float32) -> None:
    spoken_T = np.concatenate([speech, np.zeros(3 * SAMPLE_RATE_HZ, np.float32)] * 3)
    for alone, times in ((False, 3), (True, 1)):
        said = {"who?": "<sgc>", "<sgc>": "<male>"}
        model = fake_model(
            lambda asked, number, seconds, said=said: said[asked],
            [*said, *said.values()],
            ctc=["four"],
            request_alone=alone,
        )
        result = model.understand(spoken_T, instruction="who?")
        assert [segment.labels for segment in result.segments] == [{"sgc": "male"}] * 3
        assert backend(model).prompts.count("who?") == times


def test_an_uncertain_transcript_is_cut_and_said_so(speech: Float32) -> None:
    model = fake_model("<male>", ctc=["four one one"], min_confidence=0.9999999)
    result = model.understand(speech, tasks=["asr", "sgc"])
    assert (result.text, result.labels) == ("", {"sgc": "male"})
    assert result.segments[0].guards == ("uncertain text cut",)


def test_a_plain_request_to_a_model_with_a_ctc_transcript(speech: Float32) -> None:
    replies = {"who speaks?": "<asr><sgc>one one one<female>", "<sgc>": "<male>"}
    model = fake_model(lambda asked, number, seconds: replies[asked], [*replies, *replies.values()], ctc=["four one"])
    result = model.understand(speech, instruction="who speaks?")
    assert backend(model).prompts == ["who speaks?", "<sgc>"]
    assert (result.tasks, result.text, result.labels) == (("asr", "sgc"), "four one", {"sgc": "male"})
    pizza = fake_model("<none>", ["pizza"], ctc=["four one"]).understand(speech, instruction="pizza")
    assert (pizza.tasks, pizza.text) == ((), "")
    assert "fits no task" in pizza.notes[0]


@pytest.fixture
def timed_model(monkeypatch: pytest.MonkeyPatch):
    """A CTC head with a frame every 40 ms over two windows of 2 s; in each two words sound, after 0.2 and 0.9 s.

    The head says the words in one frame each, the first before it sounds; `frames` is what it counts.
    """

    def make(said: str = "<sgc><male>", frames: int = 50, **options) -> Model:
        samples_T = np.zeros(2 * SAMPLE_RATE_HZ, np.float32)
        for start_s, end_s in ((0.2, 0.7), (0.9, 1.5)):
            at = slice(round(start_s * SAMPLE_RATE_HZ), round(end_s * SAMPLE_RATE_HZ))
            samples_T[at] = noise(end_s - start_s)
        windows = [Window(at_s, samples_T, (Span(at_s + 0.15, at_s + 1.6),)) for at_s in (1.5, 10.0)]
        monkeypatch.setattr(pipeline, "cut", lambda blocks, **_: iter(windows if sum(map(len, blocks)) else ()))
        texts = ["turn left", "go home"]
        model = fake_model(said, ["who"], ctc=texts, **options)
        running = backend(model)
        running.spec = dataclasses.replace(running.spec, time_step_s=0.04)

        def ctc(window: int) -> Float32:
            logits_TV = np.zeros((frames, running.words.get_vocab_size()), np.float32)
            logits_TV[:, 0] = 9.0
            for frame, word in zip((1, 26), texts[window % 2].split(), strict=True):
                logits_TV[frame, running.words.token_to_id(word)] = 20.0
            return logits_TV

        monkeypatch.setattr(running, "_ctc", ctc)
        return model

    return make


def test_word_times_from_the_ctc_head(timed_model) -> None:
    model = timed_model()
    result = model.understand(noise(13), "srwt")
    first, second = result.segments
    words = [(word.text, word.start_s, word.end_s, word.source) for word in (*first.words, *second.words)]
    assert words == [
        ("turn", pytest.approx(1.7, abs=0.011), pytest.approx(2.2, abs=0.011), "ctc"),
        ("left", pytest.approx(2.4, abs=0.011), pytest.approx(3.0, abs=0.011), "ctc"),
        ("go", pytest.approx(10.2, abs=0.011), pytest.approx(10.7, abs=0.011), "ctc"),
        ("home", pytest.approx(10.9, abs=0.011), pytest.approx(11.5, abs=0.011), "ctc"),
    ]
    assert (result.text, result.tasks, backend(model).prompts) == ("turn left go home", ("srwt",), [])


def test_word_times_beside_other_tasks(timed_model) -> None:
    model = timed_model("<male>")
    result = model.understand(noise(13), "asr,srwt,sgc")
    assert backend(model).prompts == ["<sgc>", "<sgc>"]
    assert (result.text, result.labels) == ("turn left go home", {"sgc": "male"})
    assert all(segment.words for segment in result.segments)


def test_no_times_are_invented_where_only_words_were_asked(timed_model) -> None:
    result = timed_model().understand(noise(13), "asr")
    assert result.text == "turn left go home" and not any(segment.words for segment in result.segments)
    clocks = [line for line in write.srt(result).split("\n") if "-->" in line]
    assert clocks == ["00:00:01,650 --> 00:00:03,100", "00:00:10,150 --> 00:00:11,600"]  # those of the speech detector


def test_cues_of_words_with_times(timed_model) -> None:
    result = timed_model().understand(noise(13), "srwt")
    clocks = [line for line in write.srt(result).split("\n") if "-->" in line]
    spoken = [(segment.words[0].start_s, segment.words[-1].end_s) for segment in result.segments]
    assert clocks == [f"00:00:{a:06.3f} --> 00:00:{b:06.3f}".replace(".", ",") for a, b in spoken]


def test_uncertain_words_have_no_times(timed_model) -> None:
    model = timed_model(min_confidence=0.999)
    assert model.understand(noise(13), "srwt").segments[0].words
    model = timed_model(min_confidence=0.9999999)
    segment = model.understand(noise(13), "srwt").segments[0]
    assert (segment.text, segment.words, segment.guards) == ("", (), ("uncertain text cut",))


def test_word_times_for_a_request_in_plain_language(timed_model) -> None:
    result = timed_model("<srwt><0.00>one", can_follow_instructions=True).understand(noise(13), instruction="who")
    assert [word.source for segment in result.segments for word in segment.words] == ["ctc"] * 4
    assert result.tasks == ("srwt",)


def test_a_ctc_head_of_another_rate_is_refused(timed_model) -> None:
    message = "CTC head of model 'fake' has 60 frames for 2.00 s, which is no frame every 0.04 s, .* export it again"
    with pytest.raises(UserError, match=message):
        timed_model(frames=60).understand(noise(13), "srwt")


def test_word_times_are_refused_where_the_model_does_not_offer_them(timed_model) -> None:
    with pytest.raises(UserError, match="model 'fake' cannot do srwt; it can do: asr"):
        timed_model(tasks=("asr", "sgc")).understand(noise(13), "srwt")


def test_requests_understood_differently_are_pointed_out(cut_into) -> None:
    cut_into((0, 2), (3, 5))
    result = fake_model(["<asr>four", "<sgc><male>"], ["say"]).understand(noise(6), instruction="say")
    assert result.tasks == ("asr", "sgc")
    assert len(result.notes) == 1 and "understood differently" in result.notes[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": "asrr"}, r"task 'asrr' is not known; known: asr .*did you mean 'asr'"),
        ({"tasks": []}, "no task was given"),
        ({"tasks": "sttc,ast"}, "tasks sttc and ast cannot be asked together"),
        ({"tasks": "asr,sap"}, "model 'fake' cannot do sap; it can do: asr srwt ved ser sgc sttc ast"),
        ({"tasks": "asr", "instruction": "write"}, "together"),
        ({"instruction": "  "}, "the instruction is empty"),
        ({"language": "fr"}, "does not know language 'fr'; languages: en zh"),
    ],
)
def test_what_cannot_be_served_is_refused_at_the_call(arguments, message: str) -> None:
    model = fake_model("four")
    with pytest.raises(UserError, match=message):
        model.understand("never-opened.wav", **arguments)
    with pytest.raises(UserError, match=message):
        model.segments("never-opened.wav", **arguments)


def test_a_model_without_plain_language_refuses_it(speech: Float32) -> None:
    model = fake_model("four", can_follow_instructions=False)
    with pytest.raises(UserError, match="takes no plain language; ask for tasks: asr"):
        model.understand(speech, instruction="write")


def test_a_family_whose_prompts_we_do_not_know_is_refused(speech: Float32) -> None:
    with pytest.raises(
        UserError,
        match="model 'fake': models of family 'other' cannot be asked; this version speaks: zhiyin fun-asr-nano",
    ):
        fake_model("four", family="other").understand(speech)


def test_a_language_that_was_only_checked_is_said_so(speech: Float32) -> None:
    assert fake_model("four").understand(speech, language="en").notes == (
        "language 'en' was only checked: model 'fake' hears the language by itself",
    )


def test_no_samples_are_no_recording() -> None:
    with pytest.raises(UserError, match="<array>: it holds no audio samples"):
        fake_model("four").understand(silence(0))


def test_every_kind_of_source(speech: Float32, repository: Path) -> None:
    path = repository / "samples" / "digits-1.flac"
    model = fake_model("four")
    data = path.read_bytes()
    for source, name in ((path, str(path)), (data, "<bytes>"), (io.BytesIO(data), "<stream>"), (speech, "<array>")):
        result = model.understand(source)
        assert (result.source, result.text) == (name, "four")
    assert model.understand(np.repeat(speech, 3), sample_rate_hz=48_000).text == "four"


def test_every_guard_is_documented(repository: Path) -> None:
    document = (repository / "docs" / "result.md").read_text(encoding="utf-8")
    names = (guard.REPETITION, guard.DENSITY, hear.UNFINISHED, segments.NOT_SPEECH)
    assert [name for name in names if f"`{name}`" not in document] == []


def lazy(seconds: float, counter: list[int]) -> Recording:
    """Audio made while it is read, a second at a time."""

    def chunks(notes: list[str]) -> Iterator[Chunk]:
        second = noise(1.0)[:, None]
        for _ in range(math.ceil(seconds)):
            counter[0] += 1
            yield Chunk(second, SAMPLE_RATE_HZ)

    return Recording("<lazy>", chunks, max_s=1e9)


def cut_blindly(
    blocks: Iterator[Float32], *, limit_s: float, overlap_s: float, keep_nonspeech: bool, **_
) -> Iterator[Window]:
    """Every block is a window."""
    start_s = 0.0
    for block_T in blocks:
        window = Window(start_s, block_T[: round(limit_s * SAMPLE_RATE_HZ)], (Span(start_s, start_s + limit_s),))
        start_s += len(block_T) / SAMPLE_RATE_HZ
        yield window


def test_segments_come_before_the_recording_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    read = [0]
    monkeypatch.setattr(pipeline, "open_recording", lambda source, **options: lazy(7200, read))
    monkeypatch.setattr(pipeline, "cut", cut_blindly)
    stream = fake_model(["w0", "w1"]).segments("endless")
    assert read == [0]
    assert next(stream).text == "w0"
    assert read[0] < 300  # eight windows of 30 s blocks


@pytest.mark.slow
def test_two_hours_take_no_more_memory_than_ten_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "cut", cut_blindly)
    empty = front_end.FrontEnd("whisper", 100, lambda samples_T, num_mels: np.zeros((num_mels, len(samples_T) // 160)))
    monkeypatch.setitem(front_end.FRONT_ENDS, "whisper", empty)
    peaks = []
    for seconds in (600, 7200):
        monkeypatch.setattr(pipeline, "open_recording", lambda source, s=seconds, **options: lazy(s, [0]))
        model = fake_model(lambda asked, number, window_s: f"w{number % 100}", [f"w{i}" for i in range(100)])
        tracemalloc.start()
        count = 0
        for segment in model.segments("endless"):
            assert segment.text == f"w{count % 100}" and segment.start_s == 30 * count
            count += 1
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count == seconds / 30
    assert peaks[1] < peaks[0] + 2**20
