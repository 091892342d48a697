"""The main job with models of other families, without weights: what reaches them, what becomes of what they say."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tests.fake_model import FakeBackend, Say, fake_model
from tests.test_pipeline import cut_into, noise
from zhiyin import Model, Turn, UserError, Word, ask, hear
from zhiyin.ask import Options
from zhiyin.runtime.generate import Prompt
from zhiyin.tasks import families

__all__ = ["cut_into"]  # a fixture


def model_of(family: str, say: str | Sequence[str] | Say, words: Sequence[str] = (), **spec) -> Model:
    """A model of a family that says what it is told to; `words` are those of its prompts and functions."""
    made = fake_model(say, words, family=family, tasks=families.find(family).tasks)
    running = backend(made)
    running.spec = replace(running.spec, languages=(), **spec)
    return made


def backend(model: Model) -> FakeBackend:
    running = model.loaded.backend
    assert isinstance(running, FakeBackend)
    return running


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Prompt], dict]]:
    """Every call of `decode`: its prompts and its settings."""
    calls: list[tuple[list[Prompt], dict]] = []
    real = hear.decode

    def decode(running, prompts, **settings):
        calls.append((list(prompts), settings))
        return real(running, prompts, **settings)

    monkeypatch.setattr(hear, "decode", decode)
    return calls


def test_a_translation(cut_into, asked) -> None:
    cut_into((0, 2), (3, 5))
    told = families.find("granite-speech").told(ask.request(options=Options(into="de")))
    model = model_of("granite-speech", ["links ab", "sofort"], [*told.before, *told.after])
    result = model.understand(noise(6), into="de", language="en")
    assert (result.tasks, result.translation, result.text) == (("ast",), "links ab sofort", "")
    assert (result.into, result.family, result.precision, result.template) == (
        "de",
        "granite-speech",
        "float32",
        "granite-4",
    )
    assert result.notes == ("language 'en' was only checked: model 'fake' hears the language by itself",)
    prompts, settings = asked[0]
    encode = model.loaded.tokenizer.encode
    for prompt in prompts:
        assert prompt.before_ids == encode("USER: ", add_special_tokens=False).ids
        assert prompt.after_ids == encode(told.after[0], add_special_tokens=False).ids
    assert settings == {"max_new_tokens": 512, "repetition_penalty": 1.0, "bias": None}


def test_each_piece_of_a_prompt_is_tokenised_by_itself(cut_into, asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Joined, the two pieces would be one word to this tokenizer."""
    cut_into((0, 2))
    model = model_of("osum-pangu", "<asr>four", ["left", "right", "end", "leftright"])
    told = families.Told(("left", "right"), ("end",))
    monkeypatch.setattr(families.Family, "told", lambda self, asked, heard="": told)
    model.understand(noise(3))
    (prompt,), settings = asked[0]
    names = model.loaded.tokenizer.id_to_token
    assert ([names(i) for i in prompt.before_ids], [names(i) for i in prompt.after_ids]) == (["left", "right"], ["end"])
    assert settings == {"max_new_tokens": 400, "repetition_penalty": 1.05, "bias": None}


def test_a_named_language_is_told_and_not_only_checked(cut_into) -> None:
    cut_into((0, 2))
    result = model_of("granite-speech", "links").understand(noise(3), language="de")
    assert result.text == "links" and not result.notes


def test_word_times_that_wrap_are_those_of_the_recording(cut_into) -> None:
    cut_into((100, 112), (120, 121))
    model = model_of("granite-speech-plus", ["turn [T:950] _ [T:20] left [T:60]", "now [T:40] then [T:20]"])
    result = model.understand(noise(122), "srwt")
    first, second = result.segments
    assert first.words == (Word("turn", 100.0, 109.5), Word("left", 110.2, 110.6))
    assert second.words == (Word("now", 120.0, 120.4),), "10 s later there is no audio"
    assert (result.text, result.unparsed) == ("turn left now", ("then [T:20]",))


def test_turns_reach_the_result(cut_into) -> None:
    cut_into((0, 4), (5, 8))
    said = ["[Speaker 1]: how are you [Speaker 2]: fine", "[Speaker 1]: bye"]
    result = model_of("granite-speech-plus", said).understand(noise(9), speakers=True)
    first, second = result.segments
    assert first.turns == (Turn("Speaker 1", "how are you"), Turn("Speaker 2", "fine"))
    assert second.turns == (Turn("Speaker 1", "bye"),) and result.text == "how are you fine bye"
    assert len(result.notes) == 1 and "Speaker 1 of one need not be Speaker 1 of another" in result.notes[0]


def test_turns_lose_what_two_windows_heard_twice(cut_into) -> None:
    cut_into((0, 10), (9, 19, 1.0))
    said = ["[Speaker 1]: a b c d e [Speaker 2]: f g h i j k", "[Speaker 1]: j k l m n [Speaker 2]: o p q r s t"]
    first, second = model_of("granite-speech-plus", said).understand(noise(20), speakers=True).segments
    assert (first.text, second.text) == ("a b c d e f g h i", "j k l m n o p q r s t")
    assert first.turns == (Turn("Speaker 1", "a b c d e"), Turn("Speaker 2", "f g h i"))
    assert second.turns == (Turn("Speaker 1", "j k l m n"), Turn("Speaker 2", "o p q r s t"))


def test_a_loop_is_cut_out_of_turns_too(cut_into) -> None:
    cut_into((0, 10))
    (segment,) = (
        model_of("granite-speech-plus", "[Speaker 1]: go [Speaker 2]: " + "left " * 30)
        .understand(noise(11), speakers=True)
        .segments
    )
    assert segment.turns == (Turn("Speaker 1", "go"), Turn("Speaker 2", "left")) and segment.text == "go left"


def test_the_language_that_was_heard(cut_into) -> None:
    """Marks survive decoding although they are special tokens."""
    cut_into((0, 2), (3, 5))
    model = model_of("qwen3-asr", ["language Chinese <asr_text> 左转", "language None <asr_text>"])
    model.loaded.tokenizer.add_special_tokens(["<asr_text>"])
    first, second = model.understand(noise(6)).segments
    assert (first.language, first.text, second.language, second.text) == ("zh", "左转", "", "")
    assert not first.unparsed


def test_thoughts_are_left_out(cut_into) -> None:
    cut_into((0, 2))
    model = model_of("osum-pangu", "[unused16] left or right? [unused17] <asr><emotion>go left<happy>")
    model.loaded.tokenizer.add_special_tokens(["[unused16]", "[unused17]"])
    result = model.understand(noise(3), "asr,ser")
    assert (result.text, result.labels, result.unparsed) == ("go left", {"ser": "happy"}, ())
    assert result.template == "inference"


def test_a_label_comes_with_its_transcript(cut_into) -> None:
    cut_into((0, 2))
    result = model_of("osum", "go left<happy>").understand(noise(3), "ser")
    assert (result.tasks, result.text, result.labels) == (("asr", "ser"), "go left", {"ser": "happy"})


def test_a_free_question_has_a_free_answer(cut_into) -> None:
    cut_into((0, 2))
    result = model_of("qwen2-audio", "A dog barks.").understand(noise(3), instruction="what is it?")
    assert (result.tasks, result.answer, result.notes, result.unparsed) == ((), "A dog barks.", (), ())


def test_the_template_of_a_model_and_of_a_request(cut_into) -> None:
    cut_into((0, 2))
    model = model_of("osum-pangu", "four", extra={"template": "training"})
    assert model.understand(noise(3)).template == "training"
    cut_into((0, 2))
    assert model.understand(noise(3), template="openpangu").template == "openpangu"
    with pytest.raises(UserError, match="no prompt template 'x'; templates: inference training openpangu"):
        model.understand(noise(3), template="x")


@pytest.mark.parametrize(("front_end", "num_mels"), [("granite", 160), ("kaldi-lfr", 560), ("whisper-30s", 128)])
def test_features_are_those_the_model_wants(cut_into, front_end: str, num_mels: int) -> None:
    """The fake backend refuses other shapes."""
    cut_into((0, 2.0))
    model = model_of("granite-speech", "four", front_end=front_end, num_mels=num_mels, max_window_s=30.0)
    seen: list[np.ndarray] = []
    encode = backend(model).encode
    backend(model).encode = lambda mels: (seen.extend(mels), encode(mels))[1]  # type: ignore[method-assign]
    assert model.understand(noise(3)).text == "four"
    columns = {"granite": 100, "kaldi-lfr": 33, "whisper-30s": 3000}[front_end]
    assert [mel.shape for mel in seen] == [(num_mels, columns)]


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("granite-speech", {"tasks": "ast"}, "must know the language to translate into; choose from: en fr"),
        ("granite-speech", {"tasks": "asr,ser"}, "cannot do ser; it can do: asr ast$"),
        ("granite-speech", {"speakers": True}, "cannot take speakers with asr"),
        ("osum", {"into": "de"}, "cannot do ast; it can do: asr srwt"),
        ("fun-asr-nano", {"language": "fr"}, "does not know language 'fr'; languages: zh en ja"),
        ("fun-asr-nano", {"instruction": "who?"}, "takes no plain language; ask for tasks: asr$"),
        ("fun-asr-nano", {"hotwords": ["a<b"]}, "entry 1: 'a<b' holds one of < >"),
    ],
)
def test_what_a_family_cannot_do_is_refused_at_the_call(family: str, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        model_of(family, "four").understand("never-opened.wav", **options)


def test_hotwords_as_people_write_them() -> None:
    words = ("Ada Lovelace", "开放时间")
    for given in (words, list(words), "Ada  Lovelace,开放时间", " Ada Lovelace，开放时间 ,, Ada Lovelace\n"):
        assert ask.request(options=Options(hotwords=given)).hotwords == words
    assert ask.request().hotwords == ask.request(options=Options(hotwords=" , ")).hotwords == ()


def test_to_name_a_target_is_to_ask_for_a_translation() -> None:
    assert [task.id for task in ask.request(options=Options(into="de")).tasks] == ["ast"]
    assert [task.id for task in ask.request("asr,ast", Options(into="de")).tasks] == ["asr", "ast"]
