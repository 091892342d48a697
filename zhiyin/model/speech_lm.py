"""The speech language model: encoder, projector and decoder, with speech vectors placed in the prompt.

One row of a batch reads ``[before] [begin] [speech] [end] [after] [target eos]``; training looks at the target only.
Shapes: `B` batch, `M` mel bins, `F` mel frames, `T` encoder frames, `S` speech vectors, `N` sequence, `D` width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from zhiyin.model.config import ModelConfig
from zhiyin.model.decoder import Decoder
from zhiyin.model.encoder import Encoder, length_mask
from zhiyin.model.projector import Projector

Labels = Sequence[tuple[int, tuple[int, ...]]]  # of an utterance: pairs of a label and all labels of its task
IGNORE = -100  # label value without loss, as in torch and transformers


@dataclass(frozen=True)
class Row:
    """Token ids of one sequence; `target` is empty at generation and ends with the end token in training."""

    before: Sequence[int] = ()
    after: Sequence[int] = ()
    target: Sequence[int] = ()


@dataclass(frozen=True)
class Sequences:
    """A right-padded batch for the decoder."""

    embeds_BND: Tensor
    labels_BN: Tensor  # token id to be predicted *at* this place, IGNORE elsewhere
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Speech:
    """What the encoder and projector made of a batch of audio."""

    encoded_BTE: Tensor
    encoded_lengths_B: Tensor
    vectors_BSD: Tensor
    vector_counts_B: Tensor
    whole_vectors: int = 0  # so many of the first ones are those of `Voice` and `Pace`

    def voice_alone(self, rows_B: Tensor) -> "Speech":
        """The same, but of the rows marked only the vectors of the whole utterance count."""
        return replace(self, vector_counts_B=torch.where(rows_B, self.whole_vectors, self.vector_counts_B))

    def rows(self) -> Sequence[Tensor]:
        """Each utterance's own vectors, without padding; one look-up, so that the gradient is written once."""
        mask = length_mask(self.vector_counts_B, self.vectors_BSD.shape[1])
        return self.vectors_BSD[mask].split(self.vector_counts_B.tolist())


class SpeechLM(nn.Module):
    """Encoder, projector, decoder, two marker vectors around the speech, and an optional CTC head."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        self.projector = Projector(config.projector, config.encoder.width, config.decoder.width)
        self.decoder = Decoder(config.decoder)
        self.markers = nn.Parameter(torch.zeros(2, config.decoder.width))  # begin, end of speech
        if config.ctc:
            self.ctc = nn.Linear(config.encoder.width, config.decoder.vocab_size)

    def listen(self, mel_BMF: Tensor, frames_B: Tensor) -> Speech:
        """Run encoder and projector on a right-padded batch of log-mel features.

        The vectors of `Voice` and `Pace`, where the model has them, come first.
        """
        encoded, encoded_lengths = self.encoder(mel_BMF, frames_B)
        vectors, counts = self.projector(encoded, encoded_lengths)
        whole = []
        if self.config.projector.voice_mels is not None:
            whole.append(self.projector.voice(mel_BMF, frames_B))
        if self.config.projector.pace:
            whole.append(self.projector.pace(encoded, encoded_lengths))
        if whole:
            vectors = torch.cat([*(vector.to(vectors.dtype) for vector in whole), vectors], 1)
            counts = counts + len(whole)
        return Speech(encoded, encoded_lengths, vectors, counts, len(whole))

    def assemble(self, speech: Speech | None, rows: Sequence[Row]) -> Sequences:
        """Put each row's tokens around its speech vectors; without speech, a text-only row."""
        pieces = iter(self._embed([piece for row in rows for piece in (row.before, row.after, row.target)]))
        vectors = iter(speech.rows() if speech is not None else ())
        begin, end = self.markers[:1], self.markers[1:]
        embeds, labels = [], []
        for row in rows:
            before, after, target = next(pieces), next(pieces), next(pieces)
            middle = () if speech is None else (begin, next(vectors), end)
            embeds.append(torch.cat([part.to(self.markers.dtype) for part in (before, *middle, after, target)]))
            label = torch.full((len(embeds[-1]),), IGNORE, device=self.markers.device)
            if row.target:
                label[-len(row.target) :] = torch.as_tensor(row.target, device=label.device)
            labels.append(label)
        return Sequences(
            nn.utils.rnn.pad_sequence(embeds, batch_first=True),
            nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORE),
            tuple(len(row) for row in embeds),
        )

    def loss(
        self, sequences: Sequences, *, label_smoothing: float = 0.0, weights_V: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy per target token, averaged over the whole batch, and the logits [tokens, V] behind it.

        Args:
            sequences: what `assemble` made.
            label_smoothing: share of the target spread over the vocabulary.
            weights_V: weight of each token in the average; by default all count the same.
        """
        hidden = self.decoder(sequences.embeds_BND)[:, :-1]
        labels = sequences.labels_BN[:, 1:]
        scored = labels != IGNORE
        logits = self.decoder.logits(hidden[scored]).float()
        return fn.cross_entropy(logits, labels[scored], weight=weights_V, label_smoothing=label_smoothing), logits

    def voice_loss(self, speech: Speech, labels_B: Sequence[Labels], *, label_smoothing: float = 0.0) -> Tensor:
        """How far the vectors of `Voice` and `Pace` are from the labels of their utterance; mean over both and labels.

        Each is read as the decoder reads its own last vectors: were it handed on as it is, the label would be said.
        Cross-entropy among the labels of a task. A decoder that must find out by itself what to read from these vectors
        needs many times the steps (docs/log.md). The reading: nostalgebraist 2020, "interpreting GPT: the logit lens".

        Args:
            speech: what `listen` made.
            labels_B: what is known of each row: tokens of a label and of all labels of its task. None: it adds nothing.
            label_smoothing: share of the target spread over the labels of the task.
        """
        count = speech.whole_vectors
        total, said = speech.vectors_BSD.new_zeros((), dtype=torch.float32), 0
        known = [(row, *label) for row, labels in enumerate(labels_B) for label in labels]
        for choices in dict.fromkeys(choices for _, _, choices in known):
            part = [(row, choices.index(label)) for row, label, others in known if others == choices]
            whole_KWD = speech.vectors_BSD[[row for row, _ in part], :count]
            scores = self.decoder.logits(self.decoder.norm(whole_KWD))[..., list(choices)].float()
            truth = torch.as_tensor([place for _, place in part], device=scores.device).repeat_interleave(count)
            total = total + fn.cross_entropy(
                scores.flatten(0, 1), truth, label_smoothing=label_smoothing, reduction="sum"
            )
            said += len(part) * count
        return total / max(1, said)

    def ctc_loss(self, encoded_BTE: Tensor, lengths_B: Tensor, targets: Sequence[Sequence[int] | None]) -> Tensor:
        """Connectionist temporal classification loss per target token, of what the encoder gave; id 0 is the blank.

        Rows whose target is None (unknown) are left out; an empty one says that nothing is spoken, and every frame
        is to be blank. Rows too long for their audio add nothing.
        Source: Graves et al. 2006, by `torch.nn.functional.ctc_loss`.
        """
        known = {i: target for i, target in enumerate(targets) if target is not None}
        if not known:
            return encoded_BTE.new_zeros(())
        keep = list(known)
        logits = self.ctc(encoded_BTE[keep]).float().log_softmax(-1).transpose(0, 1)
        flat = torch.as_tensor([token for target in known.values() for token in target], device=logits.device)
        sizes = torch.as_tensor([len(target) for target in known.values()], device=logits.device)
        total = fn.ctc_loss(logits, flat, lengths_B[keep], sizes, blank=0, reduction="sum", zero_infinity=True)
        return total / sizes.clamp(min=1).sum()

    def _embed(self, pieces: Sequence[Sequence[int]]) -> Sequence[Tensor]:
        """Embeddings of each piece, looked up at once: every look-up costs a gradient the size of the whole table."""
        ids = [token for piece in pieces for token in piece]
        index = torch.as_tensor(ids, dtype=torch.long, device=self.markers.device)
        return self.decoder.embed_tokens(index).split([len(piece) for piece in pieces])
