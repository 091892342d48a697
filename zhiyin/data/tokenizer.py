"""The pocket model's tokenizer: byte-pair pieces for Latin words, one token per Chinese character.

Built with Hugging Face `tokenizers`; every tag, label and time step is one token, and bytes cover the rest.
"""

import json
from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

BLANK, EOS = "<blank>", "<eos>"  # ids 0 and 1; the blank belongs to CTC
CJK = r"[\u3400-\u4dbf\u4e00-\u9fff]"


def train(
    texts: Iterable[str], marks: Sequence[str], *, num_pieces: int, max_time_s: float, time_step_s: float
) -> Tokenizer:
    """Train a tokenizer.

    Args:
        texts: transcripts, answers and instructions.
        marks: tags, labels and marks, each written as it appears, e.g. ``<asr>``.
        num_pieces: size of the byte-pair vocabulary (single characters included).
        max_time_s: last time that gets its own token.
        time_step_s: step between time tokens.
    """
    times = [f"<{i * time_step_s:.2f}>" for i in range(round(max_time_s / time_step_s) + 1)]
    trainer = trainers.BpeTrainer(
        vocab_size=num_pieces, special_tokens=[BLANK, EOS], min_frequency=2, limit_alphabet=4000, show_progress=False
    )
    draft = Tokenizer(models.BPE(unk_token=None))
    draft.pre_tokenizer = _pieces()
    draft.train_from_iterator(texts, trainer)
    model = json.loads(draft.to_str())["model"]
    vocab: dict[str, int] = model["vocab"]
    for byte in range(256):
        vocab.setdefault(f"<0x{byte:02X}>", len(vocab))
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, byte_fallback=True))
    tokenizer.pre_tokenizer = _pieces()
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in (BLANK, EOS)])
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in (*marks, *times)])
    return tokenizer


def _pieces() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always"),
            pre_tokenizers.Split(Regex(CJK), "isolated"),
        ]
    )
