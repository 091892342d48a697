"""Tiny random models of the families after Granite, from the real configuration classes, saved as on the hub."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

END, AUDIO = 256, 257  # after the 256 bytes
SPECIALS = {
    "fun_asr_nano": ("<|im_end|>", "<|object_ref_start|>", "<|im_start|>"),
    "qwen3_asr": ("<|im_end|>", "<|audio_pad|>", "<|im_start|>", "<|audio_start|>", "<|audio_end|>", "<asr_text>"),
    "qwen2_audio": ("<|im_end|>", "<|AUDIO|>", "<|im_start|>", "<|audio_bos|>", "<|audio_eos|>", "<|en|>"),
    "voxtral": ("</s>", "[AUDIO]", "<s>", "[INST]", "[/INST]", "[BEGIN_AUDIO]", "[TRANSCRIBE]"),
}

_TEXT = {
    "vocab_size": 272,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "bos_token_id": END,
    "eos_token_id": END,
    "pad_token_id": 0,
}
_WHISPER = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "max_source_positions": 1500,
}


def fun_asr_nano(folder: Path, *, seed: int = 5) -> Path:
    """Two blocks for the text, one for the times, and one adaptor block."""
    audio = {
        "model_type": "fun_asr_nano_encoder",
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_timestamp_prediction_layers": 1,
        "max_position_embeddings": 600,
    }
    adaptor = {"hidden_size": 48, "num_attention_heads": 2, "intermediate_size": 12, "num_hidden_layers": 1}
    config = transformers.FunAsrNanoConfig(
        audio_config=audio,
        adaptor_config={**adaptor, "projector_hidden_size": 40},
        text_config={"model_type": "qwen3", "tie_word_embeddings": True, **_TEXT},
        audio_token_id=AUDIO,
    )
    return _save(folder, transformers.FunAsrNanoForConditionalGeneration, config, seed)


def qwen3_asr(folder: Path, *, seed: int = 5) -> Path:
    """Its attention sees two chunks of one second at once."""
    audio = {
        "model_type": "qwen3_asr_encoder",
        "num_mel_bins": 128,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "d_model": 32,
        "output_dim": 48,
        "n_window": 50,
        "n_window_infer": 200,
        "downsample_hidden_size": 8,
    }
    config = transformers.Qwen3ASRConfig(
        audio_config=audio,
        text_config={"model_type": "qwen3", "tie_word_embeddings": True, **_TEXT},
        audio_token_id=AUDIO,
        eos_token_id=[END],
        pad_token_id=0,
    )
    return _save(folder, transformers.Qwen3ASRForConditionalGeneration, config, seed)


def qwen2_audio(folder: Path, *, seed: int = 5) -> Path:
    """Whisper's encoder with a mask, and a pooling by two."""
    config = transformers.Qwen2AudioConfig(
        audio_config={"model_type": "qwen2_audio_encoder", "num_mel_bins": 128, **_WHISPER},
        text_config={"model_type": "qwen2", **{name: _TEXT[name] for name in _TEXT if name != "head_dim"}},
        audio_token_index=AUDIO,
    )
    return _save(folder, transformers.Qwen2AudioForConditionalGeneration, config, seed)


def voxtral(folder: Path, *, seed: int = 5) -> Path:
    """Whisper's encoder, four of its frames in one vector."""
    audio = {
        "model_type": "voxtral_encoder",
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_mel_bins": 128,
        "max_source_positions": 1500,
    }
    config = transformers.VoxtralConfig(
        audio_config=audio, text_config={"model_type": "llama", **_TEXT}, audio_token_id=AUDIO
    )
    return _save(folder, transformers.VoxtralForConditionalGeneration, config, seed)


def tokenizer(model_type: str) -> Tokenizer:
    """Bytes, and the special tokens of the family."""
    bytes_ = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=bytes_, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS[model_type]])
    return made


def sound(seconds: float, seed: int) -> NDArray[np.float32]:
    """A tone that glides, and noise that swells: no two moments alike."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * 16_000)) / 16_000
    glide = 0.2 * np.sin(2 * np.pi * (150 + 60 * seed + 90 * time_s) * time_s)
    swell = 0.05 * (1 + np.sin(5 * time_s + seed))
    return (glide + swell * rng.standard_normal(len(time_s))).astype(np.float32)


def three_utterances(repository: Path, folder: Path) -> Path:
    """A file of spoken words with a second of silence after each utterance, long enough to part them."""
    parts = []
    for name in ("digits-1", "words-1", "digits-2"):
        samples_T, rate_hz = soundfile.read(repository / "samples" / f"{name}.flac", dtype="float32")
        assert rate_hz == 16_000
        parts += [samples_T, np.zeros(16_000, np.float32)]
    soundfile.write(folder / "three.flac", np.concatenate(parts), 16_000)
    return folder / "three.flac"


def _save(folder: Path, architecture: Any, config: Any, seed: int) -> Path:
    torch.manual_seed(seed)
    model = architecture(config).eval().requires_grad_(False)
    for parameter in model.parameters():  # no weight stays at the zeros and ones of its making
        parameter.add_(torch.randn(parameter.shape) * 0.5 * parameter.shape[-1] ** -0.5)
    # Of both signs: else a tied model repeats its last token for ever.
    model.model.language_model.norm.weight.normal_()
    model.generation_config.eos_token_id = END
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    tokenizer(config.model_type).save(str(folder / "tokenizer.json"))
    return folder
