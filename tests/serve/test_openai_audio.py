"""The public OpenAI client against a running server with the pocket model: nothing of the client is changed."""

import asyncio
import json
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
import soundfile

from tests.serve.server import SAMPLES, Server

TRUTH = {row["file"]: row for row in map(json.loads, (SAMPLES / "truth.jsonl").read_text("utf-8").splitlines())}
WORDS = SAMPLES / "words-1.flac"
TEXT = TRUTH["words-1.flac"]["text"]


@pytest.fixture(scope="module")
def client(server: Server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as one:
        yield one


def refused(call, **given) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as seen:
        call(**{"file": WORDS, "model": "whisper-1", **given})
    assert seen.value.body["message"] and seen.value.code
    return seen.value


def test_the_models(client: openai.OpenAI) -> None:
    (pocket,) = client.models.list().data
    assert pocket.id == "pocket" and set(pocket.tasks) == {"asr", "srwt", "ved", "sgc"}
    assert client.models.retrieve("whisper-1") == client.models.retrieve("pocket") == pocket
    with pytest.raises(openai.NotFoundError) as seen:
        client.models.retrieve("gpt-5")
    assert seen.value.code == "model_not_found" and "pocket" in seen.value.body["message"]


def test_json(client: openai.OpenAI) -> None:
    answer = client.audio.transcriptions.create(file=WORDS, model="whisper-1")
    assert answer.text == TEXT
    assert answer.usage.type == "duration" and answer.usage.seconds == pytest.approx(1.94, abs=0.02)


def test_text_and_subtitles(client: openai.OpenAI) -> None:
    def ask(kind: str) -> str:
        return client.audio.transcriptions.create(file=WORDS, model="pocket", response_format=kind)

    assert ask("text") == f"{TEXT}\n"
    srt, vtt = ask("srt"), ask("vtt")
    assert srt.startswith("1\n00:00:00,") and TEXT in srt
    assert vtt.startswith("WEBVTT\n\n00:00:00.") and TEXT in vtt


def test_times_of_words_and_segments(client: openai.OpenAI) -> None:
    answer = client.audio.transcriptions.create(
        file=WORDS, model="whisper-1", response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert [word.word for word in answer.words] == TEXT.split()
    times = [time for word in answer.words for time in (word.start, word.end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= answer.duration
    assert {word.source for word in answer.words} == {"ctc"}
    (segment,) = answer.segments
    assert segment.text == TEXT and segment.start < answer.words[0].start + 0.1
    assert -1 < segment.avg_logprob < 0 and segment.tokens is None and segment.no_speech_prob is None


def test_only_the_times_that_were_asked(client: openai.OpenAI) -> None:
    words = client.audio.transcriptions.create(
        file=WORDS, model="whisper-1", response_format="verbose_json", timestamp_granularities=["word"]
    )
    assert words.words and words.segments is None
    usual = client.audio.transcriptions.create(file=WORDS, model="whisper-1", response_format="verbose_json")
    assert usual.words is None and usual.segments and usual.language is None  # nobody said or heard which


def test_the_language_that_was_asked_is_told(client: openai.OpenAI) -> None:
    answer = client.audio.transcriptions.create(
        file=SAMPLES / "words-3.flac", model="whisper-1", language="zh", response_format="verbose_json"
    )
    assert answer.language == "zh" and answer.text == TRUTH["words-3.flac"]["text"]


def test_numbers_are_written_in_figures(client: openai.OpenAI) -> None:
    answer = client.audio.transcriptions.create(
        file=SAMPLES / "digits-1.flac",
        model="whisper-1",
        response_format="verbose_json",
        timestamp_granularities=["word"],
    )
    assert answer.text == "41729"  # of "four one seven two nine"
    assert "".join(word.word for word in answer.words) == "41729"


def test_a_stream_of_events(client: openai.OpenAI) -> None:
    events = list(client.audio.transcriptions.create(file=WORDS, model="whisper-1", stream=True))
    assert "".join(event.delta for event in events[:-1]) == TEXT
    assert {event.type for event in events[:-1]} == {"transcript.text.delta"}
    assert events[-1].type == "transcript.text.done" and events[-1].text == TEXT
    assert events[-1].usage.seconds == pytest.approx(1.94, abs=0.02)


def test_what_became_of_every_wish_is_said(client: openai.OpenAI) -> None:
    answer = client.audio.transcriptions.create(
        file=WORDS,
        model="whisper-1",
        languages=["en", "zh"],
        prompt="Zhiyin, Anna Maria. This sentence is far too long to be the name of anything.",
        keywords=["project", "open file"],
        temperature=0.3,
    )
    said = " | ".join(answer.notes)
    assert answer.text == TEXT
    assert "hotwords: Zhiyin, Anna Maria" in said and "sentences were not used" in said
    assert "en zh were checked" in said and "temperature 0.3" in said
    plain = client.audio.transcriptions.create(file=WORDS, model="whisper-1", chunking_strategy="auto", temperature=0)
    assert plain.notes == []


@pytest.mark.parametrize(("silence_ms", "segments"), [(700, 1), (250, 2)])
def test_a_detector_of_ones_own_decides_where_segments_end(
    client: openai.OpenAI, tmp_path: Path, silence_ms: int, segments: int
) -> None:
    spoken_T, rate_hz = soundfile.read(WORDS, dtype="float32")
    joined_T = np.concatenate([spoken_T[: -rate_hz // 5], np.zeros(rate_hz // 4, np.float32), spoken_T])
    soundfile.write(tmp_path / "two.wav", joined_T, rate_hz)
    answer = client.audio.transcriptions.create(
        file=tmp_path / "two.wav",
        model="whisper-1",
        response_format="verbose_json",
        chunking_strategy={"type": "server_vad", "threshold": 0.4, "silence_duration_ms": silence_ms},
    )
    assert len(answer.segments) == segments


def test_keywords_are_put_right_in_the_text(client: openai.OpenAI, server: Server) -> None:
    answer = client.audio.transcriptions.create(file=WORDS, model="whisper-1", keywords=["open file => Anna"])
    assert answer.text == "project Anna"
    newest = httpx.get(f"{server.url}/api/history?limit=1").json()["rows"][0]
    assert newest["wish"]["hotwords"] == ["open file => Anna"] and newest["mode"] == "api"


def test_speakers_by_channel(client: openai.OpenAI, tmp_path: Path) -> None:
    one, rate = soundfile.read(SAMPLES / "words-1.flac")
    two, other_rate = soundfile.read(SAMPLES / "words-2.flac")
    assert rate == other_rate
    stereo = np.zeros((len(one) + len(two), 2))
    stereo[: len(one), 0], stereo[len(one) :, 1] = one, two
    soundfile.write(tmp_path / "call.wav", stereo, rate)
    answer = client.audio.transcriptions.create(
        file=tmp_path / "call.wav", model="gpt-4o-transcribe-diarize", response_format="diarized_json"
    )
    said = [(part.speaker, part.text) for part in answer.segments]
    assert said == [("A", TEXT), ("B", TRUTH["words-2.flac"]["text"])]
    assert answer.segments[1].start > len(one) / rate and [part.id for part in answer.segments] == ["seg_0", "seg_1"]
    events = list(
        client.audio.transcriptions.create(
            file=tmp_path / "call.wav", model="whisper-1", response_format="diarized_json", stream=True
        )
    )
    spoken = [event for event in events if event.type == "transcript.text.segment"]
    assert [(event.speaker, event.text) for event in spoken] == said


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # of the client: translations
def test_refusals_name_what_is_possible(client: openai.OpenAI) -> None:
    ask = client.audio.transcriptions.create
    assert "one channel" in refused(ask, response_format="diarized_json").body["message"]
    assert "en zh" in refused(ask, language="fr").body["message"]
    assert "en zh" in refused(ask, languages=["en", "fr"]).body["message"]
    assert "verbose_json" in refused(ask, timestamp_granularities=["word"]).body["message"]
    assert "avg_logprob" in refused(ask, include=["logprobs"]).body["message"]
    assert "channel" in refused(ask, known_speaker_names=["Anna"]).body["message"]
    assert "server_vad" in refused(ask, chunking_strategy={"type": "server_vad", "threshold": 7}).body["message"]
    assert "pocket" in refused(ask, model="gpt-9").body["message"]
    assert "asr srwt ved sgc" in refused(client.audio.translations.create).body["message"]
    broken = refused(ask, file=("song.wav", b"this is no audio at all, and never was" * 100))
    assert isinstance(broken, openai.BadRequestError) and broken.code == "unreadable_audio"
    assert isinstance(refused(ask, file=("empty.wav", b"")), openai.BadRequestError)


def test_the_async_client(server: Server) -> None:
    async def everything() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            one_stream = await client.audio.transcriptions.create(file=WORDS, model="whisper-1", stream=True)
            last = [event async for event in one_stream][-1]
            files = [SAMPLES / name for name in TRUTH if name.startswith("words")]
            answers = await asyncio.gather(
                *(client.audio.transcriptions.create(file=file, model="whisper-1") for file in files)
            )
        return [last.text, *(answer.text for answer in answers)]

    texts = asyncio.run(everything())
    assert texts == [TEXT, *(row["text"] for name, row in TRUTH.items() if name.startswith("words"))]


def test_bytes_without_a_name(client: openai.OpenAI) -> None:
    assert client.audio.transcriptions.create(file=WORDS.read_bytes(), model="whisper-1").text == TEXT
