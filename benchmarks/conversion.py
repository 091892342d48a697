"""Speed and memory of `zhiyin convert` and of loading, on a made-up OSUM checkpoint of real widths.

    python benchmarks/conversion.py --layers 4 --dir SCRATCH

makes an `infer.pt` in bfloat16 with LoRA (4 layers: 5 GB), copies it, converts it and loads the result, each in a
process of its own, and prints a table. The big files are removed at the end.

Two memory figures are given, both above what the process had after its imports. *Own* memory (RssAnon) is what cannot
be taken back: it is what the machine must have. *Resident* (RssAnon + RssFile) also counts pages of memory-mapped files
that happen to be cached; the operating system drops them when anybody needs room, so a file much larger than memory
converts all the same. `ru_maxrss` is the second one.

The copy is a plain one that, like a checkpoint, is complete once it lies on the disk (fsync).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

WIDTH, FFN, KV, VOCABULARY, RANK = 3584, 18944, 512, 152064, 8
ENCODER, ADAPTER = 1024, 2560
GB = 1e9


def make(path: Path, layers: int) -> None:
    """A state dict in the reference's layout; the numbers are one random block, repeated."""
    import torch

    block = torch.randn(2**20, generator=torch.Generator().manual_seed(1)).mul_(0.02).bfloat16()

    def full(*shape: int) -> torch.Tensor:
        count = torch.Size(shape).numel()
        return block.repeat(-(-count // len(block)))[:count].clone().view(shape)

    state = {}

    def linear(name: str, rows: int, columns: int, bias: bool = True) -> None:
        state[f"{name}.weight"] = full(rows, columns)
        if bias:
            state[f"{name}.bias"] = full(rows)

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = full(width), full(width)

    def blocks(stem: str, count: int, ffn: int, key_bias: bool) -> None:
        for i in range(count):
            for part in ("q", "k", "v", "out"):
                linear(f"{stem}.{i}.self_attn.linear_{part}", ENCODER, ENCODER, part != "k" or key_bias)
            linear(f"{stem}.{i}.feed_forward.w_1", ffn, ENCODER)
            linear(f"{stem}.{i}.feed_forward.w_2", ENCODER, ffn)
            norm(f"{stem}.{i}.norm1", ENCODER)
            norm(f"{stem}.{i}.norm2", ENCODER)

    def conv(name: str, rows: int, columns: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = full(rows, columns, 3), full(rows)

    conv("encoder.embed.conv.0", ENCODER, 80)
    conv("encoder.embed.conv.2", ENCODER, ENCODER)
    blocks("encoder.encoders", 24, 4096, key_bias=False)
    norm("encoder.after_norm", ENCODER)
    for i in (1, 4, 7):
        conv(f"down_sample_2.conv.{i}", ENCODER, ENCODER)
    linear("speech_transformer.embed.out.0", ENCODER, ENCODER)
    norm("speech_transformer.embed.out.1", ENCODER)
    blocks("speech_transformer.encoders", 4, ADAPTER, key_bias=True)
    norm("speech_transformer.after_norm", ENCODER)
    linear("speech_llama_proj", WIDTH, ENCODER)
    state["speech_token_emded.weight"] = full(4099, WIDTH)
    linear("speaker_head", 4097, WIDTH)
    _decoder(state, full, layers)
    torch.save(state, path)


def _decoder(state: dict, full: Callable, layers: int) -> None:
    stem = "llama_model.base_model.model"
    state[f"{stem}.model.embed_tokens.weight"] = full(VOCABULARY, WIDTH)
    state[f"{stem}.lm_head.weight"] = full(VOCABULARY, WIDTH)
    state["embed_tokens.weight"] = state[f"{stem}.model.embed_tokens.weight"]  # shared, as in the real file
    state["lm_head.weight"] = state[f"{stem}.lm_head.weight"]
    state[f"{stem}.model.norm.weight"] = full(WIDTH)
    for i in range(layers):
        layer = f"{stem}.model.layers.{i}"
        sizes = {"self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (KV, WIDTH), "self_attn.v_proj": (KV, WIDTH)}
        sizes |= {"self_attn.o_proj": (WIDTH, WIDTH), "mlp.gate_proj": (FFN, WIDTH), "mlp.down_proj": (WIDTH, FFN)}
        for name, (rows, columns) in sizes.items():
            state[f"{layer}.{name}.base_layer.weight"] = full(rows, columns)
            state[f"{layer}.{name}.lora_A.default.weight"] = full(RANK, columns)
            state[f"{layer}.{name}.lora_B.default.weight"] = full(rows, RANK)
            if name[-6] in "qkv":
                state[f"{layer}.{name}.base_layer.bias"] = full(rows)
        state[f"{layer}.mlp.up_proj.weight"] = full(FFN, WIDTH)
        for name in ("input_layernorm", "post_attention_layernorm"):
            state[f"{layer}.{name}.weight"] = full(WIDTH)


def tokenizer(path: Path) -> None:
    """As many words as the table has rows, the end token in its place."""
    from tokenizers import Tokenizer, models

    words = {f"t{i}": i for i in range(151643)} | {"<|endoftext|>": 151643}
    Tokenizer(models.WordLevel(words, unk_token="t0")).save(str(path))


def resident() -> tuple[int, int]:
    """Own memory and memory with cached file pages, in bytes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own, mapped = (int(lines[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile"))
    return own, own + mapped


def watched(job: Callable[[], None]) -> dict[str, float]:
    """Run a job and sample its memory every 10 ms."""
    before, peak, ended = resident(), [0, 0], threading.Event()

    def sample() -> None:
        while not ended.wait(0.01):
            peak[:] = [max(pair) for pair in zip(peak, resident(), strict=True)]

    watcher = threading.Thread(target=sample)
    watcher.start()
    started = time.monotonic()
    job()
    wall_s = time.monotonic() - started
    ended.set()
    watcher.join()
    return {"wall_s": wall_s, "own": peak[0] - before[0], "resident": peak[1] - before[1]}


def copy(source: Path, out: Path) -> None:
    """Copy and have it written to the disk, as a checkpoint is."""
    shutil.copyfile(source, out)
    descriptor = os.open(out, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def child(arguments: list[str]) -> None:
    """One measured step in this process."""
    step, *rest = arguments
    if step == "make":
        make(Path(rest[0]), int(rest[1]))
        return
    if step == "copy":
        sys.stdout.write(json.dumps(watched(lambda: copy(Path(rest[0]), Path(rest[1])))))
        return
    import torch

    from zhiyin.model import checkpoint
    from zhiyin.model.convert import command

    torch.set_num_threads(1)
    if step == "convert":
        weights, out, words, facts, dtype = rest
        request = command.Request(Path(weights), Path(words), lora_scale=4.0, dtype=dtype, facts=Path(facts))
        sys.stdout.write(json.dumps(watched(lambda: command.convert(request, Path(out)) and None)))
    else:
        kept = []
        sys.stdout.write(
            json.dumps(watched(lambda: kept.append(checkpoint.load(rest[0], dtype=getattr(torch, rest[1])))))
        )


def measure(*arguments: object) -> dict[str, float]:
    """Run a step in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout) if done.stdout else {}


def folder_bytes(folder: Path) -> int:
    """Size of the weights in a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=4, help="of the decoder; 28 are the real ones (16 GB)")
    parser.add_argument("--runs", type=int, default=3, help="the quickest counts: the rest is the machine's")
    parser.add_argument("--dir", type=Path, required=True, help="for the big files, which are removed at the end")
    parser.add_argument("--child", nargs="+")
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
        return
    given = parser.parse_args()
    scratch = given.dir / "zhiyin-conversion"
    scratch.mkdir(parents=True)
    try:
        table(scratch, given.layers, given.runs)
    finally:
        shutil.rmtree(scratch)


def table(scratch: Path, layers: int, runs: int) -> None:
    """Print a row for each step."""
    weights, words, facts = scratch / "infer.pt", scratch / "tokenizer.json", scratch / "facts.json"
    measure("make", weights, layers)
    tokenizer(words)
    facts.write_text("{}")
    size = weights.stat().st_size
    print(f"infer.pt {size / GB:.2f} GB, {layers} layers; largest tensor {VOCABULARY * WIDTH * 2 / GB:.2f} GB")
    print("| step | seconds | to copying | written GB | own memory GB | resident GB |")
    print("|---|---|---|---|---|---|")
    seen: dict[str, list[dict[str, float]]] = {"copy": [], "keep": [], "bfloat16": []}
    for step, costs in seen.items():
        out = scratch / step
        for _ in range(runs):
            shutil.rmtree(out, ignore_errors=True)
            out.unlink(missing_ok=True)
            os.sync()  # what the step before left to be written is not this one's
            given = (weights, out) if step == "copy" else (weights, out, words, facts, step)
            costs.append(measure("copy" if step == "copy" else "convert", *given))
        if step == "copy":
            out.unlink()
    for step, costs in seen.items():
        wall_s, copied = (min(one["wall_s"] for one in seen[name]) for name in (step, "copy"))
        written = size if step == "copy" else folder_bytes(scratch / step)
        own, all_ = (max(one[name] for one in costs) / GB for name in ("own", "resident"))
        print(f"| {step} | {wall_s:.1f} | {wall_s / copied:.2f} | {written / GB:.2f} | {own:.2f} | {all_:.2f} |")
    for stored in ("keep", "bfloat16"):
        for dtype in ("float32", "bfloat16"):
            one = measure("load", scratch / stored, dtype)
            held = folder_bytes(scratch / "bfloat16") * (2 if dtype == "float32" else 1)
            print(
                f"| load {stored} as {dtype} ({held / GB:.2f} GB) | {one['wall_s']:.1f} | | "
                f"| {one['own'] / GB:.2f} | {one['resident'] / GB:.2f} = {one['resident'] / held:.2f} x |",
                flush=True,
            )


if __name__ == "__main__":
    main()
