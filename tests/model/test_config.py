"""Sizes as a record in `config.json`: round trip, refusals, and the published sizes of the defaults."""

import json

import pytest
import torch

from zhiyin.errors import UserError
from zhiyin.model.config import DecoderConfig, EncoderConfig, ModelConfig, ProjectorConfig
from zhiyin.model.speech_lm import SpeechLM


def test_round_trip_through_json():
    config = ModelConfig(EncoderConfig(width=64, conv_strides=(2, 2)), decoder=DecoderConfig(qk_norm=True), ctc=True)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("strides", "frames"), [((1, 2), 8), ((2, 2), 16)], ids=["whisper: 80 ms", "pocket with the same projector: 160 ms"]
)
def test_frames_per_vector(strides, frames):
    assert ModelConfig(EncoderConfig(conv_strides=strides)).frames_per_vector == frames


@pytest.mark.parametrize(
    "record",
    [
        {"encoder": {"widht": 3}},
        {"encoder": 3},
        {"decoder": {"num_layers": "many"}},
        {"decoder": {"num_layers": 0}},
        {"decoder": {"num_heads": 28, "num_kv_heads": 5}},
        {"decoder": {"head_width": 7}},
        {"projector": {"width": 10, "num_heads": 4}},
        {"projector": {"voice_stats": "functional", "voice_mels": 80}},
        {"projector": {"voice_stats": "functionals"}},
        {"projector": {"voice_stats": "functionals", "voice_mels": 28}},
        {"projector": {"voice_dropout": 1.0}},
    ],
)
def test_a_wrong_record_is_one_clear_line(record):
    with pytest.raises(UserError) as error:
        ModelConfig.from_dict(record)
    assert "\n" not in str(error.value)


def test_the_defaults_have_osums_published_sizes(shared):
    """Parameter counts by component of the full-size reference without LoRA, less what text never uses."""
    published = json.loads((shared / "golden" / "keys_fullsize.json").read_text())["osum"]["without_lora"]
    counts = published["parameters_by_module"]
    with torch.device("meta"):
        model = SpeechLM(ModelConfig())

    def size(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert size(model.encoder) == counts["encoder"]
    assert size(model.decoder) == counts["llama_model"]
    assert size(model.projector) == sum(
        counts[name] for name in ("down_sample_2", "speech_transformer", "speech_llama_proj")
    )
    assert ProjectorConfig().max_positions == 5000
