"""Tiny random models of `transformers`, saved as their folders are published, for the tests of what reads them."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

VOCABULARY = 61  # rows of the decoders' tables; the tokenizer has fewer, as Qwen's
WORDS = ["<pad>", "<s>", "</s>", "<unk>", "<stop>", "the", "light", "on", "off", "turn"]

WHISPER = {
    "num_mel_bins": 80,
    "d_model": 24,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 32,
    "max_source_positions": 50,
    "max_target_positions": 20,
    "vocab_size": 70,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 3,
}
DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 200,
    "rms_norm_eps": 3e-6,
    "eos_token_id": 2,
}
# name -> class of transformers, settings
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2", {"rope_theta": 1e6}),
    "qwen2 tied": ("Qwen2", {"rope_theta": 1e6, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"rope_theta": 1e6, "head_dim": 16}),
    "llama": ("Llama", {"rope_theta": 5e5}),
    "llama old": ("Llama", {"num_key_value_heads": 4}),
    "openpangu": ("Llama", {"rope_theta": 16e6, "attention_bias": True}),
}


def whisper(folder: Path, *, kind: str = "WhisperForConditionalGeneration", **changed: Any) -> torch.nn.Module:
    """A Whisper folder; the model that is in it."""
    model = _stirred(getattr(transformers, kind)(transformers.WhisperConfig(**{**WHISPER, **changed})))
    model.save_pretrained(folder)
    return model


def decoder(folder: Path, name: str, *, shard: str = "10GB", **changed: Any) -> torch.nn.Module:
    """A decoder folder with a tokenizer; the model that is in it."""
    kind, settings = DECODERS[name]
    config = getattr(transformers, f"{kind}Config")(**{**DECODER, **settings, **changed})
    model = _stirred(getattr(transformers, f"{kind}ForCausalLM")(config))
    model.save_pretrained(folder, max_shard_size=shard)
    if name == "openpangu":
        edit(folder / "config.json", model_type="PanguEmbedded", bias=True, attention_bias=None, mlp_bias=None,
             auto_map={"AutoModelForCausalLM": "modeling_openpangu_dense.PanguEmbeddedForCausalLM"})  # fmt: skip
        (folder / "modeling_openpangu_dense.py").write_text("raise SystemExit('code of the folder was run')\n")
    if name == "llama old":  # as the first Llama was published
        edit(folder / "config.json", head_dim=None, num_key_value_heads=None, rope_parameters=None,
             tie_word_embeddings=None, mlp_bias=None, attention_bias=None)  # fmt: skip
    tokenizer().save(str(folder / "tokenizer.json"))
    return model


def tokenizer() -> Tokenizer:
    """One token per word."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def edit(path: Path, **changed: Any) -> None:
    """Change fields of a JSON file; None removes one."""
    record = {**json.loads(path.read_text(encoding="utf-8")), **changed}
    path.write_text(json.dumps({k: v for k, v in record.items() if v is not None}), encoding="utf-8")


def openai(state: dict[str, torch.Tensor], dims: dict[str, int]) -> dict[str, Any]:
    """What OpenAI's file of a Whisper model holds: the names of its `model.py`."""
    names = {
        "encoder.layer_norm.": "encoder.ln_post.",
        "decoder.layer_norm.": "decoder.ln.",
        "encoder.embed_positions.weight": "encoder.positional_embedding",
        "decoder.embed_positions.weight": "decoder.positional_embedding",
        "decoder.embed_tokens.": "decoder.token_embedding.",
        ".encoder_attn_layer_norm.": ".cross_attn_ln.",
        ".self_attn_layer_norm.": ".attn_ln.",
        ".final_layer_norm.": ".mlp_ln.",
        ".fc1.": ".mlp.0.",
        ".fc2.": ".mlp.2.",
        ".encoder_attn.": ".cross_attn.",
        ".self_attn.": ".attn.",
        ".q_proj.": ".query.",
        ".k_proj.": ".key.",
        ".v_proj.": ".value.",
        ".out_proj.": ".out.",
        ".layers.": ".blocks.",
    }
    renamed = {}
    for key, tensor in state.items():
        if key.startswith("proj_out"):
            continue
        name = key.removeprefix("model.")
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        renamed[name] = tensor.clone()
    return {"dims": dims, "model_state_dict": renamed}


def dims(**changed: int) -> dict[str, int]:
    """Sizes as OpenAI's files have them, of `WHISPER`."""
    sizes = {"n_mels": 80, "n_vocab": 70, "n_audio_ctx": 50, "n_audio_state": 24, "n_audio_head": 4, "n_audio_layer": 2}
    return {**sizes, "n_text_ctx": 20, "n_text_state": 24, "n_text_head": 2, "n_text_layer": 1, **changed}


def _stirred(model: torch.nn.Module) -> torch.nn.Module:
    """Biases and norms start as zeros and ones, which would hide faults; the position table is a constant."""
    for name, parameter in model.named_parameters():
        if "embed_positions" not in name:
            parameter.data += torch.randn_like(parameter) * 0.2
    return model.eval()
