"""What hotwords bring inside a model: token bias in its decoder, and retrieval for its prompt from its CTC head.

    python benchmarks/hotwords_model.py ../shared/data [--model pocket] [--plain 100]

Recordings: wake words of the speech pack (dev and test), names in sentences spoken by espeak-ng with voices that no
training data has, and recordings of the pack without any hotword, whose error rate must not rise. The decoder is asked
for the transcript, whatever the model usually takes it from. Distractors as in `hotwords.py`.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hotwords import distractors
from hotwords_set import FRAMES_EN, FRAMES_ZH, TERMS_EN, TERMS_ZH

import zhiyin
from zhiyin.ask import family_of
from zhiyin.audio import front_end
from zhiyin.audio.features import Float32
from zhiyin.audio.io import load
from zhiyin.data.corpora import speech_pack
from zhiyin.data.synth_engines import say
from zhiyin.runtime.base import Encoded
from zhiyin.runtime.bias import build, spellings
from zhiyin.runtime.generate import Prompt, decode
from zhiyin.runtime.load import Loaded
from zhiyin.tasks import table
from zhiyin.tasks.families import Asked
from zhiyin.text.hotword_ctc import likely
from zhiyin.text.score import edits, words

BONUSES = (0.0, 1.0, 2.0, 3.0, 5.0)
LEASTS = (-2.0, -4.0, -6.0, -8.0)
NO_NAMES = ("so762", "grid", "dsp20")


@dataclass(frozen=True)
class Clip:
    """A recording, what was said, and the hotword in it (empty where there is none)."""

    samples_T: Float32
    text: str
    name: str
    group: str


def clips(pack: Path, plain: int) -> list[Clip]:
    """Everything that is measured."""
    records = [record for split in ("dev", "test") for record in speech_pack.read(pack, split)]
    found = [Clip(load(one.audio), one.text, one.text, "wake words") for one in records if one.source == "pico_ww"]
    for language, voice, frames, names in (
        ("en", "en-us+f4", FRAMES_EN, TERMS_EN),
        ("zh", "cmn-latn-pinyin+m5", FRAMES_ZH, TERMS_ZH),
    ):
        group = f"names, {voice}"
        for i, name in enumerate(names):
            text = frames[i % len(frames)].format(name.lower())
            said = say("espeak-ng", voice, words(text), language, words_per_minute=150, pitch=50)
            found.append(Clip(said.samples_T, text, name.lower(), group))
    others = [one for one in records if one.source in NO_NAMES and one.text]
    return found + [
        Clip(load(one.audio), one.text, "", "no hotword") for one in others[:: max(1, len(others) // plain)]
    ]


def transcripts(encoded: list[Encoded], model: Loaded, names: list[str], bonus: float) -> list[str]:
    """What the decoder says, in batches of eight."""
    family = family_of(model.backend.spec)
    asked = Asked(tasks=table.select("asr"))
    told = family.told(asked)
    before, after = (
        [t for p in part for t in model.tokenizer.encode(p, add_special_tokens=False).ids]
        for part in (told.before, told.after)
    )
    bias = build([spellings(model.tokenizer, name) for name in names], bonus=bonus) if bonus else None
    out = []
    for at in range(0, len(encoded), 8):
        prompts = [Prompt(before, one.vectors_SD, after) for one in encoded[at : at + 8]]
        for reply in decode(
            model.backend, prompts, max_new_tokens=64, repetition_penalty=family.repetition_penalty, bias=bias
        ):
            text = model.tokenizer.decode(list(reply.ids), skip_special_tokens=True)
            out.append(family.read(text, asked, duration_s=15.0).text)
    return out


def row(made: list[Clip], heard: list[str], names: list[str]) -> str:
    """Recall, precision and false insertions of hotwords, and the error rate, as cells."""
    has = lambda text, name: f" {name} " in f" {text} " if name.isascii() else name in text  # noqa: E731
    named = [i for i, clip in enumerate(made) if clip.name]
    right = sum(has(heard[i], made[i].name) for i in named)
    false = sum(
        has(text, name) and not has(clip.text, name) for clip, text in zip(made, heard, strict=True) for name in names
    )
    units = sum(len(words(clip.text)) for clip in made)
    wrong = sum(edits(words(clip.text), words(text)) for clip, text in zip(made, heard, strict=True))
    recall = f"{100 * right / len(named):.1f}" if named else "-"
    precision = f"{100 * right / (right + false):.1f}" if right + false else "-"
    return f"{recall} | {precision} | {false} | {100 * wrong / units:.2f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pack", type=Path)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--plain", type=int, default=100, help="about so many recordings without a hotword")
    given = parser.parse_args()
    model = zhiyin.load(given.model).loaded
    spec = model.backend.spec
    made = clips(given.pack, given.plain)
    made = [clip for clip in made if len(clip.samples_T) <= 16000 * spec.max_window_s]
    encoded = [
        model.backend.encode([front_end.compute(spec.front_end, clip.samples_T, num_mels=spec.num_mels)])[0]
        for clip in made
    ]
    own = sorted({clip.name for clip in made if clip.name})
    groups = list(dict.fromkeys(clip.group for clip in made))
    if encoded[0].ctc_TV is not None:
        retrieval(made, encoded, own, model)
    print(
        "\n| hotwords | bonus | group | recall % | precision % | false | error rate % |\n|--:|--:|---|--:|--:|--:|--:|"
    )
    for number in (0, 100, 1000):
        names = own + [name.lower() for name in distractors(number, set(own))]
        for bonus in BONUSES if number else BONUSES[:1]:
            heard = transcripts(encoded, model, names, bonus)
            for group in groups:
                rows = [i for i, clip in enumerate(made) if clip.group == group]
                cells = row([made[i] for i in rows], [heard[i] for i in rows], names)
                print(f"| {len(names)} | {bonus} | {group} | {cells} |", flush=True)


def retrieval(made: list[Clip], encoded: list[Encoded], own: list[str], model: Loaded) -> None:
    """How many of the names said are among the words retrieved, how many words those are, and how long it takes."""
    names = own + [name.lower() for name in distractors(1000, set(own))]
    said_in = [spellings(model.tokenizer, name) for name in names]
    print("| group | least | names | retrieved % | words in the prompt | ms per window |\n|---|--:|--:|--:|--:|--:|")
    for group in dict.fromkeys(clip.group for clip in made):
        rows = [i for i, clip in enumerate(made) if clip.group == group]
        for least in LEASTS:
            hits, number, began_s = 0, 0, time.process_time()
            for i in rows:
                kept = likely(encoded[i].ctc_TV, said_in, least=least)
                hits += bool(made[i].name) and names.index(made[i].name) in kept
                number += len(kept)
            took_ms = 1000 * (time.process_time() - began_s) / len(rows)
            share = f"{100 * hits / len(rows):.1f}" if made[rows[0]].name else "-"
            print(
                f"| {group} | {least} | {len(rows)} | {share} | {number / len(rows):.1f} | {took_ms:.1f} |", flush=True
            )
    longest = max((one.ctc_TV for one in encoded), key=len)
    window_TV = np.concatenate([longest] * (375 // len(longest) + 1))[:375]  # 15 s of the pocket model
    for least in (-np.inf, LEASTS[3]):
        began_s = time.process_time()
        likely(window_TV, said_in, least=least)
        print(f"15 s, {len(names)} words, least {least}: {1000 * (time.process_time() - began_s):.0f} ms")


if __name__ == "__main__":
    main()
