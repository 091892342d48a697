"""One synthetic recording: a sentence, a voice, a style, what is around it, and what is true of it all."""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.data import augment_wave, clip, synth_engines, synth_lines, synth_sounds, synth_voices
from zhiyin.data.manifest import Record
from zhiyin.data.synth_lines import Line
from zhiyin.data.synth_rules import SOURCE, Scene, Source, id_of
from zhiyin.data.synth_voices import Voice
from zhiyin.tasks import instructions, table
from zhiyin.tasks.render import TimedWord

LICENCE = "CC0-1.0"
_RATES = {
    "slow": (80.0, 100.0),
    "fast": (240.0, 300.0),
}  # words per minute; the others have the scene's, shouts 0.85 of it
_OWN_WHISPER_SHARE = 0.3  # of whispers, by voices that whisper themselves


@dataclass(frozen=True)
class Made:
    """A recording that was made: its split, its record (whose audio is only a name), its samples."""

    split: str
    record: Record
    samples_T: Float32


@dataclass(frozen=True)
class Clips:
    """Recordings of sounds to be joined with speech: events have a label of `ved`, all others are background."""

    events: tuple[Record, ...] = ()
    backgrounds: tuple[Record, ...] = ()


@dataclass(frozen=True)
class Kit:
    """What every recording is made from.

    Attributes:
        sources: grammars and their shares.
        seed: another one gives other recordings.
        shares: of dev and test, 0 to 1.
        clips: split -> sounds to join.
        run: stands in the ids, so that two kits that make other recordings have no id in common.
        engines: those that speak.
    """

    sources: tuple[Source, ...]
    seed: int
    shares: Mapping[str, float]
    clips: Mapping[str, Clips] = field(default_factory=dict)
    run: str = "000000"
    engines: tuple[str, ...] = synth_voices.DEFAULT_ENGINES


@dataclass
class _Scenery:
    """A recording while it is put together."""

    pieces: list[Float32] = field(default_factory=list)
    times: tuple[TimedWord, ...] = ()
    licences: list[str] = field(default_factory=lambda: [LICENCE])

    def seconds(self) -> float:
        return sum(map(len, self.pieces)) / SAMPLE_RATE_HZ


def make(kit: Kit, number: int) -> Made:
    """Recording `number` of the set; apart from the engines' own noise it depends on the kit and the number alone."""
    rng = random.Random(f"{kit.seed}/{number}")
    place = rng.random()
    dev, test = kit.shares["dev"], kit.shares["test"]
    split = "test" if place < test else "dev" if place < test + dev else "train"
    source = rng.choices(kit.sources, [one.weight for one in kit.sources])[0]
    scene = source.grammar.scene
    has_event = rng.random() < scene.event_share
    if has_event and rng.random() < scene.alone_share:
        made = _event_alone(kit, split, rng)
    else:
        line = synth_lines.draw(source, split, rng, kit.shares)
        made = _spoken(kit, split, line, scene, rng, has_event=has_event)
    return replace(made, record=replace(made.record, id=id_of(source.name, kit.run, number)))


def sorted_clips(records: Sequence[Record], shares: Mapping[str, float]) -> dict[str, Clips]:
    """Sounds by split: those of one speaker, or where none is known one recording, are in one split only."""
    found: dict[str, list[Record]] = {"train": [], "dev": [], "test": []}
    for record in records:
        key = record.speaker or record.id
        place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
        limit = shares["test"]
        found["test" if place < limit else "dev" if place < limit + shares["dev"] else "train"].append(record)
    return {
        split: Clips(
            tuple(one for one in some if one.labels.get("ved", "none") != "none"),
            tuple(one for one in some if one.labels.get("ved", "none") == "none" and not one.text),
        )
        for split, some in found.items()
    }


def _spoken(kit: Kit, split: str, line: Line, scene: Scene, rng: random.Random, *, has_event: bool) -> Made:
    noise = np.random.default_rng(rng.getrandbits(64))
    style = rng.choices(list(scene.styles), list(scene.styles.values()))[0]
    by_itself = style == "whisper" and rng.random() < _OWN_WHISPER_SHARE
    voice = synth_voices.draw(line.language, split, rng, whispers=by_itself, engines=kit.engines)
    said = _say(line, voice, style, scene, rng)
    if style == "whisper" and not voice.whispers:
        said = replace(said, samples_T=synth_sounds.whispered(said.samples_T, noise))
    elif style == "shout":
        said = replace(said, samples_T=synth_sounds.shouted(said.samples_T, noise))

    scenery, label = _Scenery(), scene.no_event
    scenery.pieces.append(_quiet(rng.uniform(*scene.pause_s)))
    if has_event and rng.random() < 0.5:
        label = _put_event(scenery, kit, split, rng, noise)
    start_s = scenery.seconds()
    if said.times_s is not None and len(said.times_s) == len(line.words):
        pairs = zip(line.words, said.times_s, strict=True)
        scenery.times = tuple(TimedWord(w, round(start_s + a, 4), round(start_s + b, 4)) for w, (a, b) in pairs)
    scenery.pieces.append(augment_wave.to_peak(said.samples_T, -1.0))
    if has_event and label == scene.no_event:
        label = _put_event(scenery, kit, split, rng, noise)
    scenery.pieces.append(_quiet(rng.uniform(*scene.pause_s)))
    samples_T = np.concatenate(scenery.pieces)
    if rng.random() < scene.noise_share:
        background_T = _background(scenery, kit, split, len(samples_T), rng, noise)
        samples_T = augment_wave.add_noise(samples_T, background_T, rng.uniform(*scene.snr_db), noise)
    quieter_db = 15.0 if style == "whisper" else 0.0
    samples_T = augment_wave.to_peak(samples_T, rng.uniform(-18.0, -1.0) - quieter_db)
    labels = _labels(voice, style if len(scene.styles) > 1 else "", label)
    return Made(split, _record(line, split, voice, labels, scenery, samples_T, rng), samples_T)


def _say(line: Line, voice: Voice, style: str, scene: Scene, rng: random.Random) -> synth_engines.Said:
    words_per_minute = rng.uniform(*_RATES.get(style, scene.words_per_minute))
    pitch = rng.randint(38, 62)
    if style == "shout":
        words_per_minute, pitch = 0.85 * words_per_minute, pitch + 35
    return synth_engines.say(
        voice.engine,
        voice.name,
        line.spoken,
        line.language,
        words_per_minute=round(words_per_minute),
        pitch=pitch,
        tract=voice.tract,
    )


def _labels(voice: Voice, style: str, event: str) -> dict[str, str]:
    gender = "" if style == "whisper" else voice.gender  # without its pitch a made voice has little left of it
    found = {"ved": event, "ssr": style, "sgc": gender, "sap": voice.age}
    return {task: label for task, label in found.items() if label}


def _record(
    line: Line,
    split: str,
    voice: Voice,
    labels: dict[str, str],
    scenery: _Scenery,
    samples_T: Float32,
    rng: random.Random,
) -> Record:
    truths = {"asr": True, "srwt": scenery.times, "sttc": line.answer, "ast": line.translation, **labels}
    instruction = ""
    if line.translation:  # the language is part of what is asked
        asked_in = rng.choice(("en", "zh"))
        instruction = instructions.pick(("ast",), asked_in, split, rng, into=line.into)
    elif line.topic:
        instruction = rng.choice(instructions.about(line.topic, rng.choice(instructions.LANGUAGES), split))
    return Record(
        id="",
        audio=Path(),
        duration_s=round(len(samples_T) / SAMPLE_RATE_HZ, 6),
        tasks=tuple(task.id for task in table.TASKS if truths.get(task.id)),
        text=line.text,
        words=scenery.times,
        labels=labels,
        answer=line.answer,
        translation=line.translation,
        instruction=instruction,
        language=line.language,
        speaker=voice.speaker,
        source=SOURCE,
        licence="; ".join(dict.fromkeys(scenery.licences)),
    )


def _event_alone(kit: Kit, split: str, rng: random.Random) -> Made:
    noise = np.random.default_rng(rng.getrandbits(64))
    scenery = _Scenery([_quiet(rng.uniform(0.05, 0.5))])
    label = _put_event(scenery, kit, split, rng, noise)
    scenery.pieces.append(_quiet(rng.uniform(0.05, 0.5)))
    samples_T = augment_wave.to_peak(np.concatenate(scenery.pieces), rng.uniform(-18.0, -1.0))
    record = Record(
        id="",
        audio=Path(),
        duration_s=round(len(samples_T) / SAMPLE_RATE_HZ, 6),
        tasks=("ved",),
        text="",
        labels={"ved": label},
        source=SOURCE,
        licence="; ".join(dict.fromkeys(scenery.licences)),
    )
    return Made(split, record, samples_T)


def _put_event(scenery: _Scenery, kit: Kit, split: str, rng: random.Random, noise: np.random.Generator) -> str:
    """Put a sound at the end of what is there; its label."""
    clips = kit.clips.get(split, Clips()).events
    if clips:
        chosen = rng.choice(clips)
        scenery.licences.append(chosen.licence)
        label, sound_T = chosen.labels["ved"], clip.samples(chosen)
    else:
        label = rng.choice(sorted(synth_sounds.EVENTS))
        sound_T = synth_sounds.event(label, noise)
    gap_T = _quiet(rng.uniform(0.05, 0.3))
    scenery.pieces += [gap_T, augment_wave.to_peak(sound_T, rng.uniform(-12.0, -1.0)), gap_T]
    return label


def _background(
    scenery: _Scenery, kit: Kit, split: str, num_samples: int, rng: random.Random, noise: np.random.Generator
) -> Float32:
    clips = kit.clips.get(split, Clips()).backgrounds
    if clips:
        chosen = rng.choice(clips)
        background_T = clip.samples(chosen)
        if augment_wave.power(background_T) > 0:
            scenery.licences.append(chosen.licence)
            return background_T
    return augment_wave.coloured_noise(num_samples, noise)


def _quiet(length_s: float) -> Float32:
    return np.zeros(round(length_s * SAMPLE_RATE_HZ), np.float32)
