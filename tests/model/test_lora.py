"""Adapters: peft computes the same with our files, we with peft's, and merged weights compute the same without."""

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from zhiyin.errors import UserError  # noqa: E402
from zhiyin.model import checkpoint, lora  # noqa: E402
from zhiyin.model.config import DecoderConfig, EncoderConfig, ModelConfig, ProjectorConfig  # noqa: E402
from zhiyin.model.lora import LoraConfig  # noqa: E402
from zhiyin.model.speech_lm import SpeechLM  # noqa: E402

CONFIG = LoraConfig(
    r=3, alpha=12, dropout=0.2, targets=("q_proj", "o_proj", "down_proj", "encoder.blocks.0.attn.query")
)


def model() -> SpeechLM:
    torch.manual_seed(0)
    common = {"width": 16, "num_layers": 2, "num_heads": 2, "ffn_width": 24, "max_positions": 64}
    decoder = DecoderConfig(20, 16, 2, 2, 1, 8, 24)
    return SpeechLM(ModelConfig(EncoderConfig(num_mels=8, **common), ProjectorConfig((1,), **common), decoder)).eval()


def adapted() -> SpeechLM:
    """With adapters that change something."""
    made = model()
    lora.attach(made, CONFIG)
    torch.manual_seed(1)
    for module in made.modules():
        if isinstance(module, lora.LoraLinear):
            nn.init.normal_(module.lora_B.weight, std=0.3)
    return made.eval()


@torch.no_grad()
def computed(made: nn.Module) -> torch.Tensor:
    """Logits of a short input, by way of encoder, projector and decoder."""
    base = made.get_base_model() if hasattr(made, "get_base_model") else made
    mel = torch.randn(1, 8, 20, generator=torch.Generator().manual_seed(2))
    speech = base.listen(mel, torch.tensor([20]))
    return base.decoder.logits(base.decoder(speech.vectors_BSD))


def test_new_adapters_change_nothing_and_train_alone() -> None:
    plain, made = model(), model()
    names = lora.attach(made, CONFIG)
    assert len(names) == 2 * 3 + 1 and "encoder.blocks.0.attn.query" in names
    assert torch.equal(computed(plain), computed(made.eval()))
    assert {n for n in made.state_dict() if not lora.is_adapter(n)} == set(plain.state_dict())


def test_merged_weights_compute_the_same(tmp_path: Path) -> None:
    made = adapted()
    expected, before = computed(made), computed(model())
    assert (expected - before).abs().max() > 1e-2
    streamed = dict(lora.merged_tensors(made))
    lora.merge(made)
    assert not any(isinstance(module, lora.LoraLinear) for module in made.modules())
    torch.testing.assert_close(computed(made), expected, rtol=1e-4, atol=1e-5)
    state = made.state_dict()
    assert streamed.keys() == state.keys() and all(torch.equal(streamed[name], state[name]) for name in state)
    checkpoint.save(tmp_path / "merged", made, {"name": "x"}, '{"version":"1.0"}')
    loaded, _ = checkpoint.load(tmp_path / "merged")
    torch.testing.assert_close(computed(loaded), expected, rtol=1e-4, atol=1e-5)


def test_peft_reads_our_adapters(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    made = adapted()
    lora.save(tmp_path, made, CONFIG, "base")
    theirs = peft.PeftModel.from_pretrained(model(), str(tmp_path)).eval()
    torch.testing.assert_close(computed(theirs), computed(made), rtol=1e-5, atol=1e-6)
    merged = theirs.merge_and_unload()
    lora.merge(made)
    for name, value in merged.state_dict().items():
        torch.testing.assert_close(made.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_we_read_the_adapters_of_peft(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=3, lora_alpha=5, lora_dropout=0.1, target_modules=["v_proj", "gate_proj"])
    theirs = peft.get_peft_model(model(), settings)
    torch.manual_seed(3)
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    theirs.eval().save_pretrained(str(tmp_path))
    ours = model()
    config = lora.load(tmp_path, ours)
    assert (config.r, config.alpha, len(config.targets)) == (3, 5.0, 4)
    torch.testing.assert_close(computed(ours.eval()), computed(theirs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_dora": True}, "it uses use_dora"),
        ({"bias": "all"}, "it uses bias"),
        ({"peft_type": "IA3"}, "of the type 'IA3'; only LORA"),
        ({"r": 4}, r"lora_A.weight is \(3, 24\), the model's is \(4, 24\)"),
    ],
)
def test_what_we_would_compute_otherwise_is_refused(tmp_path: Path, change: dict[str, object], said: str) -> None:
    lora.save(tmp_path, adapted(), CONFIG, "base")
    about = json.loads((tmp_path / lora.CONFIG).read_text())
    (tmp_path / lora.CONFIG).write_text(json.dumps({**about, **change}))
    with pytest.raises(UserError, match=said):
        lora.load(tmp_path, model())


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"targets name 'q_prj', which is no linear layer .* q_proj"):
        lora.attach(model(), LoraConfig(targets=("q_prj",)))
    with pytest.raises(UserError, match="no linear layer"):  # the table's weight is read without calling the layer
        lora.attach(model(), LoraConfig(targets=("lm_head",)))
    with pytest.raises(UserError, match="r is at least 1"):
        LoraConfig(r=0)
    with pytest.raises(UserError, match=r"it cannot be read .*adapter_config.json"):
        lora.load(tmp_path, model())


def test_dropout_is_of_the_adapter_alone() -> None:
    made = adapted()
    layer = made.decoder.layers[0].self_attn.q_proj.train()
    x = torch.ones(4, 16)
    torch.manual_seed(5)
    low = nn.functional.dropout(x, 0.2)
    expected = x @ layer.weight.T + layer.bias + low @ layer.lora_A.weight.T @ layer.lora_B.weight.T * 4.0
    torch.manual_seed(5)
    torch.testing.assert_close(layer(x), expected)
