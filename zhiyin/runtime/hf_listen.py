"""From features to speech vectors, one function for each way a family's model in transformers wants them.

An utterance runs alone: Granite's encoder sees padding as sound, so a batch would change what each one gives. Where
an encoder takes a mask, we give it one that has nothing to hide.

Shapes: `M` rows of the features, `F` columns, `S` speech vectors, `D` decoder width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.masking_utils import create_bidirectional_mask

Listen = Callable[[Any, Tensor], Tensor]


def granite(model: Any, features_MF: Tensor) -> Tensor:
    """Vectors [S, D] of Granite Speech and Granite Speech Plus, S = 3 for every 15 columns begun."""
    features_BFM = features_MF.T[None]
    vectors_BSD: Tensor = model.model.get_audio_features(features_BFM, return_dict=True).pooler_output
    return vectors_BSD[0]


def fun_asr_nano(model: Any, features_MF: Tensor) -> Tensor:
    """Vectors [S, D] of Fun-ASR-Nano, one for every column."""
    mask_BF = torch.ones((1, features_MF.shape[1]), dtype=torch.long, device=features_MF.device)
    vectors_SD: Tensor = model.model.get_audio_features(features_MF.T[None], mask_BF, return_dict=True).pooler_output
    return vectors_SD


def qwen3_asr(model: Any, features_MF: Tensor) -> Tensor:
    """Vectors [S, D] of Qwen3-ASR, about one for 8 columns; the last of its chunks is filled with zeros.

    Source: transformers `models/qwen3_asr/feature_extraction_qwen3_asr.py`.
    """
    frames = features_MF.shape[1]
    missing = -frames % (2 * model.config.audio_config.n_window)
    mask_BF = pad(torch.ones((1, frames), dtype=torch.long, device=features_MF.device), (0, missing))
    heard = model.model.get_audio_features(pad(features_MF, (0, missing))[None], mask_BF, return_dict=True)
    vectors_SD: Tensor = heard.pooler_output
    return vectors_SD


def qwen2_audio(model: Any, features_MF: Tensor) -> Tensor:
    """Vectors [S, D] of Qwen2-Audio, one for 4 columns; the last row of the features is 1 where there is signal.

    Source: `Qwen2AudioModel.forward` of transformers, which has no function of its own for this part.
    """
    mel_BMF, signal_F = features_MF[None, :-1], features_MF[-1]
    tower = model.model.audio_tower
    heard, counts = tower._get_feat_extract_output_lengths(signal_F.sum(dtype=torch.float32).long())
    places = torch.arange(tower.config.max_source_positions, device=features_MF.device)
    mask = create_bidirectional_mask(
        config=tower.config,
        inputs_embeds=mel_BMF.new_zeros((1, len(places), 1)),
        attention_mask=(places < heard).long()[None],
    )
    encoded_BSE = tower(mel_BMF, attention_mask=mask).last_hidden_state
    vectors_BSD: Tensor = model.model.multi_modal_projector(encoded_BSE)
    return vectors_BSD[0, : int(counts)]


def voxtral(model: Any, features_MF: Tensor) -> Tensor:
    """Vectors [S, D] of Voxtral, always those of 30 s."""
    vectors_SD: Tensor = model.model.get_audio_features(features_MF[None], return_dict=True).pooler_output
    return vectors_SD


LISTEN: dict[str, Listen] = {
    "granite_speech": granite,
    "granite_speech_plus": granite,
    "fun_asr_nano": fun_asr_nano,
    "qwen3_asr": qwen3_asr,
    "qwen2_audio": qwen2_audio,
    "voxtral": voxtral,
}
