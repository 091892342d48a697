"""Hotwords and written form through the main job: on final segments, with every family, times and spoken words kept."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.fake_model import fake_model
from tests.test_cli import Outcome, command, speech, wav
from tests.test_pipeline import backend, cut_into, noise
from tests.test_pipeline_families import asked, model_of
from zhiyin import Model, UserError, Word, ask, hear, write
from zhiyin.ask import Options
from zhiyin.result import Correction, Rewrite, Turn
from zhiyin.runtime.bias import spellings
from zhiyin.tasks import families
from zhiyin.text import hotword_list

__all__ = ["asked", "cut_into", "speech", "wav"]  # fixtures


# --- written form


def test_both_forms_come_back(cut_into) -> None:
    cut_into((0, 4), (5, 9))
    model = fake_model(["they paid twenty five dollars", "三十二个人"])
    result = model.understand(noise(10), written=True)
    assert (result.text, result.written) == (
        "they paid twenty five dollars三十二个人",
        "they paid $25 32个人",
    )
    first, second = result.segments
    assert (first.text, first.written) == ("they paid twenty five dollars", "they paid $25")
    assert first.written_spans == (Rewrite(10, 29, 10, 13),)
    assert (second.text, second.written) == ("三十二个人", "32个人")
    assert list(model.segments(noise(10), written=True)) == [first, second]
    plain = model.understand(noise(10))
    assert (plain.written, plain.segments[0].written, plain.segments[0].written_spans) == ("", "", ())


def test_a_number_over_two_windows_is_written_after_they_are_merged(cut_into) -> None:
    cut_into((0, 10), (9, 19, 1.0))
    said = ["a b c d e f g h it costs twenty", "twenty five dollars"]
    first, second = fake_model(said).understand(noise(20), written=True).segments
    assert (first.text, first.written) == ("a b c d e f g h it costs", "a b c d e f g h it costs") or first.written
    assert "twenty" not in first.written + second.written, "figures on one side or the other, never half of it"


def test_times_of_words_stay_those_of_what_was_spoken(cut_into) -> None:
    cut_into((1.0, 5.0))
    reply = "<0.10>pay<0.40>twenty<0.80>five<1.20>dollars<1.90>now<2.30>"
    result = fake_model(reply).understand(noise(6), "srwt", written=True)
    (segment,) = result.segments
    assert [word.text for word in segment.words] == ["pay", "twenty", "five", "dollars", "now"]
    assert segment.words[1:4] == (Word("twenty", 1.4, 1.8), Word("five", 1.8, 2.2), Word("dollars", 2.2, 2.9))
    assert write.srt(result) == "1\n00:00:01,100 --> 00:00:03,300\npay $25 now\n"
    assert "pay $25 now\t" in write.tsv(result)


@pytest.mark.parametrize(
    ("arguments", "spoken"),
    [
        ([], False),
        (["--itn"], False),
        (["--no-itn"], True),
        (["--format", "tsv"], True),
        (["--format", "tsv", "--itn"], False),
        (["--format", "srt"], False),
        (["--format", "vtt", "--no-itn"], True),
    ],
)
def test_the_command_writes_figures_unless_told(
    arguments: list[str], spoken: bool, wav: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("zhiyin.load", lambda *a, **k: fake_model("twenty five dollars"))
    out = command(capsys, "understand", str(wav), *arguments).out
    assert ("twenty five dollars" in out, "$25" in out) == (spoken, not spoken)


@pytest.mark.parametrize(
    ("family", "itn"), [("zhiyin", None), ("osum", None), ("granite-speech", False), ("fun-asr-nano", False)]
)
def test_models_that_can_are_told_to_say_what_was_spoken(
    family: str, itn: bool | None, wav: Path, monkeypatch, capsys: pytest.CaptureFixture[str], asked
) -> None:
    seen: list[families.Asked] = []
    told = families.Family.told
    monkeypatch.setattr(families.Family, "told", lambda self, one, heard="": seen.append(one) or told(self, one))
    monkeypatch.setattr("zhiyin.load", lambda *a, **k: model_of(family, "four"))
    for option, wanted in (("--no-itn", itn), ("--itn", None)):
        assert command(capsys, "understand", str(wav), option).code == 0
        assert seen.pop().itn is wanted and not seen


# --- hotwords


@pytest.mark.parametrize("family", ["zhiyin", "osum", "granite-speech"])
def test_a_name_is_put_right_with_every_family(cut_into, family: str) -> None:
    cut_into((0, 4))
    result = model_of(family, "ask kuber nettis now").understand(noise(5), hotwords="Kubernetes")
    (segment,) = result.segments
    assert segment.text == result.text == "ask Kubernetes now"
    (one,) = segment.corrections
    assert (one.start, one.end, one.heard, one.became, one.by) == (4, 14, "kuber nettis", "Kubernetes", "sound")
    assert segment.text[one.start : one.end] == one.became and 0.8 <= one.score <= 1


def test_pairs_and_files(cut_into, tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("# ours\n知音\t2\nturn lift => turn left\n", encoding="utf-8")
    for given in (path, str(path), hotword_list.read(path), ["知音 2", "turn lift => turn left"]):
        cut_into((0, 4), (5, 9))
        result = fake_model(["turn lift", "打开之音"]).understand(noise(10), hotwords=given)
        assert result.text == "turn left打开知音"
        assert result.segments[0].corrections == (Correction(0, 9, "turn lift", "turn left", "pair", 1.0),)


def test_times_survive_and_figures_come_last(cut_into) -> None:
    cut_into((0, 4))
    reply = "<0.00>ask<0.30>kuber<0.70>nettis<1.20>for<1.40>twenty<1.70>five<2.00>dollars<2.50>"
    result = fake_model(reply).understand(noise(5), "srwt", hotwords="Kubernetes", written=True)
    (segment,) = result.segments
    assert segment.written == "ask Kubernetes for $25"
    assert segment.words[:3] == (Word("ask", 0.0, 0.3), Word("Kubernetes", 0.3, 1.2), Word("for", 1.2, 1.4))
    assert segment.written_spans == (Rewrite(19, 38, 19, 22),), "of the corrected text"


def test_turns_are_put_right_too(cut_into) -> None:
    cut_into((0, 8))
    said = "[Speaker 1]: ask kuber nettis [Speaker 2]: fine"
    (segment,) = (
        model_of("granite-speech-plus", said).understand(noise(9), speakers=True, hotwords="Kubernetes").segments
    )
    assert segment.turns == (Turn("Speaker 1", "ask Kubernetes"), Turn("Speaker 2", "fine"))


def test_a_whole_recording_and_its_parts_are_treated_alike(speech: np.ndarray) -> None:
    """With speech detection, and with the recording as one window (as for events)."""
    for tasks, extra in (("asr", ""), ("asr,ved", "<cough>")):
        result = fake_model(f"kuber nettis{extra}").understand(speech, tasks, hotwords="Kubernetes")
        assert result.text == "Kubernetes"


def test_each_file_of_a_batch_is_treated_alike(wav: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("zhiyin.load", lambda *a, **k: fake_model("kuber nettis"))
    for name in ("a.wav", "b.wav", "c.wav"):
        (tmp_path / name).write_bytes(wav.read_bytes())
    names = tmp_path / "names.txt"
    names.write_text("Kubernetes\n")
    outcome: Outcome = command(capsys, "understand", str(tmp_path), "--hotwords", str(names))
    assert outcome.out.count("\nKubernetes\n") == 4 and outcome.code == 0


def test_prompts_hold_a_bounded_number_and_no_pairs(cut_into, asked) -> None:
    cut_into((0, 4))
    words = [f"name{i:03}" for i in range(120)]
    result = model_of("granite-speech", "four").understand(noise(5), hotwords=[*words, "wrong => right"])
    (prompt,), _ = asked[0]
    assert len(prompt.after_ids) and result.notes == ("50 of 120 hotwords stand in the prompt; all are put right",)
    request = ask.request(options=Options(hotwords=[*words, "last 3.0", "wrong => right"]))
    assert request.hotwords == ("last", *words[:49])


def test_hotwords_without_a_transcript_are_pointed_out(cut_into) -> None:
    cut_into((0, 4))
    result = fake_model("<male>").understand(noise(5), "sgc", hotwords="Kubernetes")
    assert result.notes == ("hotwords are put right in transcripts, and none was asked; add asr",)


def test_bad_hotwords_are_refused_at_the_call(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "old.txt").write_bytes("知音你好".encode("gb18030"))
    for given, why in ((tmp_path / "empty.txt", "holds no words"), (tmp_path / "old.txt", "looks like GB18030")):
        with pytest.raises(UserError, match=why):
            fake_model("four").understand("never-opened.wav", hotwords=given)


def test_the_decoder_is_given_the_tokens_of_hotwords(cut_into, asked) -> None:
    cut_into((0, 4))
    model = model_of("osum", "ask Ada", ["Ada", "Grace", "Hopper"])
    model.understand(noise(5), hotwords="Ada, Grace Hopper, Unheard")
    (_, settings), encode = asked[0], model.loaded.tokenizer.encode
    bias = settings["bias"]
    ada, grace, hopper = encode("Ada Grace Hopper", add_special_tokens=False).ids
    assert set(bias.next_of[0]) == {ada, grace}, "a word it has no tokens for is left out"
    assert set(bias.next_of[bias.step(0, grace)]) == {hopper}
    asked.clear()
    cut_into((0, 4))
    model_of("osum", "ask Ada").understand(noise(5))
    assert asked[0][1]["bias"] is None


def _with_ctc(model: Model, heard: dict[str, float]) -> Model:
    """A CTC head that hears silence, and some words nearly: by so much less than the silence, in a frame each."""
    running = backend(model)

    def ctc(window: int) -> np.ndarray:
        logits_TV = np.zeros((3 * len(heard) + 1, running.words.get_vocab_size()), np.float32)
        logits_TV[:, 0] = 20.0
        for i, (word, less) in enumerate(heard.items()):
            logits_TV[3 * i + 1, running.words.token_to_id(word)] = 20.0 - less
        return logits_TV

    running._ctc = ctc  # type: ignore[method-assign]
    return model


def test_of_many_hotwords_those_that_may_have_been_said_stand_in_the_prompt(cut_into, monkeypatch) -> None:
    cut_into((0, 4))
    words = [f"name{i}" for i in range(80)]
    model = _with_ctc(model_of("granite-speech", "four", words), {"name70": 1.0, "name75": 0.5})
    seen: list[families.Asked] = []
    told = families.Family.told
    monkeypatch.setattr(families.Family, "told", lambda self, one, heard="": seen.append(one) or told(self, one))
    model.understand(noise(5), hotwords=words)
    assert seen[0].hotwords == ("name75", "name70")


def test_hints_are_words_the_model_can_say() -> None:
    model = fake_model("four", ["Ada"])
    given = hear.hints(hotword_list.read("Ada, Unheard"), model.loaded)
    assert given is not None and given.said_in == (tuple(spellings(model.loaded.tokenizer, "Ada")[:1]), ())
    assert hear.hints(hotword_list.read("a => b"), model.loaded) is None


def test_how_sure_a_segment_is(speech: np.ndarray) -> None:
    (segment,) = fake_model("four").understand(speech).segments
    assert segment.confidence is not None and 0.99 < segment.confidence < 1
    model = fake_model("<male>", ctc=["four one"])
    (drafted,) = model.understand(speech, "asr,sgc").segments
    logits_TV = model.loaded.backend._ctc(0)
    spoken = logits_TV[logits_TV.argmax(axis=1) > 0].astype(np.float64)
    wanted = (np.exp(spoken.max(axis=1)) / np.exp(spoken).sum(axis=1)).mean()
    assert drafted.confidence == pytest.approx(wanted, abs=1e-4)
    assert dataclasses.asdict(drafted)["confidence"] == drafted.confidence


def test_channels_and_hotwords(tmp_path: Path, speech: np.ndarray) -> None:
    path = tmp_path / "call.wav"
    soundfile.write(path, np.stack([speech, speech], axis=1), 16_000)
    result = fake_model("kuber nettis").understand(path, channels="split", hotwords="Kubernetes")
    assert [(one.channel, one.text) for one in result.segments] == [(0, "Kubernetes"), (1, "Kubernetes")]
