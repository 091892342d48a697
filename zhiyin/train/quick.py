"""Quick figures while training: CTC word errors and label accuracy, one forward pass per batch, no decoding loop."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from tokenizers import Tokenizer

from zhiyin.data.cache import FeatureCache
from zhiyin.data.manifest import Record
from zhiyin.model.speech_lm import Row, Speech, SpeechLM
from zhiyin.tasks.table import Task
from zhiyin.text.score import edits, words

CHUNK = 32


class QuickEvaluation:
    """Measures a model on a fixed set of records."""

    def __init__(
        self,
        records: Sequence[Record],
        cache: FeatureCache,
        tokenizer: Tokenizer,
        tasks: Sequence[Task],
        *,
        device: str,
        bf16: bool,
    ):
        self.records = sorted(records, key=lambda r: r.duration_s)
        self.cache, self.tokenizer, self.device, self.bf16 = cache, tokenizer, device, bf16
        # a label that is several tokens cannot be told from the first scores of a reply
        vocabulary = tokenizer.get_vocab()
        known = [task for task in tasks if all(f"<{label}>" in vocabulary for label in task.labels)]
        self.tasks = [task for task in known if task.kind == "label"]

    @torch.inference_mode()
    def __call__(self, model: SpeechLM) -> dict[str, float]:
        """Figures between 0 and 1: `ctc_wer` and `ctc_wer_<source>`, and the accuracy of each label task."""
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
        return figures | {task: sum(hits) / len(hits) for task, hits in right.items()}

    def _listen(self, model: SpeechLM, chunk: Sequence[Record]) -> Speech:
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
        prompt = self.tokenizer.encode(task.tag, add_special_tokens=False).ids
        choices = [self.tokenizer.token_to_id(f"<{label}>") for label in task.labels]
        keep = [i for i, record in enumerate(chunk) if task.id in record.labels]
        if not keep:
            return
        part = Speech(
            speech.encoded_BTE[keep],
            speech.encoded_lengths_B[keep],
            speech.vectors_BSD[keep],
            speech.vector_counts_B[keep],
        )
        rows = model.assemble(part, [Row(before=prompt)] * len(keep))
        hidden = model.decoder(rows.embeds_BND)
        last = hidden[torch.arange(len(keep)), torch.as_tensor(rows.lengths) - 1]
        logits = model.decoder.logits(last)[:, choices]
        for i, choice in zip(keep, logits.argmax(-1).tolist(), strict=True):
            right[task.id].append(task.labels[choice] == chunk[i].labels[task.id])
