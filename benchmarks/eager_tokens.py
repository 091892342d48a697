"""Milliseconds per token of our decoder in eager torch and of `transformers`, on the same weights; the ids must agree.

    python benchmarks/eager_tokens.py [--rounds 3] [--tokens 48] [--prompt 100] [--threads 1]

Random weights of Qwen2-0.5B's sizes, float32, on the CPU; both models hold the same tensors (about 2 GB). Ours runs as
the main job runs it: `runtime.generate.decode` over the key/value cache of `runtime.eager`, with as many places as a
checkpoint of `zhiyin init` has. Theirs is `generate`, greedy. Both generate at the same time and take turns, a token
each, so that what else the machine does costs both the same; the processor's time is counted beside the clock's.
Prints a Markdown table, and the same as JSON on the last line.
"""

import argparse
import json
import threading
import time
from collections.abc import Callable, Sequence
from statistics import median, quantiles

import numpy as np
import torch

from zhiyin.model.config import DecoderConfig, EncoderConfig, ModelConfig, ProjectorConfig
from zhiyin.model.speech_lm import SpeechLM
from zhiyin.runtime.base import Device, Encoded, Float32, ModelSpec
from zhiyin.runtime.eager import EagerSession
from zhiyin.runtime.generate import Prompt, decode

# Source: Qwen2-0.5B `config.json`.
SIZES = DecoderConfig(
    vocab_size=151936,
    width=896,
    num_layers=24,
    num_heads=14,
    num_kv_heads=2,
    head_width=64,
    ffn_width=4864,
    tie_embeddings=True,
)
PLACES = 1024
Costs = dict[str, list[tuple[float, float]]]  # who -> of each token, by the clock and by the processor
NEVER = -1  # no end token: both write as many tokens as were asked for


class Turns:
    """A generation that waits after each token until it is asked for the next."""

    def __init__(self, run: Callable[["Turns"], list[int]]):
        self.ids: list[int] = []
        self.cost_s: list[tuple[float, float]] = []  # of each token, by the clock and by the processor
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._all, args=(run,), daemon=True)
        self._thread.start()

    def _all(self, run: Callable[["Turns"], list[int]]) -> None:
        self._go.acquire()
        self.ids = run(self)
        self._done.release()

    def wait(self) -> None:
        """Called by the generation when a token is chosen."""
        self._done.release()
        self._go.acquire()

    def step(self) -> None:
        """Have the next token; nothing else of this process runs meanwhile."""
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        self._go.release()
        self._done.acquire()
        self.cost_s.append((time.perf_counter() - wall_s, time.process_time() - cpu_s))


class Streamer:
    """What `generate` calls with the prompt, and then with every token."""

    def __init__(self, turns: Turns):
        self.turns = turns
        self.begun = False

    def put(self, value: torch.Tensor) -> None:
        """A token is there."""
        if self.begun:
            self.turns.wait()
        self.begun = True

    def end(self) -> None:
        """All tokens are there."""


class TextBackend:
    """`runtime.base.Backend` of a decoder alone, on the session of the eager backend."""

    name = "eager"

    def __init__(self, model: SpeechLM, turns: Turns):
        self.model, self.turns = model, turns
        self.spec = ModelSpec("benchmark", "zhiyin", (), NEVER, max_tokens=PLACES)
        self.device = Device("cpu", "asked for")
        self.begun = False

    def encode(self, mels: Sequence[Float32]) -> list[Encoded]:
        """Not asked for here."""
        raise NotImplementedError

    @torch.inference_mode()
    def embed(self, ids: Sequence[int]) -> Float32:
        """Token embeddings; once it has begun, of the token that was just chosen."""
        if self.begun:
            self.turns.wait()
        return self.model.decoder.embed_tokens(torch.tensor(ids, dtype=torch.long)).numpy()

    @property
    def markers(self) -> Float32:
        """Not used by a prompt without speech."""
        return np.zeros((2, SIZES.width), np.float32)

    def start(self, batch: int) -> EagerSession:
        """As the eager backend does it."""
        self.begun = True
        return EagerSession(self.model, batch, self.spec.max_tokens)


def build() -> tuple[SpeechLM, torch.nn.Module]:
    """Both models over the same tensors."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=SIZES.vocab_size,
        hidden_size=SIZES.width,
        num_hidden_layers=SIZES.num_layers,
        num_attention_heads=SIZES.num_heads,
        num_key_value_heads=SIZES.num_kv_heads,
        intermediate_size=SIZES.ffn_width,
        rope_theta=SIZES.rope_theta,
        rms_norm_eps=SIZES.norm_eps,
        tie_word_embeddings=True,
        max_position_embeddings=32768,
    )
    theirs = Qwen2ForCausalLM(config).eval()
    theirs.generation_config.eos_token_id = None
    encoder = EncoderConfig(num_mels=8, width=16, num_layers=1, num_heads=2, ffn_width=24, max_positions=64)
    projector = ProjectorConfig(width=12, num_layers=1, num_heads=2, ffn_width=20, max_positions=32)
    with torch.device("meta"):
        ours = SpeechLM(ModelConfig(encoder, projector, SIZES)).eval()
    state = {key.removeprefix("model.").replace(".mlp.", "."): value for key, value in theirs.state_dict().items()}
    del state["lm_head.weight"]  # tied
    ours.decoder.load_state_dict(state, strict=True, assign=True)
    assert ours.decoder.embed_tokens.weight.data_ptr() == theirs.model.embed_tokens.weight.data_ptr()
    return ours, theirs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--prompt", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    ours, theirs = build()
    prompt = torch.randint(SIZES.vocab_size, (1, asked.prompt))

    @torch.inference_mode()
    def run_theirs(turns: Turns) -> list[int]:
        settings = {"attention_mask": torch.ones_like(prompt), "do_sample": False, "pad_token_id": 0}
        ids = theirs.generate(prompt, max_new_tokens=asked.tokens, streamer=Streamer(turns), **settings)
        return ids[0, asked.prompt :].tolist()

    def run_ours(turns: Turns) -> list[int]:
        prompts = [Prompt(prompt[0].tolist())]
        return list(decode(TextBackend(ours, turns), prompts, max_new_tokens=asked.tokens)[0].ids)

    first: Costs = {"transformers": [], "zhiyin": []}
    further: Costs = {"transformers": [], "zhiyin": []}
    for number in range(asked.rounds + 1):  # the first is not counted
        turns = {"transformers": Turns(run_theirs), "zhiyin": Turns(run_ours)}
        for place in range(asked.tokens):
            for name in turns if (number + place) % 2 else reversed(turns):
                turns[name].step()
        turns["transformers"].step()  # it says its last token before it ends
        assert len(turns["zhiyin"].ids) == asked.tokens, "not all tokens came"
        assert turns["zhiyin"].ids == turns["transformers"].ids, "greedy ids differ"
        if number:
            for name, run in turns.items():
                first[name].append(run.cost_s[0])
                further[name] += run.cost_s[1 : asked.tokens]
    show(first, further, asked)


def show(first: Costs, further: Costs, asked: argparse.Namespace) -> None:
    """The table and the record."""
    print(
        f"| {asked.prompt} tokens in, {asked.tokens} out | first token ms (CPU) | ms per token (CPU) | tokens per s |"
    )
    print("|---|--:|--:|--:|")
    for name in first:
        (first_ms, first_cpu_ms), (ms, cpu_ms) = medians_ms(first[name]), medians_ms(further[name])
        print(f"| {name} | {first_ms:.0f} ({first_cpu_ms:.0f}) | {ms:.1f} ({cpu_ms:.1f}) | {1e3 / ms:.2f} |")
    record: dict[str, object] = {"same_ids": True}
    for kind, word in enumerate(("wall", "cpu")):
        pairs = zip(further["transformers"], further["zhiyin"], strict=True)
        low, middle, high = quantiles([theirs[kind] / ours[kind] for theirs, ours in pairs], n=4)
        record[f"{word}_ms_per_token"] = {name: round(medians_ms(costs)[kind], 2) for name, costs in further.items()}
        record[f"{word}_ratio"] = [round(value, 3) for value in (low, middle, high)]
        print(f"\ntransformers / zhiyin, {word}, token by token: {middle:.3f} (quartiles {low:.3f} {high:.3f})")
    settings = {"rounds": asked.rounds, "tokens": asked.tokens, "prompt": asked.prompt, "threads": asked.threads}
    print(json.dumps({**record, **settings, "places": PLACES, "torch": torch.__version__}))


def medians_ms(costs: list[tuple[float, float]]) -> tuple[float, float]:
    """By the clock and by the processor."""
    return median(wall_s for wall_s, _ in costs) * 1e3, median(cpu_s for _, cpu_s in costs) * 1e3


if __name__ == "__main__":
    main()
