"""SentencePiece's `tokenizer.model` as a tokenizer of Hugging Face tokenizers; needs neither of its packages.

openPangu-Embedded brings its vocabulary in this form only, and code to read it, which is not run.
Sources: google/sentencepiece `sentencepiece_model.proto` (the fields), `bpe_model.cc` (a pair is merged in the order
of the merged piece's score); the encoding on the wire is that of Protocol Buffers.
"""

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from zhiyin.errors import UserError

FILE = "tokenizer.model"
SPACE = "▁"

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4  # SentencePiece.Type
_UNIGRAM, _BPE = 1, 2  # TrainerSpec.ModelType

Fields = dict[int, list[int | bytes]]


@dataclass(frozen=True)
class _Piece:
    text: str
    score: float
    kind: int


def convert(path: Path, where: str) -> Tokenizer:
    """Read a `tokenizer.model`; ids are the numbers of its pieces.

    Text gets the ids that SentencePiece gives it. Control pieces such as ``<s>`` are found in text, as Hugging Face
    tokenizers do it, and what stands between them is treated as a text of its own.

    Raises:
        UserError: damaged, or a kind of model other than BPE and unigram.
    """
    try:
        model = _fields(path.read_bytes())
        pieces = [_piece(bytes(data)) for data in model.get(1, []) if isinstance(data, bytes)]
        trainer, normalizer = (_fields(_bytes(model, number)) for number in (2, 3))
        kind, byte_fallback = _number(trainer, 3, _UNIGRAM), bool(_number(trainer, 35, 0))
    except (OSError, ValueError, IndexError, struct.error) as error:
        raise UserError(f"{where}: {path.name} is damaged ({error}); copy it again") from error
    unknown = next((i for i, piece in enumerate(pieces) if piece.kind == _UNKNOWN), None)
    if unknown is None or kind not in (_UNIGRAM, _BPE):
        seen = f"model type {kind}" if pieces and unknown is not None else "no pieces"
        raise UserError(f"{where}: {path.name}: {seen}; a BPE or unigram model of SentencePiece is expected")
    draft: models.Model
    if kind == _UNIGRAM:
        draft = models.Unigram([(p.text, p.score) for p in pieces], unknown, byte_fallback)
    else:
        vocabulary = {piece.text: i for i, piece in enumerate(pieces)}
        unk = pieces[unknown].text
        draft = models.BPE(
            vocabulary,
            _merges(pieces),
            unk_token=unk,
            fuse_unk=True,
            byte_fallback=byte_fallback,
            ignore_merges=True,  # pieces that the user defined are no result of merging
        )
    return _assembled(draft, pieces, normalizer)


def _assembled(draft: models.Model, pieces: Sequence[_Piece], normalizer: Fields) -> Tokenizer:
    tokenizer = Tokenizer(draft)
    prefix = bool(_number(normalizer, 3, 1))
    steps: list[normalizers.Normalizer] = []
    if _bytes(normalizer, 2):
        steps.append(normalizers.Precompiled(_bytes(normalizer, 2)))
    if _number(normalizer, 4, 1):
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if prefix:
        steps.append(normalizers.Prepend(SPACE))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    # not as added tokens: text is normalised across them, a space before a text that begins with one included
    whole = sorted((re.escape(p.text) for p in pieces if p.kind == _USER_DEFINED), key=len, reverse=True)
    if whole:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(whole)), "isolated")
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    control = [p.text for p in pieces if p.kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in control])
    return tokenizer


def _merges(pieces: Sequence[_Piece]) -> list[tuple[str, str]]:
    """Pairs in the order in which they are merged; every way to cut a piece in two that are pieces is one."""
    ids = {piece.text: i for i, piece in enumerate(pieces) if piece.kind == _NORMAL}
    merges = []
    for text, number in ids.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in ids and right in ids:
                merges.append((-pieces[number].score, number, ids[left], ids[right], left, right))
    return [merge[-2:] for merge in sorted(merges)]


def _piece(data: bytes) -> _Piece:
    fields = _fields(data)
    score = _bytes(fields, 2) or bytes(4)
    return _Piece(_bytes(fields, 1).decode("utf-8"), struct.unpack("<f", score)[0], _number(fields, 3, _NORMAL))


def _fields(data: bytes) -> Fields:
    """Fields of one message; numbers as they are, everything of known length as bytes."""
    found: Fields = {}
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        wire = tag & 7
        if wire == 0:
            value, place = _varint(data, place)
            found.setdefault(tag >> 3, []).append(value)
            continue
        if wire == 2:
            size, place = _varint(data, place)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {place}")
        if place + size > len(data):
            raise ValueError(f"cut off at byte {len(data)}")
        found.setdefault(tag >> 3, []).append(data[place : place + size])
        place += size
    return found


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError(f"number without end at byte {place}")


def _number(fields: Fields, number: int, default: int) -> int:
    value = fields.get(number, [default])[-1]
    if not isinstance(value, int):
        raise ValueError(f"field {number} is no number")
    return value


def _bytes(fields: Fields, number: int) -> bytes:
    value = fields.get(number, [b""])[-1]
    if not isinstance(value, bytes):
        raise ValueError(f"field {number} is no text")
    return value
