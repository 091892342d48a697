"""Encoder and projector of Granite Speech models (transformers) as graphs of fixed size.

transformers runs this encoder on the real length only: it sees padding as sound. A graph of fixed size needs padding,
so the forward pass is written here once more, over the same weights, with what pads hidden wherever frames meet:
attention, depthwise convolution, and the projector's windows. Export compares it with transformers at several lengths.

Source: transformers 5.23, `models/granite_speech/modeling_granite_speech.py` and `granite_speech_plus`.
Shapes: `M` rows of the features, `F` columns, `E` encoder width, `H` heads, `C` context (columns that attention sees at
once), `K` head width, `S` speech vectors, `D` decoder width.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zhiyin.deploy import buckets
from zhiyin.deploy.export_plan import Options, Plan, Source, bucket
from zhiyin.errors import UserError
from zhiyin.model.encoder import length_mask
from zhiyin.runtime import bundle
from zhiyin.runtime.base import ModelSpec
from zhiyin.runtime.hf import HfBackend
from zhiyin.runtime.hf_listen import granite

MODELS = ("granite_speech", "granite_speech_plus")
OUTPUTS = ("vectors", "counts")
_HIDDEN = -1e4  # added to scores of what pads; finite, for a block that is all padding, and within half precision


class Listen(nn.Module):
    """Encoder and projector of one utterance that is padded to a fixed length."""

    def __init__(self, model: Any):
        """Begin.

        Args:
            model: a `GraniteSpeechForConditionalGeneration` or `...PlusForConditionalGeneration`.
        """
        super().__init__()
        self.encoder, self.projector = model.model.encoder, model.model.projector
        self.context = int(self.encoder.config.context_size)
        self.joined = tuple(getattr(self.encoder.config, "cat_hidden_layers", None) or ())

    def forward(self, mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Features [1, M, F] of which `frames` [1] are real -> vectors [1, S, D], and how many of them are real [1]."""
        columns = int(mel.shape[2])  # a plain number: sizes are fixed, and the tracer rounds -(-a // b) the other way
        real_1F1 = length_mask(frames, columns)[:, :, None].to(mel.dtype)
        x = self.encoder.input_linear(mel.transpose(1, 2))
        seen = [x] if 0 in self.joined else []
        blocks = -(-columns // self.context)
        is_real = length_mask(frames, blocks * self.context).view(blocks, 1, 1, self.context)
        bias_B11C = (1.0 - is_real.to(mel.dtype)) * _HIDDEN
        for place, layer in enumerate(self.encoder.layers, start=1):
            x = x + 0.5 * layer.ff1(x)
            x = x + self._attend(layer.attn, x, bias_B11C)
            x = x + _convolve(layer.conv, x, real_1F1)
            x = layer.post_norm(x + 0.5 * layer.ff2(x))
            if place == self.encoder.num_layers // 2:
                x = x + self.encoder.out_mid(self.encoder.out(x).softmax(-1))
            if place in self.joined:
                seen.append(x)
        return self._project(torch.cat([*seen, x], -1) * real_1F1, frames)

    def _attend(self, part: Any, x_1FE: Tensor, bias_B11C: Tensor) -> Tensor:
        """Attention within blocks of `C` columns, with a learned vector for each distance (Shaw et al. 2018)."""
        columns, blocks = int(x_1FE.shape[1]), int(bias_B11C.shape[0])
        context, heads = self.context, part.num_heads
        y = nn.functional.pad(part.pre_norm(x_1FE), (0, 0, 0, blocks * context - columns))

        def split(z: Tensor) -> Tensor:
            return z.reshape(blocks, context, heads, -1).transpose(1, 2)

        keys, values = part.to_kv(y).chunk(2, dim=-1)
        q_BHCK, k_BHCK, v_BHCK = split(part.to_q(y)), split(keys), split(values)
        near_CCK = part.rel_pos_emb(self.encoder.attention_dists)
        # einsum "bhck,crk->bhcr" as one product per place, of three axes: compilers refuse Einsum
        turned = q_BHCK.permute(2, 0, 1, 3).reshape(context, blocks * heads, -1) @ near_CCK.transpose(1, 2)
        distance = turned.view(context, blocks, heads, context).permute(1, 2, 0, 3)
        scores = (q_BHCK @ k_BHCK.transpose(2, 3) + distance) * part.scale + bias_B11C
        heard = (scores.softmax(-1) @ v_BHCK).transpose(1, 2).reshape(1, blocks * context, -1)
        return part.to_out(heard[:, :columns])

    def _project(self, x_1FE: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """A few queries per window of columns (BLIP-2's Q-Former); the last window is filled with zeros."""
        part, (columns, width) = self.projector, map(int, x_1FE.shape[1:])
        window, queries = int(part.window_size), int(part.num_queries)
        windows = -(-columns // window)
        parts = nn.functional.pad(x_1FE, (0, 0, 0, windows * window - columns)).view(windows, window, width)
        asked = part.qformer(query_embeds=part.query, encoder_hidden_states=parts, return_dict=True).last_hidden_state
        return part.linear(asked.reshape(1, windows * queries, -1)), (frames + window - 1) // window * queries


def source(folder: Path, options: Options) -> Source:
    """Encoder and projector of a folder of the hub as graphs to be made.

    Raises:
        UserError: another model, no whole folder, too little memory, or a bucket that does not fit.
    """
    backend = HfBackend(folder, device="cpu", dtype="float32")
    kind = str(backend.spec.extra["model_type"])
    if kind not in MODELS:
        known = " and ".join(MODELS)
        raise UserError(f"export {folder}: of the hub, {known} are exported; '{kind}' runs with --backend hf")
    model = backend.model
    model.set_attn_implementation("eager")
    sizes = buckets.frames(backend.spec, options.buckets_s, encoder_frames=backend.spec.max_frames)
    spec = dataclasses.replace(backend.spec, precision=options.precision, max_window_s=options.buckets_s[-1])
    return Source(spec, {}, plans(model, spec, sizes), folder / bundle.TOKENIZER)


def plans(model: Any, spec: ModelSpec, sizes: Sequence[int]) -> Iterator[Plan]:
    """An encoder graph for each of `sizes` columns, to be compared with transformers on the real length."""
    listen = Listen(model).eval()

    def truth(mel_1MF: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        vectors_SD = granite(model, mel_1MF[0])
        return vectors_SD[None], torch.tensor([len(vectors_SD)])

    for shorter, frames in zip((0, *sizes), sizes, strict=False):
        yield bucket(listen, truth, OUTPUTS, num_mels=spec.num_mels, frames=frames, shorter=shorter)


def _convolve(part: Any, x_1FE: Tensor, real_1F1: Tensor) -> Tensor:
    """The convolution module; its depthwise convolution meets zeros where the utterance alone would meet the edge."""
    y_1EF = part.glu(part.up_conv(part.norm(x_1FE).transpose(1, 2))) * real_1F1.transpose(1, 2)
    y_1EF = part.silu(part.batch_norm(part.depth_conv(y_1EF)))
    return part.down_conv(y_1EF).transpose(1, 2)
