"""Answers and translations of a model whose transcript comes from a CTC head: the decoder is told what was said."""

import numpy as np
import pytest

from tests.fake_model import fake_model
from tests.test_cli import speech
from tests.test_pipeline import backend, cut_into, noise
from zhiyin import Model
from zhiyin.hear import UNCERTAIN

__all__ = ["cut_into", "speech"]  # fixtures
HEARD = "two plus two"


def model_of(replies: dict[tuple[str, str], str], ctc: list[str], **options) -> Model:
    """A model that answers by what it is asked and what it is told after the speech."""
    said = [word for (asked, told), reply in replies.items() for word in (asked, told, reply)]
    made: list[Model] = []

    def say(asked: str, number: int, seconds: float) -> str:
        return replies[asked, backend(made[0]).told[-1]]

    made.append(fake_model(say, ["<answer>", "<translation>", "<none>", *said], ctc=ctc, **options))
    return made[0]


def test_an_answer_is_made_of_the_transcript(speech: np.ndarray) -> None:
    model = model_of({("<sttc>", f"{HEARD} <answer>"): "four"}, [HEARD])
    result = model.understand(speech, "sttc")
    assert (result.tasks, result.text, result.answer) == (("sttc",), "", "four")
    result = model.understand(speech, "asr,sttc")
    assert (result.text, result.answer, result.unparsed) == (HEARD, "four", ())
    assert backend(model).prompts == ["<sttc>", "<sttc>"], "the transcript itself is not asked of the decoder"


def test_labels_are_asked_by_themselves(speech: np.ndarray) -> None:
    model = model_of({("<ast>", f"{HEARD} <translation>"): "zwei", ("<sgc>", ""): "<male>"}, [HEARD])
    result = model.understand(speech, "asr,sgc,ast")
    assert (result.tasks, result.text) == (("asr", "sgc", "ast"), HEARD)
    assert (result.labels, result.translation, result.unparsed) == ({"sgc": "male"}, "zwei", ())


@pytest.mark.parametrize(("tags", "text"), [("<ast>", ""), ("<asr> <ast>", HEARD)])
def test_a_request_names_the_language_in_the_second_pass_too(speech: np.ndarray, tags: str, text: str) -> None:
    request = "say it in german"
    replies = {(request, ""): tags, (request, f"<ast> {HEARD} <translation>"): "zwei"}
    model = model_of(replies, [HEARD])
    result = model.understand(speech, instruction=request)
    assert (result.text, result.translation, result.unparsed) == (text, "zwei", ())
    assert backend(model).prompts == [request, request]


def test_the_first_pass_stops_behind_the_tags(speech: np.ndarray) -> None:
    """A whole answer in it would be made twice; the last tag of all tasks is the last token that counts."""
    replies = {("count", ""): "<sttc> one ...", ("count", f"<sttc> {HEARD} <answer>"): "four"}
    model = model_of(replies, [HEARD], tasks=("asr", "sttc"), max_tokens=4000)
    session = backend(model).start
    steps: list[int] = []
    backend(model).start = lambda batch: _counted(session(batch), steps)  # type: ignore[method-assign]
    result = model.understand(speech, instruction="count")
    assert (result.answer, result.segments[0].guards) == ("four", ())
    assert len(steps) <= 9 + 2, "of the first pass at most one step for each tag there is"


def _counted(session, steps: list[int]):
    extend = session.extend
    session.extend = lambda embeds: steps.append(1) or extend(embeds)
    return session


def test_each_window_gets_the_passes_it_needs(cut_into) -> None:
    cut_into((0, 4), (5, 9), (10, 14))
    heard = ["two plus two", "one plus one"]
    replies = {
        ("<sttc>", "two plus two <answer>"): "four",
        ("<sttc>", "one plus one <answer>"): "two",
        ("<sgc>", ""): "<male>",
    }
    model = model_of(replies, [heard[0], "", heard[1]])
    result = model.understand(noise(15), "sgc,sttc")
    assert [(one.answer, one.labels["sgc"]) for one in result.segments] == [
        ("four", "male"), ("", "male"), ("two", "male")]  # fmt: skip
    assert [UNCERTAIN in one.guards for one in result.segments] == [False, True, False]


def test_of_a_doubtful_transcript_nothing_is_answered(speech: np.ndarray) -> None:
    model = model_of({("<sttc>", ""): "four"}, [HEARD], min_confidence=0.9999999)
    for tasks in ("sttc", "asr,sttc"):
        result = model.understand(speech, tasks)
        assert (result.text, result.answer, result.segments[0].guards) == ("", "", (UNCERTAIN,))
    assert backend(model).prompts == []


def test_other_models_answer_from_the_audio(speech: np.ndarray) -> None:
    model = fake_model("four", ["<sttc>"])
    assert model.understand(speech, "sttc").answer == "four"
    assert backend(model).told == [""]
