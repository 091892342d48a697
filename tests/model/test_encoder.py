"""Encoder against `transformers`; encoder and projector: a batch gives what each utterance gives alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.model.config import EncoderConfig, ProjectorConfig
from zhiyin.model.encoder import Encoder, sinusoids
from zhiyin.model.projector import Projector

SIZES = {"num_mels": 8, "width": 16, "num_layers": 2, "num_heads": 2, "ffn_width": 24, "max_positions": 64}
PROJECTOR = ProjectorConfig(width=12, num_layers=1, num_heads=2, ffn_width=20, max_positions=32)
# (2, 2) is the pocket model's; (1, 2) Whisper's
STRIDES = [(1, 2), (2, 2)]


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    for parameter in module.parameters():  # norms and biases away from ones and zeros
        parameter += torch.randn_like(parameter) * 0.2
    return module.eval()


@pytest.mark.parametrize("positions", [1, 2, 17, 64])
def test_equals_whisper(device, positions):
    transformers = pytest.importorskip("transformers")
    config = transformers.WhisperConfig(
        num_mel_bins=8,
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=24,
        max_source_positions=positions,  # the only length it takes
    )
    theirs = transformers.models.whisper.modeling_whisper.WhisperEncoder(config)
    table = theirs.embed_positions.weight.clone()
    shaken(theirs).embed_positions.weight.copy_(table)
    ours = Encoder(EncoderConfig(**SIZES)).eval()
    ours.load_state_dict(renamed(theirs.state_dict()), strict=True)
    ours.to(device)
    mel = torch.randn(2, 8, 2 * positions)
    encoded, lengths = ours(mel.to(device), torch.tensor([2 * positions] * 2, device=device))
    assert lengths.tolist() == [positions] * 2
    assert float((encoded.cpu() - theirs(mel).last_hidden_state).abs().max()) <= 1e-5
    assert float((table - sinusoids(positions, 16)).abs().max()) <= 1e-5


def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    pairs = (
        ("layers.", "blocks."),
        ("self_attn_layer_norm", "norm1"),
        ("final_layer_norm", "norm2"),
        ("self_attn.q_proj", "attn.query"),
        ("self_attn.k_proj", "attn.key"),
        ("self_attn.v_proj", "attn.value"),
        ("self_attn.out_proj", "attn.out"),
        ("layer_norm.", "norm."),
    )
    names = {}
    for key in state:
        name = key
        for theirs, ours in pairs:
            name = name.replace(theirs, ours)
        names[key] = name
    return {names[key]: tensor for key, tensor in state.items() if key != "embed_positions.weight"}


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    extra=st.integers(0, 5),
    strides=st.sampled_from(STRIDES),
    kernel=st.sampled_from([1, 5]),
    seed=st.integers(0, 3),
)
def test_batch_equals_single(device, lengths, extra, strides, kernel, seed):
    torch.manual_seed(seed)
    encoder = shaken(Encoder(EncoderConfig(**SIZES, conv_strides=strides, conv_kernel=kernel))).to(device)
    projector = shaken(Projector(PROJECTOR, 16, 10)).to(device)
    mels = [torch.randn(8, length).to(device) for length in lengths]
    padded = torch.full((len(mels), 8, max(lengths) + extra), 11.0, device=device)
    for place, mel in zip(padded, mels, strict=True):
        place[:, : mel.shape[1]] = mel
    encoded, encoded_lengths = encoder(padded, torch.tensor(lengths, device=device))
    vectors, counts = projector(encoded, encoded_lengths)
    for i, mel in enumerate(mels):
        alone, alone_lengths = encoder(mel[None], torch.tensor([mel.shape[1]], device=device))
        assert encoded_lengths[i] == alone_lengths[0] == alone.shape[1]
        assert torch.allclose(encoded[i, : encoded_lengths[i]], alone[0], rtol=0, atol=1e-5)
        speech, speech_counts = projector(alone, alone_lengths)
        assert counts[i] == speech_counts[0] == speech.shape[1]
        assert torch.allclose(vectors[i, : counts[i]], speech[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("strides", STRIDES)
def test_length_is_rounded_up(device, strides):
    encoder = Encoder(EncoderConfig(**SIZES, conv_strides=strides)).to(device)
    step = strides[0] * strides[1]
    for frames in range(1, 30):
        encoded, lengths = encoder(torch.randn(1, 8, frames).to(device), torch.tensor([frames], device=device))
        assert encoded.shape[1] == lengths[0] == -(-frames // step)


def test_projector_is_causal_in_its_convolutions_only(device):
    """The transformer sees everything; without blocks a later frame cannot move an earlier vector."""
    projector = shaken(Projector(PROJECTOR, 16, 10)).to(device)
    frames = torch.randn(1, 13, 16).to(device)
    changed = frames.clone()
    changed[:, -1] += 1.0
    whole = [projector(x, torch.tensor([13], device=device))[0] for x in (frames, changed)]
    assert not torch.allclose(whole[0][:, 0], whole[1][:, 0])
    projector.blocks = torch.nn.ModuleList()
    convs = [projector(x, torch.tensor([13], device=device))[0] for x in (frames, changed)]
    assert torch.equal(convs[0][:, 0], convs[1][:, 0])


def test_dropout_is_for_training_only(device):
    encoder = Encoder(EncoderConfig(**SIZES, dropout=0.5)).to(device)
    mel, frames = torch.randn(1, 8, 20).to(device), torch.tensor([20], device=device)
    assert not torch.equal(encoder.train()(mel, frames)[0], encoder(mel, frames)[0])
    assert torch.equal(encoder.eval()(mel, frames)[0], encoder(mel, frames)[0])
