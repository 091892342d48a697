"""Tiny random models of the Hugging Face families, from the real configuration classes, saved as on the hub."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GraniteConfig,
    GraniteSpeechConfig,
    GraniteSpeechForConditionalGeneration,
    GraniteSpeechPlusConfig,
    GraniteSpeechPlusForConditionalGeneration,
)
from transformers.models.granite_speech.configuration_granite_speech import GraniteSpeechEncoderConfig
from transformers.models.granite_speech_plus.configuration_granite_speech_plus import GraniteSpeechPlusEncoderConfig

SPECIALS = ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>", "<|audio|>")
END, AUDIO, VOCABULARY = 256, 259, 260  # after the 256 bytes, where nothing was taught
LANGUAGE = "model.language_model."
MOST_STEPS = 600

_ENCODER = {
    "input_dim": 160,
    "num_layers": 4,
    "hidden_dim": 32,
    "num_heads": 2,
    "output_dim": 20,
    "context_size": 20,  # a second of sound is two and a half blocks
    "max_pos_emb": 24,
    "conv_kernel_size": 5,
}
_TEXT = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "embedding_multiplier": 12.0,
    "logits_scaling": 8.0,
    "attention_multiplier": 1 / 16,
    "residual_multiplier": 0.22,
}


@dataclass(frozen=True)
class Lesson:
    """What a model shall say: features [160, F], the text before and after the speech, and the reply."""

    features_MF: np.ndarray
    before: str
    after: str
    reply: str


def granite(folder: Path, lessons: Sequence[Lesson] = (), **changes: object) -> Path:
    """A Granite Speech model; `changes` are of its configuration."""
    torch.manual_seed(3)
    words = tokenizer(lessons)
    config = GraniteSpeechConfig(
        encoder_config=GraniteSpeechEncoderConfig(**_ENCODER).to_dict(),
        **{**_parts(32, words), "tie_word_embeddings": False, **changes},
    )
    return _save(folder, GraniteSpeechForConditionalGeneration(config), words, lessons)


def granite_plus(folder: Path, lessons: Sequence[Lesson] = ()) -> Path:
    """A Granite Speech Plus model: its projector also sees what leaves the first layer."""
    torch.manual_seed(3)
    words = tokenizer(lessons)
    encoder = GraniteSpeechPlusEncoderConfig(**_ENCODER, cat_hidden_layers=[1])
    config = GraniteSpeechPlusConfig(encoder_config=encoder.to_dict(), **_parts(64, words), tie_word_embeddings=True)
    return _save(folder, GraniteSpeechPlusForConditionalGeneration(config), words, lessons)


def tokenizer(lessons: Sequence[Lesson] = ()) -> Tokenizer:
    """Bytes, the words of the lessons, and the special tokens of Granite."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    texts = [text for lesson in lessons for text in (lesson.before, lesson.after, lesson.reply)]
    trainer = trainers.BpeTrainer(
        vocab_size=256 + 400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    return made


def _parts(encoder_width: int, words: Tokenizer) -> dict[str, object]:
    projector = {
        "model_type": "blip_2_qformer",
        "hidden_size": 32,
        "encoder_hidden_size": encoder_width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "cross_attention_frequency": 1,
    }
    end, *_, audio = (words.token_to_id(name) for name in SPECIALS)
    ids = {"vocab_size": words.get_vocab_size(), "bos_token_id": end, "eos_token_id": end, "pad_token_id": 0}
    return {
        "text_config": GraniteConfig(**_TEXT, **ids).to_dict(),
        "projector_config": projector,
        "audio_token_index": audio,
        "has_lora_adapter": False,
    }


def _save(folder: Path, model: Any, words: Tokenizer, lessons: Sequence[Lesson]) -> Path:
    model.eval().requires_grad_(False)
    for name, value in model.state_dict().items():  # no weight stays at the zeros and ones of its making
        if value.is_floating_point() and not (lessons and name.startswith(LANGUAGE)):
            value.copy_(value + torch.randn(value.shape) * 0.4 * value.shape[-1] ** -0.5)
        if name.endswith("running_var"):
            value.abs_()
    if lessons:
        _teach(model, words, lessons)
    else:  # of both signs: else a tied model repeats its last token for ever
        model.model.language_model.norm.weight.normal_()
    model.generation_config.eos_token_id = words.token_to_id(SPECIALS[0])
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder, max_shard_size="200KB")
    words.save(str(folder / "tokenizer.json"))
    return folder


def _teach(model: Any, words: Tokenizer, lessons: Sequence[Lesson]) -> None:
    """Learn the replies by heart. Only the language model learns: random ears hear enough to tell sounds apart."""
    language, head = model.model.language_model, model.lm_head
    embed = language.get_input_embeddings()
    learning = list(dict.fromkeys([*language.parameters(), *head.parameters()]))  # they may be tied
    pieces = [_pieces(model, words, lesson) for lesson in lessons]
    for parameter in learning:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(learning, lr=4e-3, weight_decay=0.0)
    for step in range(MOST_STEPS):
        rows = [torch.cat([embed(before), heard, embed(after), embed(reply)]) for before, heard, after, reply in pieces]
        batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # what is padded comes last and is not scored
        hidden = language(inputs_embeds=batch, use_cache=False).last_hidden_state
        losses = torch.stack(
            [
                torch.nn.functional.cross_entropy(head(hidden[i, len(row) - len(reply) - 1 : len(row) - 1]), reply)
                for i, (row, (*_, reply)) in enumerate(zip(rows, pieces, strict=True))
            ]
        )
        worst = losses.max().item()
        if worst < 0.05:
            break
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / MOST_STEPS)
        optimizer.zero_grad()
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
    assert worst < 0.2, f"not learned: {worst}"
    model.requires_grad_(False)


def _pieces(model: Any, words: Tokenizer, lesson: Lesson) -> tuple[torch.Tensor, ...]:
    """Ids before the speech, its vectors, ids after it, ids of the reply with its end."""
    features = torch.from_numpy(np.ascontiguousarray(lesson.features_MF.T))[None]
    heard = model.model.get_audio_features(features, return_dict=True).pooler_output[0]
    texts = (lesson.before, lesson.after, lesson.reply + SPECIALS[0])
    before, after, reply = (
        torch.tensor(words.encode(t, add_special_tokens=False).ids, dtype=torch.long) for t in texts
    )
    return before, heard, after, reply
