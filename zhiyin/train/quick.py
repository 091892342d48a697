"""Quick figures while training: CTC word errors and label accuracy, one forward pass per batch, no decoding loop."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from zhiyin.data.cache import Features
from zhiyin.data.examples import Example
from zhiyin.data.manifest import Record
from zhiyin.errors import UserError
from zhiyin.model.speech_lm import IGNORE, Row, Speech, SpeechLM
from zhiyin.tasks import instructions, render, table
from zhiyin.tasks.table import Task
from zhiyin.text.score import edits, words

CHUNK = 32
REQUESTS = 400


def score(figures: Mapping[str, float], best_by: str = "") -> float:
    """One number that is higher for better weights: the figure named, or the mean of all of them; errors count as lost.

    Raises:
        UserError: no figure has that name.
    """
    good = {name: 1 - value if name.startswith("ctc_wer") else value for name, value in figures.items()}
    if best_by:
        if best_by not in good:
            raise UserError(f"run: best_by names '{best_by}'; the figures are {', '.join(good) or 'none'}")
        return good[best_by]
    kept = [value for name, value in good.items() if not name.startswith("ctc_wer_")]  # parts of ctc_wer
    return sum(kept) / max(1, len(kept))


class QuickEvaluation:
    """Measures a model on a fixed set of records."""

    def __init__(
        self,
        records: Sequence[Record],
        cache: Features | None,
        tokenizer: Tokenizer,
        tasks: Sequence[Task],
        *,
        asked: Sequence[Task] = (),
        told: Sequence[Example] = (),
        label_vectors: int = 0,
        device: str,
        bf16: bool,
    ):
        """Prepare.

        Args:
            records: what is looked at.
            cache: their features; None where there are no records.
            tokenizer: of the model.
            tasks: whose labels are compared.
            asked: tasks of requests without audio, whose tags are compared.
            told: texts that are told without audio, whose answers and translations are compared.
            label_vectors: see `runtime.base.ModelSpec`.
            device: where.
            bf16: in which numbers.
        """
        self.records = sorted(records, key=lambda r: r.duration_s)
        self.cache, self.tokenizer, self.device, self.bf16 = cache, tokenizer, device, bf16
        self.label_vectors = label_vectors
        self.tasks = [task for task in tasks if task.kind == "label"]
        self.requests = [Row(_ids(tokenizer, asking), (), _ids(tokenizer, tags)) for asking, tags in _requests(asked)]
        self.told: dict[str, list[Row]] = defaultdict(list)
        for one in told:
            rows = self.told["answer" if render.ANSWER_MARK in one.heard else "translation"]
            rows.append(Row(*(_ids(tokenizer, text) for text in (one.prompt, one.heard, one.target))))

    @torch.no_grad()
    def __call__(self, model: SpeechLM) -> dict[str, float]:
        """Figures between 0 and 1: `ctc_wer` and `ctc_wer_<source>`, and the accuracy of each label task.

        Without audio: `intent`, and `answer` and `translation` of texts that are told, right to the last token.
        """
        errors: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        right: dict[str, list[bool]] = defaultdict(list)
        for start in range(0, len(self.records), CHUNK):
            chunk = self.records[start : start + CHUNK]
            with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.bf16):
                speech = self._listen(model, chunk)
                for record, heard in zip(chunk, self._ctc(model, speech), strict=True) if model.config.ctc else ():
                    if record.text:
                        for key in ("ctc_wer", f"ctc_wer_{record.source}"):
                            errors[key][0] += edits(words(record.text), words(heard))
                            errors[key][1] += len(words(record.text))
                for task in self.tasks:
                    self._labels(model, speech, chunk, task, right)
        figures = {key: wrong / max(1, total) for key, (wrong, total) in errors.items()}
        figures |= {task: sum(hits) / len(hits) for task, hits in right.items()}
        ended = (model.config.eos_id,)
        silent = {
            name: [replace(row, target=(*row.target, *ended)) for row in rows] for name, rows in self.told.items()
        }
        silent["intent"] = self.requests
        return figures | {name: self._said(model, rows) for name, rows in silent.items() if rows}

    def _said(self, model: SpeechLM, wanted: Sequence[Row]) -> float:
        """Share of rows without audio whose tokens are all the likeliest ones: what a greedy reply would be."""
        right = 0
        for start in range(0, len(wanted), CHUNK):
            with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.bf16):
                rows = model.assemble(None, wanted[start : start + CHUNK])
                hidden = model.decoder(rows.embeds_BND)[:, :-1]
                labels = rows.labels_BN[:, 1:]
                best = model.decoder.logits(hidden).argmax(-1)
            right += int(((best == labels) | (labels == IGNORE)).all(1).sum())
        return right / len(wanted)

    def _listen(self, model: SpeechLM, chunk: Sequence[Record]) -> Speech:
        assert self.cache is not None
        mels = [self.cache.get(record.id).astype(np.float32) for record in chunk]
        frames = np.array([len(mel) for mel in mels])
        padded = np.zeros((len(mels), mels[0].shape[1], frames.max()), np.float32)
        for i, mel in enumerate(mels):
            padded[i, :, : len(mel)] = mel.T
        return model.listen(torch.from_numpy(padded).to(self.device), torch.from_numpy(frames).to(self.device))

    def _ctc(self, model: SpeechLM, speech: Speech) -> list[str]:
        best = model.ctc(speech.encoded_BTE).argmax(-1).cpu().numpy()
        lengths = speech.encoded_lengths_B.cpu().numpy()
        out = []
        for path, length in zip(best, lengths, strict=True):
            path = path[:length]
            kept = path[np.concatenate([[True], path[1:] != path[:-1]])]
            out.append(self.tokenizer.decode([int(i) for i in kept if i != 0]))
        return out

    def _labels(
        self, model: SpeechLM, speech: Speech, chunk: Sequence[Record], task: Task, right: dict[str, list[bool]]
    ) -> None:
        keep = [i for i, record in enumerate(chunk) if task.id in record.labels]
        if not keep:
            return
        counts_B = speech.vector_counts_B[keep]
        part = Speech(
            speech.encoded_BTE[keep],
            speech.encoded_lengths_B[keep],
            speech.vectors_BSD[keep],
            counts_B.clamp(max=self.label_vectors) if self.label_vectors else counts_B,
        )
        spelt = [_ids(self.tokenizer, f"<{label}>") for label in task.labels]
        prompt = _ids(self.tokenizer, task.tag)
        if all(len(ids) == 1 for ids in spelt):  # the first scores of a reply tell
            rows = model.assemble(part, [Row(before=prompt)] * len(keep))
            hidden = model.decoder(rows.embeds_BND)
            last = hidden[torch.arange(len(keep)), torch.as_tensor(rows.lengths) - 1]
            scores_BL = model.decoder.logits(last)[:, [ids[0] for ids in spelt]]
        else:
            scores_BL = torch.stack([_score(model, part, prompt, ids) for ids in spelt], 1)
        for i, choice in zip(keep, scores_BL.argmax(-1).tolist(), strict=True):
            right[task.id].append(task.labels[choice] == chunk[i].labels[task.id])


def _score(model: SpeechLM, speech: Speech, prompt: Sequence[int], reply: Sequence[int]) -> Tensor:
    """Log-probability [B] of a reply."""
    rows = model.assemble(speech, [Row(before=prompt, target=reply)] * len(speech.vector_counts_B))
    labels_BN = rows.labels_BN[:, 1:]
    log_BNV = model.decoder.logits(model.decoder(rows.embeds_BND)[:, :-1]).float().log_softmax(-1)
    said = log_BNV.gather(-1, labels_BN.clamp(min=0)[:, :, None])[:, :, 0]
    return (said * (labels_BN != IGNORE)).sum(1)


def _requests(tasks: Sequence[Task]) -> list[tuple[str, str]]:
    """Requests for these tasks in wordings that training never sees, evenly chosen, and their tags."""
    known = {task.id for task in tasks}
    fitting = [(text, ids) for text, ids in instructions.expected("dev") if known and set(ids) <= known]
    chosen = fitting[:: max(1, len(fitting) // REQUESTS)]
    return [(text, render.tags(table.select(ids)) if ids else render.NO_TASK) for text, ids in chosen]


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)
