"""A model without weights: says what a test tells it to, through the real protocol and a real tokenizer.

Shapes: `D` is 4: what the vector is (token, marker, speech), and what it carries.
"""

import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from zhiyin import Model
from zhiyin.runtime.base import Device, Encoded, Float32, ModelSpec
from zhiyin.runtime.load import Loaded

EOS = "<eos>"
ENDLESS = "..."  # a reply that ends with this word goes on with the word before it for ever
TOKEN, MARKER, SPEECH = 1.0, 2.0, 3.0

# (prompt, number of the window, its seconds) -> reply
Say = Callable[[str, int, float], str]


def tokenizer(texts: Iterable[str]) -> Tokenizer:
    """One token per mark or word of `texts`."""
    pieces = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex("<[^<>]*>"), "isolated"), pre_tokenizers.WhitespaceSplit()]
    )
    words = [word for text in texts for word, _ in pieces.pre_tokenize_str(text)]
    vocab = {word: i for i, word in enumerate(dict.fromkeys([EOS, "<unk>", *words]))}
    made = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    made.add_special_tokens([EOS])
    made.pre_tokenizer = pieces
    return made


class FakeBackend:
    """Records what it is asked; `say` decides what it answers."""

    name = "fake"
    device = Device("cpu", "test")
    markers = np.array([[MARKER, 0, 0, 0], [MARKER, 1, 0, 0]], np.float32)

    def __init__(self, say: Say, spec: ModelSpec, words: Tokenizer, *, encode_s: float = 0.0, ctc: Sequence[str] = ()):
        self.say, self.spec, self.words, self.encode_s, self.ctc = say, spec, words, encode_s, ctc
        self.batches: list[int] = []
        self.prompts: list[str] = []
        self.vector_counts: list[int] = []  # speech vectors beside each prompt
        self.told: list[str] = []  # what stands between the speech and the reply

    def encode(self, mels: Sequence[Float32]) -> list[Encoded]:
        """Speech vectors that carry the number of the window and its seconds."""
        time.sleep(self.encode_s)
        first = sum(self.batches)
        self.batches.append(len(mels))
        assert all(mel.shape[0] == self.spec.num_mels and 1 <= mel.shape[1] <= self.spec.max_frames for mel in mels)
        return [
            Encoded(
                np.tile(np.array([[SPEECH, first + i, mel.shape[1] / 100, 0]], np.float32), (2, 1)),
                self._ctc(first + i),
            )
            for i, mel in enumerate(mels)
        ]

    def _ctc(self, window: int) -> Float32 | None:
        """Logits that spell the window's text: each token twice, a blank after it."""
        if not self.ctc:
            return None
        ids = self.words.encode(self.ctc[window % len(self.ctc)], add_special_tokens=False).ids
        path = [0, *(step for token in ids for step in (token, token, 0))]
        return 10 * np.eye(self.words.get_vocab_size(), dtype=np.float32)[path]

    def embed(self, ids: Sequence[int]) -> Float32:
        """Vectors that carry the ids."""
        return np.array([[TOKEN, i, 0, 0] for i in ids], np.float32).reshape(-1, 4)

    def start(self, batch: int) -> "FakeSession":
        """A generation in which nothing was said yet."""
        return FakeSession(self, batch)


class FakeSession:
    """Scores the next word of each row's reply highest."""

    def __init__(self, backend: FakeBackend, batch: int):
        self.backend = backend
        self.replies: list[list[int]] = []
        self.places = [0] * batch

    def extend(self, embeds: Sequence[Float32]) -> Float32:
        """Logits [B, V] for the next word."""
        assert len(embeds) == len(self.places)
        if not self.replies:
            self.replies = [self._reply(row) for row in embeds]
        logits = np.zeros((len(embeds), self.backend.words.get_vocab_size()), np.float32)
        for row, (reply, place) in enumerate(zip(self.replies, self.places, strict=True)):
            logits[row, reply[min(place, len(reply) - 1)]] = 10.0
            self.places[row] += 1
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Forget the other rows."""
        self.replies = [self.replies[row] for row in rows]
        self.places = [self.places[row] for row in rows]

    def _reply(self, row: Float32) -> list[int]:
        kinds = row[:, 0].tolist()
        begin = end = len(row)  # a request by itself
        if MARKER in kinds:
            begin, end = kinds.index(MARKER), len(kinds) - 1 - kinds[::-1].index(MARKER)
        speech = row[begin + 1 : end]
        assert set(kinds[begin + 1 : end]) <= {SPEECH}
        asked = self.backend.words.decode([int(i) for i in row[:begin, 1]], skip_special_tokens=False)
        self.backend.prompts.append(asked)
        self.backend.vector_counts.append(len(speech))
        after = [int(i) for i in row[end + 1 :, 1]]
        self.backend.told.append(self.backend.words.decode(after, skip_special_tokens=False))
        number, seconds = (int(speech[0, 1]), float(speech[0, 2])) if len(speech) else (0, 0.0)
        text = self.backend.say(asked, number, seconds)
        ids = self.backend.words.encode(text.removesuffix(ENDLESS), add_special_tokens=False).ids
        assert self.backend.words.token_to_id("<unk>") not in ids, f"{text!r} holds a word the test did not announce"
        return ids if text.endswith(ENDLESS) else [*ids, self.backend.words.token_to_id(EOS)]


def fake_model(
    say: str | Sequence[str] | Say,
    words: Iterable[str] = (),
    *,
    tasks: tuple[str, ...] = ("asr", "srwt", "ved", "ser", "sgc", "sttc", "ast"),
    labels: dict[str, tuple[str, ...]] | None = None,
    max_window_s: float = 15.0,
    max_tokens: int = 512,
    can_follow_instructions: bool = True,
    family: str = "zhiyin",
    encode_s: float = 0.0,
    ctc: Sequence[str] = (),
    min_confidence: float = 0.0,
    label_vectors: int = 0,
    request_alone: bool = False,
) -> Model:
    """A model that gives one reply always, one of a list for each window in turn, or what a function says."""
    tags = [f"<{task}>" for task in tasks]
    if isinstance(say, str):
        texts, answer = [say], lambda asked, number, seconds: say
    elif callable(say):
        texts, answer = [], say
    else:
        texts, answer = list(say), lambda asked, number, seconds: say[number % len(say)]
    made = tokenizer([*tags, *texts, *words, *ctc])
    spec = ModelSpec(
        name="fake",
        family=family,
        tasks=tasks,
        eos_id=made.token_to_id(EOS),
        labels=labels or {},
        languages=("en", "zh"),
        max_window_s=max_window_s,
        max_tokens=max_tokens,
        ctc_transcript=bool(ctc),
        min_confidence=min_confidence,
        label_vectors=label_vectors,
        request_alone=request_alone,
        can_follow_instructions=can_follow_instructions,
    )
    return Model(Loaded(FakeBackend(answer, spec, made, encode_s=encode_s, ctc=ctc), made, "fake"))
