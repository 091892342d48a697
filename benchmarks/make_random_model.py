"""A bundle with pocket's encoder and a larger decoder of random weights: what batching does where the decoder counts.

    python benchmarks/make_random_model.py OUT [--width 768] [--layers 12] [--reply-tokens 40]

Its transcripts are nonsense of always the same length, for nothing ends a reply; its cost is that of a real model of
this size. Needs the extra `export`.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from zhiyin.deploy import export
from zhiyin.model import checkpoint
from zhiyin.model.speech_lm import SpeechLM

POCKET = Path(__file__).resolve().parent.parent / "zhiyin" / "pocket" / "checkpoint"
PROMPT_TOKENS = 64  # more than pocket's longest prompt with the vectors of a short recording


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads-per-key", type=int, default=6, help="of the decoder; 6 as in Qwen2 of 1.5 B")
    parser.add_argument("--reply-tokens", type=int, default=40)
    args = parser.parse_args()
    torch.manual_seed(1)
    pocket, spec = checkpoint.load(POCKET)
    heads = args.width // 64
    decoder = replace(
        pocket.config.decoder,
        width=args.width,
        num_layers=args.layers,
        num_heads=heads,
        num_kv_heads=heads // args.heads_per_key,
        head_width=64,
        ffn_width=4 * args.width,
    )
    model = SpeechLM(replace(pocket.config, decoder=decoder)).eval()
    torch.nn.init.normal_(model.decoder.embed_tokens.weight, std=args.width**-0.5)
    millions = sum(p.numel() for p in model.decoder.parameters()) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "checkpoint"
        record = {**spec, "name": f"random-{millions:.0f}M", "tasks": ["asr"], "ctc_transcript": False}
        record |= {"max_tokens": PROMPT_TOKENS + args.reply_tokens, "min_confidence": 0.0}
        checkpoint.save(made, model, record, POCKET / "tokenizer.json")
        done = export.export(made, args.out)
    print(f"{done.folder}: decoder of {millions:.0f} M, {done.size_bytes / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
