"""Faults as ports to other devices have had them, each put into a running model; and the table of what finds them.

    python -m tests.deploy.faults

prints, for the pocket model, which rows of `verify` exceed their gates and what `--hunt` says, as a Markdown table.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zhiyin.deploy import verify
from zhiyin.model import decoder
from zhiyin.model.speech_lm import SpeechLM
from zhiyin.runtime.eager import EagerSession
from zhiyin.runtime.load import Loaded, load

Break = Callable[[Loaded], None]


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        title: what is wrong.
        put: puts it into a model on backend eager.
        place: what the hunt must name, part of its line.
        dtype: of the model that it is put into.
    """

    title: str
    put: Break
    place: str
    dtype: str = "float32"


def network(model: Loaded) -> SpeechLM:
    """The torch module of a model on backend eager."""
    found: Any = model.backend
    return found.model


def _encoder_epsilon(model: Loaded) -> None:
    network(model).encoder.blocks[1].norm1.eps = 1e-2


def _decoder_epsilon(model: Loaded) -> None:
    network(model).decoder.layers[0].post_attention_layernorm.eps = 1e-3


def _encoder_mask(model: Loaded) -> None:
    attention = network(model).encoder.blocks[0].attn
    forward = attention.forward
    attention.forward = lambda x, mask, dropout=0.0: forward(x, torch.ones_like(mask), dropout)


def _decoder_mask(model: Loaded) -> None:
    class Seeing(decoder.Attention):
        """Sees the padding, and what is yet to come."""

        def append(self, x: Tensor, cos: Tensor, sin: Tensor, call: Any, k: Tensor, v: Tensor) -> Tensor:
            return super().append(x, cos, sin, replace(call, visible_BNC=None, causal=False), k, v)

    network(model).decoder.layers[1].self_attn.__class__ = Seeing


def _overflow(model: Loaded) -> None:
    """The same function in float32: one matrix larger, the next smaller. In float16 what lies between overflows."""
    layer = network(model).decoder.layers[1]
    layer.up_proj.weight.data = layer.up_proj.weight.data * 2.0**17
    layer.down_proj.weight.data = layer.down_proj.weight.data * 2.0**-17


def _encoder_heads(model: Loaded) -> None:
    attention = network(model).encoder.blocks[2].attn
    first, second, *rest = attention.query.weight.data.chunk(attention.num_heads)
    attention.query.weight.data = torch.cat([second, first, *rest])


def _decoder_heads(model: Loaded) -> None:
    """Keys and values are shared by the wrong queries, as where heads are repeated in another order."""
    attention = network(model).decoder.layers[0].self_attn
    project = attention.project

    def swapped(*args: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = project(*args)
        return q, k.flip(1), v.flip(1)

    attention.project = swapped


def _transposed(model: Loaded) -> None:
    weight = network(model).encoder.blocks[3].attn.out.weight
    weight.data = weight.data.T.clone()


def _transposed_projector(model: Loaded) -> None:
    weight = network(model).projector.input.weight
    weight.data = weight.data.T.clone()


class _StaleSession(EagerSession):
    """Rows that go on keep the caches of those before them."""

    def select(self, rows: Sequence[int]) -> None:
        count = len(rows)
        self.keys_LBGCK, self.values_LBGCK = self.keys_LBGCK[:, :count], self.values_LBGCK[:, :count]


def _stale_rows(model: Loaded) -> None:
    backend: Any = model.backend
    start = backend.start

    def stale(batch: int) -> EagerSession:
        session = start(batch)
        session.__class__ = _StaleSession
        return session

    backend.start = stale


def _stale_cache(model: Loaded) -> None:
    """A single step sees its own key and value, but they are not kept."""
    attention = network(model).decoder.layers[2].self_attn
    append = attention.append

    def forgetful(x: Tensor, cos: Tensor, sin: Tensor, call: Any, k: Tensor, v: Tensor) -> Tensor:
        if x.shape[1] > 1:
            return append(x, cos, sin, call, k, v)
        return append(x, cos, sin, call, k.clone(), v.clone())

    attention.append = forgetful


def _theta(model: Loaded) -> None:
    config = network(model).decoder.config
    network(model).decoder.config = replace(config, rope_theta=config.rope_theta * 10)


def _bias(model: Loaded) -> None:
    bias = network(model).encoder.blocks[4].fc1.bias
    bias.data = torch.zeros_like(bias)


def _positions(model: Loaded) -> None:
    network(model).encoder.positions = network(model).encoder.positions.roll(1, dims=0)


def _activation(model: Loaded) -> None:
    """The approximation by tanh instead of the error function."""
    block = network(model).encoder.blocks[0]
    block.activation = lambda x: nn.functional.gelu(x, approximate="tanh")


FAULTS = (
    Fault("epsilon of an encoder norm 1e-2 for 1e-5", _encoder_epsilon, "encoder.blocks.1.norm1"),
    Fault("epsilon of a decoder norm 1e-3 for 1e-6", _decoder_epsilon, "decoder.layers.0.post_attention_layernorm"),
    Fault("padding mask of the encoder dropped", _encoder_mask, "encoder.blocks.0.attn"),
    Fault("causal mask of the decoder dropped", _decoder_mask, "decoder.layers.1.self_attn"),
    Fault("overflow in float16", _overflow, "decoder.layers.1.up_proj", "float16"),
    Fault("two heads of the encoder swapped", _encoder_heads, "encoder.blocks.2.attn.query"),
    Fault("key and value heads swapped", _decoder_heads, "decoder.layers.0.self_attn"),
    Fault("weight of the encoder transposed", _transposed, "encoder.blocks.3.attn.out"),
    Fault("weight of the projector transposed", _transposed_projector, "projector.input"),
    Fault("stale cache: a step is not kept", _stale_cache, "decoder.layers.2.self_attn"),
    Fault(
        "stale cache: rows of another reply",
        _stale_rows,
        "backend 'eager': its parts are right, but what it gives to decoder.append as 'keys_LBGCK' is not",
    ),
    Fault(
        "rope theta ten times too large",
        _theta,
        "decoder: its parts are right, but what it gives to layers.0.self_attn.append as 'cos'",
    ),
    Fault("bias of the encoder missing", _bias, "encoder.blocks.4.fc1"),
    Fault(
        "positions of the encoder shifted by one",
        _positions,
        "encoder: its parts are right, but what it gives to blocks.0.forward as 'x_BTE'",
    ),
    Fault("GELU approximated", _activation, "encoder.blocks.0"),
)


def put(fault: Fault | None, folder: Path) -> Loaded:
    """A model with a fault in it, or a whole one."""
    model = load(folder, device="cpu", backend="eager", dtype="float32" if fault is None else fault.dtype)
    if fault is not None:
        fault.put(model)
    return model


def main() -> None:
    """Print the table."""
    reference = verify.reference_of("pocket", verify.CPU_FP32, None)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copytree(reference.source, Path(scratch) / "copy"))
        print("| fault | first rows that exceed their gates | worst relative L2 | hunt |")
        print("|---|---|--:|---|")
        for fault in (None, *FAULTS):
            started = time.perf_counter()
            found = verify.compare(put(fault, copy), reference, runs=1, hunt=True)
            rows_apart = [row for row in found.rows if not row.name.startswith("layers")]
            wrong = list(dict.fromkeys(row.name for row in rows_apart if row.wrong))
            largest = max((row.measures.relative_l2 or 0.0 for row in rows_apart), default=0.0)
            rows = ", ".join(wrong[:2]) + (f" and {len(wrong) - 2} more" if len(wrong) > 2 else "") or "none"
            lines = "; ".join(line for line in found.hunt if "every part" not in line) or "nothing"
            print(f"| {fault.title if fault else 'none'} | {rows} | {largest:.1e} | {lines} |", flush=True)
            print(f"{time.perf_counter() - started:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
