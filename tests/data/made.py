"""Records as data tests draw them, and tiny recordings."""

from pathlib import Path

import numpy as np
import soundfile
from hypothesis import strategies as st

from zhiyin.data.manifest import Record
from zhiyin.tasks.render import TimedWord
from zhiyin.tasks.table import TASKS

RATE_HZ = 16_000


def tone(path: Path, seconds: float = 0.25, seed: int = 0) -> Path:
    """A recording of noise that no other seed gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).uniform(-0.3, 0.3, round(seconds * RATE_HZ))
    soundfile.write(path, samples, RATE_HZ, subtype="PCM_16")
    return path


TEXTS = st.one_of(
    st.sampled_from(
        ["", "turn left", "打开灯", "你好 world", 'say "hi", ok', "tab\tand\nline", "=1+1", "é́ 😀", "|", "{}"]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="<>\0"), max_size=12),
)
WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Z", "C"), exclude_characters="<>"), min_size=1, max_size=5
)
IDS = st.one_of(
    st.sampled_from(["a", "a.b", "a/b", "../up", ".hidden", "%41", "a@2", "录音 1", "a" * 60]),
    st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8),
)


@st.composite
def records(draw: st.DrawFn, audio: Path, ids: st.SearchStrategy[str] = IDS) -> Record:
    """A record whose tasks are those it has a truth for."""
    labels = {t.id: draw(st.sampled_from(t.labels)) for t in TASKS if t.labels and draw(st.booleans())}
    steps = sorted(draw(st.lists(st.integers(0, 24), unique=True, max_size=6)))
    edges = zip(steps[::2], steps[1::2], strict=False)
    words = tuple(TimedWord(draw(WORDS), a / 100, b / 100) for a, b in edges)
    text = draw(st.none() | TEXTS)
    answer, translation = draw(TEXTS), draw(TEXTS)
    has = {"asr": text is not None, "srwt": words, "sttc": answer, "ast": translation, **labels}
    return Record(
        id=draw(ids),
        audio=audio,
        duration_s=0.25,
        tasks=tuple(task.id for task in TASKS if has.get(task.id)),
        text=text,
        words=words,
        labels=labels,
        answer=answer,
        translation=translation,
        language=draw(st.sampled_from(["", "en", "zh"])),
        speaker=draw(st.sampled_from(["", "s1", "说话人"])),
        source=draw(st.sampled_from(["", "test"])),
        licence=draw(st.sampled_from(["", "CC0-1.0"])),
        age_group=draw(st.sampled_from(["", "adult"])),
        instruction=draw(TEXTS),
    )


def lists(audio: Path, ids: st.SearchStrategy[str] = IDS) -> st.SearchStrategy[list[Record]]:
    """Up to four records with different ids."""
    return st.lists(records(audio, ids), min_size=1, max_size=4, unique_by=lambda record: record.id)
