"""Exports parts of published sizes with random weights: that the graphs come out, and what that needs.

    python benchmarks/export_full_size.py FAMILY PART [--bucket-s 5] [--out DIR]

FAMILY is osum (Whisper-medium and Qwen2-7B) or osum-pangu (Whisper-medium and openPangu-7B). PART is encoder (encoder
and projector whole, in the graph of one bucket) or decoder (one layer and the logits at full width, in the graphs for
64 tokens and for 1; the other layers are the same again). Each graph is compared with PyTorch, as every export is.
Prints a line per graph and, as JSON on the last line, seconds, peak memory and bytes on disk.
"""

import argparse
import json
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import onnx
import torch

from zhiyin.deploy import export_native, export_trace
from zhiyin.deploy.export_graphs import Weights
from zhiyin.model.config import DecoderConfig, EncoderConfig, ModelConfig, ProjectorConfig
from zhiyin.model.speech_lm import SpeechLM
from zhiyin.runtime.base import ModelSpec

# Source: OSUM's configuration and Qwen2-7B; openPangu-Embedded-7B-V1.1 `config.json`.
DECODERS = {
    "osum": DecoderConfig(),
    "osum-pangu": DecoderConfig(
        vocab_size=153376,
        width=4096,
        num_layers=34,
        num_heads=32,
        num_kv_heads=8,
        ffn_width=12800,
        rope_theta=16_000_000.0,
        norm_eps=1e-5,
        out_bias=True,
    ),
}
PLACES = 1024


def build(family: str, part: str) -> SpeechLM:
    """The model with random weights; what `part` does not need is as small as it can be."""
    decoder = DECODERS[family]
    if part == "encoder":
        small = replace(decoder, vocab_size=16, num_layers=1, num_heads=1, num_kv_heads=1, head_width=2, ffn_width=8)
        config = ModelConfig(decoder=small)
    else:
        encoder = EncoderConfig(width=8, num_layers=1, num_heads=1, ffn_width=8)
        projector = ProjectorConfig(width=8, num_layers=1, num_heads=1, ffn_width=8)
        config = ModelConfig(encoder, projector, replace(decoder, num_layers=1))
    with torch.device("meta"):
        model = SpeechLM(config)
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, weight in model.state_dict().items():
        if name == "decoder.embed_tokens.weight":  # a table beside the graphs, of no use here
            state[name] = torch.full((1, 1), 0.02).expand(weight.shape)
            continue
        spread = weight.shape[-1] ** -0.5
        state[name] = torch.empty(weight.shape).uniform_(-spread, spread, generator=generator)
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


def main() -> None:
    """Export and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=list(DECODERS))
    parser.add_argument("part", choices=["encoder", "decoder"])
    parser.add_argument("--bucket-s", type=float, default=5.0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    model = build(given.family, given.part)
    spec = ModelSpec("full", given.family, ("asr",), 0, max_window_s=30.0, max_tokens=PLACES)
    sizes, batches = ((round(100 * given.bucket_s),), ()) if given.part == "encoder" else ((), (1,))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=given.out) as scratch:
        folder = Path(scratch)
        weights = Weights(folder / f"{given.part}.weights")
        for plan in export_native.static(model, spec, sizes, batches):
            made = export_trace.write(plan, folder, weights, precision="float32", opset=17)
            count = len(onnx.load(folder / plan.file, load_external_data=False).graph.node)
            size = (folder / plan.file).stat().st_size
            print(f"{plan.file}: {count} nodes, {size / 1e6:.1f} MB, difference to PyTorch {made.difference:.1e}")
        stored = weights.path.stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    figures = {"seconds": round(time.monotonic() - started), "peak_gb": round(peak, 1), "weights_gb": stored / 1e9}
    print(json.dumps({"family": given.family, "part": given.part, **figures}))


if __name__ == "__main__":
    main()
