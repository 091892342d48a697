"""What the engines say and what is made of it: times against energy, pitch against the gender, styles against plain."""

import functools
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from zhiyin.audio.features import Float32
from zhiyin.data import synth_engines, synth_sounds, synth_voices
from zhiyin.data.synth_engines import Said
from zhiyin.data.synth_rules import SPLITS
from zhiyin.errors import UserError

RATE_HZ = 16_000
APART: list[ProcessPoolExecutor] = []
ENGINES = [("espeak-ng", "en-us+m3"), ("flite", "kal16")]


def installed(engine: str) -> bool:
    """Whether an engine can be loaded here."""
    try:
        synth_engines.say(engine, dict(ENGINES)[engine], ["yes"], "en", words_per_minute=150, pitch=50)
    except UserError:
        return False
    return True


needs_espeak = pytest.mark.skipif(not installed("espeak-ng"), reason="espeak-ng is not installed")
needs_both = pytest.mark.skipif(not (installed("espeak-ng") and installed("flite")), reason="an engine is missing")


@pytest.fixture(scope="module", autouse=True)
def fresh_engines() -> Iterator[None]:
    """Both keep a state; in a process of their own what they say does not depend on the tests before."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        APART.append(pool)
        yield
    APART.clear()


def said(engine: str, name: str, text: str, language: str = "en", words_per_minute: int = 150, **more: float) -> Said:
    """Words spoken."""
    words = synth_engines.syllables(text) if language == "zh" else text.split()
    tract = more.get("tract", 1.0)
    say = functools.partial(synth_engines.say, words_per_minute=words_per_minute, pitch=int(more.get("pitch", 50)))
    return APART[0].submit(functools.partial(say, tract=tract), engine, name, words, language).result()


def loud_s(samples_T: Float32) -> np.ndarray:
    """Seconds at which frames of 10 ms are louder than a hundredth of the loudest."""
    frames = samples_T[: len(samples_T) // 160 * 160].reshape(-1, 160)
    level = np.sqrt(np.mean(frames**2, axis=1))
    return np.nonzero(level > 0.01 * level.max())[0] * 0.01


def voicing(samples_T: Float32) -> tuple[float, float]:
    """Median pitch in Hz of the voiced frames, and the share of loud frames that are voiced (by autocorrelation)."""
    frames = samples_T[: len(samples_T) // 640 * 640].reshape(-1, 640)
    frames = frames[np.sqrt(np.mean(frames**2, axis=1)) > 0.1 * np.abs(samples_T).max() / 3]
    found = []
    for frame in frames - frames.mean(axis=1, keepdims=True):
        correlation = np.correlate(frame, frame, "full")[639:]
        lag = 40 + int(np.argmax(correlation[40:266]))
        if correlation[lag] > 0.5 * correlation[0]:
            found.append(RATE_HZ / lag)
    return (float(np.median(found)) if found else 0.0), len(found) / len(frames)


@needs_both
@pytest.mark.parametrize(("engine", "name"), ENGINES)
@pytest.mark.parametrize("tract", [1.0, 1.1])
def test_times_of_words_agree_with_the_sound(engine: str, name: str, tract: float) -> None:
    """A comma makes a pause that can be heard: the words beside it must end and begin at its edges."""
    one = said(engine, name, "seven, apples and four, oranges", tract=tract)
    assert one.times_s is not None and len(one.times_s) == 5
    loud = loud_s(one.samples_T)
    assert abs(one.times_s[0][0] - loud[0]) < 0.08 and abs(one.times_s[-1][1] - loud[-1]) < 0.12
    gaps = sorted(zip(np.diff(loud), loud[:-1], loud[1:], strict=True), reverse=True)[:2]
    for (_, end_s, start_s), word in zip(sorted(gaps, key=lambda gap: gap[1]), (0, 3), strict=True):
        assert abs(one.times_s[word][1] - end_s) < 0.08, "the word before the pause"
        assert abs(one.times_s[word + 1][0] - start_s) < 0.08, "the word after it"
    starts = [start_s for start_s, _ in one.times_s]
    assert starts == sorted(starts) and all(a < b for a, b in one.times_s)


@needs_espeak
def test_chinese_is_read_as_chinese() -> None:
    """The voice `cmn` would read the pinyin of 三 as English letters and a number: three times as long."""
    one = said("espeak-ng", "cmn-latn-pinyin+m3", "三零七五一", "zh")
    assert one.times_s is not None and len(one.times_s) == 5
    assert all(0.1 < b - a < 0.5 for a, b in one.times_s)
    mixed = said("espeak-ng", "cmn-latn-pinyin", "去yin2 hang2吧", "zh")
    assert mixed.times_s is not None and len(mixed.times_s) == 4
    assert synth_engines.joined(["去", "yin2", "hang2", "吧"], "zh") == ("去 yin2 hang2 吧", [1, 3, 8, 14])


@needs_both
def test_rate_and_tract_do_what_they_say() -> None:
    slow, fast = (said("espeak-ng", "en-us", "open the door now", words_per_minute=rate) for rate in (90, 270))
    assert 2.0 < len(slow.samples_T) / len(fast.samples_T) < 4.5
    for engine, name in ENGINES:
        plain, small = (said(engine, name, "we were away a long while", tract=tract) for tract in (1.0, 1.18))
        assert len(small.samples_T) == pytest.approx(len(plain.samples_T), rel=0.15), "the rate stays"
        assert voicing(small.samples_T)[0] == pytest.approx(1.18 * voicing(plain.samples_T)[0], rel=0.08)


@needs_both
def test_voices_named_female_are_higher_than_those_named_male() -> None:
    pitches: dict[str, list[float]] = {"female": [], "male": []}
    rng = random.Random(4)
    for split in SPLITS:
        for _ in range(14):
            voice = synth_voices.draw("en", split, rng)
            if voice.gender:
                one = said(voice.engine, voice.name, "we were away a long while ago", tract=voice.tract)
                pitches[voice.gender].append(voicing(one.samples_T)[0])
    assert min(pitches["female"]) > 155 > 150 > max(pitches["male"]), pitches


def test_voices_are_in_one_split() -> None:
    every = [
        (name, split)
        for split in SPLITS
        for voices in (synth_voices.variants, synth_voices.flite_voices, synth_voices.festival_voices)
        for name in voices(split)
    ]
    assert len({name for name, _ in every}) == len(every)
    home = dict(every)
    assert home["slt"] == home["cmu_us_slt_arctic_hts"] and home["kal16"] == home["kal_diphone"], "the same people"
    rng = random.Random(5)
    homes: dict[str, set[str]] = {}
    for split in SPLITS:
        for language in synth_voices.ACCENTS:
            for _ in range(300):
                voice = synth_voices.draw(
                    language, split, rng, whispers=rng.random() < 0.2, engines=synth_voices.ENGINES
                )
                homes.setdefault(voice.speaker.partition("@")[0], set()).add(split)
    assert len(homes) > 60 and all(len(splits) == 1 for splits in homes.values())


@needs_espeak
def test_every_voice_is_there() -> None:
    for language, text in (("en", "yes"), ("zh", "是"), ("de", "ja")):
        for accent in synth_voices.ACCENTS[language]:
            said("espeak-ng", f"{accent}+f2", text, language)
    for split in SPLITS:
        for variant in synth_voices.variants(split):
            assert len(said("espeak-ng", f"de+{variant}", "ja", "de").samples_T) > 1000
    with pytest.raises(UserError, match="has no voice 'en-us\\+nobody'"):
        said("espeak-ng", "en-us+nobody", "yes")


@needs_espeak
def test_a_whisper_has_no_pitch_and_the_same_words_in_time() -> None:
    plain_T = said("espeak-ng", "en-us+m3", "we were away a long while ago").samples_T
    whispered_T = synth_sounds.whispered(plain_T, np.random.default_rng(1))
    assert len(whispered_T) == len(plain_T)
    assert voicing(plain_T)[1] > 0.7 > 0.15 > voicing(whispered_T)[1]
    envelopes = [np.convolve(np.abs(x), np.ones(800) / 800, "same") for x in (plain_T, whispered_T)]
    assert np.corrcoef(*envelopes)[0, 1] > 0.75


@needs_espeak
def test_a_shout_is_brighter_and_denser() -> None:
    plain_T = said("espeak-ng", "en-us+m3", "come back at once").samples_T
    shouted_T = synth_sounds.shouted(plain_T, np.random.default_rng(1))
    shares, crests = [], []
    for samples_T in (plain_T, shouted_T):
        power = np.abs(np.fft.rfft(samples_T)) ** 2
        hz = np.fft.rfftfreq(len(samples_T), 1 / RATE_HZ)
        shares.append(power[(hz > 1000) & (hz < 4000)].sum() / power.sum())
        crests.append(np.abs(samples_T).max() / np.sqrt(np.mean(samples_T**2)))
    assert shares[1] > 1.5 * shares[0] and crests[1] < 0.8 * crests[0]


@pytest.mark.parametrize("kind", sorted(synth_sounds.EVENTS))
def test_made_events_are_sounds_and_differ(kind: str) -> None:
    first, second, again = (synth_sounds.event(kind, np.random.default_rng(seed)) for seed in (1, 2, 1))
    assert np.array_equal(first, again)
    assert len(first) != len(second) or not np.array_equal(first, second)
    assert np.abs(first).max() == pytest.approx(1.0) and np.isfinite(first).all()
    assert 0.1 < len(first) / RATE_HZ < 5.0
