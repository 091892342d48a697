"""A tiny random checkpoint with enough layers to hide a fault in, and a whole copy of it."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models

from zhiyin.model import checkpoint
from zhiyin.model.config import DecoderConfig, EncoderConfig, ModelConfig, ProjectorConfig
from zhiyin.model.speech_lm import SpeechLM

VOCABULARY = 61
ENCODER = EncoderConfig(
    width=32, num_layers=5, num_heads=2, ffn_width=48, max_positions=300, conv_strides=(2, 2), conv_kernel=5
)
PROJECTOR = ProjectorConfig((1, 2), width=32, num_layers=1, num_heads=2, ffn_width=48, max_positions=150)
DECODER = DecoderConfig(
    vocab_size=VOCABULARY,
    width=32,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_width=16,
    ffn_width=48,
    rope_theta=10_000.0,
)
SPEC = {
    "name": "tiny",
    "tasks": ["asr"],
    "max_window_s": 10.0,
    "max_tokens": 160,
    "time_step_s": 0.04,
    "ctc_transcript": True,
}


def write(folder: Path, *, seed: int = 7) -> Path:
    """Write it; the same seed gives the same weights."""
    torch.manual_seed(seed)
    model = SpeechLM(ModelConfig(ENCODER, PROJECTOR, DECODER, ctc=True, eos_id=5)).eval().requires_grad_(False)
    for parameter in model.parameters():  # no weight stays at the zeros and ones of its making
        parameter.add_(torch.randn(parameter.shape) * 0.5 * parameter.shape[-1] ** -0.5)
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(VOCABULARY)}, unk_token="t0"))
    checkpoint.save(folder, model, SPEC, words.to_str())
    return folder
