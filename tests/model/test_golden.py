"""Every recorded stage of the two reference programs, within the limits that their manifest states.

The models come the way a user gets them: the reference's file is converted, written as a checkpoint and loaded again.
"""

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models
from torch import Tensor, nn

from tests.model.conftest import Golden
from zhiyin.model import checkpoint
from zhiyin.model.checkpoint import Report
from zhiyin.model.convert.command import Request
from zhiyin.model.convert.command import convert as convert_files
from zhiyin.model.speech_lm import Row, SpeechLM

SPEECH, LOGITS, LOSS = 5e-5, 3e-4, 2e-5


class Filed(Golden):
    """Its models have been through files: a state dict is saved, converted, written and loaded."""

    def __init__(self, root: Path, name: str, device: str, scratch: Path):
        self.source, self.scratch = root / name / "checkpoint.pt", scratch
        super().__init__(root, name, device)

    def convert(self, state: dict[str, Tensor]) -> tuple[SpeechLM, Report]:
        path, out = self.source, self.scratch / "checkpoint"
        if state is not self.state:
            path = self.scratch / "variant.pt"
            torch.save(state, path)
        rows = self.spec["llm"]["vocab"]
        facts = {**dataclasses.asdict(self.facts), "eos_id": rows - 1, "eos_token": ""}
        (self.scratch / "facts.json").write_text(json.dumps(facts))
        words = {f"t{i}": i for i in range(rows)}
        Tokenizer(models.WordLevel(words, unk_token="t0")).save(str(self.scratch / "tokenizer.json"))
        request = Request(
            path, self.scratch / "tokenizer.json", lora_scale=self.scale, facts=self.scratch / "facts.json"
        )
        converted = convert_files(request, out)
        model, _ = checkpoint.load(out, device=self.device)
        return model.requires_grad_(False), converted.report


@functools.cache
def filed(root: Path, name: str, device: str, scratch: Path) -> Filed:
    return Filed(root, name, device, scratch)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("golden")


@pytest.fixture(params=["osum", "pangu"])
def golden(shared: Path, device: str, scratch: Path, request: pytest.FixtureRequest) -> Golden:
    return filed(shared / "golden", request.param, device, scratch)


@pytest.fixture
def osum(shared: Path, device: str, scratch: Path) -> Golden:
    return filed(shared / "golden", "osum", device, scratch)


@pytest.fixture
def pangu(shared: Path, device: str, scratch: Path) -> Golden:
    return filed(shared / "golden", "pangu", device, scratch)


def far(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours.cpu() - theirs.cpu()).abs().max())


@contextmanager
def inputs_of(places: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """What goes into each of these modules while the block runs."""
    seen: dict[str, Tensor] = {}

    def note(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return module.register_forward_pre_hook(lambda _, args: seen.update({name: args[0]}))

    hooks = [note(name, module) for name, module in places.items()]
    yield seen
    for hook in hooks:
        hook.remove()


def test_limits_are_the_manifests(golden):
    limits = golden.limits
    assert (limits["speech_side"], limits["logits"], limits["loss"]) == (SPEECH, LOGITS, LOSS)


def test_config_is_what_the_spec_says(golden):
    # an epsilon of 1e-6 for 1e-5 moves the speech side by about the limit only, so numbers alone would not show it
    config, spec = golden.model.config, golden.spec
    assert config.encoder.norm_eps == spec["encoder"]["norm_eps"] == 1e-5
    assert config.projector.norm_eps == spec["adapter"]["norm_eps"] == 1e-5
    assert config.decoder.norm_eps == spec["llm"]["rms_norm_eps"]
    assert config.decoder.rope_theta == spec["llm"]["rope_theta"]
    assert config.decoder.num_kv_heads == spec["llm"]["kv_heads"]
    assert config.decoder.head_width == spec["llm"]["head_dim"]
    assert {norm.eps for norm in golden.model.encoder.modules() if hasattr(norm, "eps")} == {1e-5}
    assert {norm.eps for norm in golden.model.projector.modules() if hasattr(norm, "eps")} == {1e-5}
    assert {norm.eps for norm in golden.model.decoder.modules() if hasattr(norm, "eps")} == {
        spec["llm"]["rms_norm_eps"]
    }


@pytest.mark.parametrize("utterance", ["a", "b", "c"])
def test_speech_side(golden, utterance):
    model, mel = golden.model, golden.mel(utterance)
    with inputs_of({"down_out": model.projector.input, "adapter_hidden": model.projector.out}) as seen:
        speech = model.listen(mel, golden.frames(mel))
    seen.update(encoder_out=speech.encoded_BTE, speech_embeds=speech.vectors_BSD)
    for stage, tensor in seen.items():
        assert far(tensor, golden.arrays[f"single/{utterance}/{stage}"]) <= SPEECH, stage
    assert speech.encoded_lengths_B.tolist() == [golden.arrays[f"single/{utterance}/encoder_mask"].sum()]
    assert speech.vector_counts_B.tolist() == [golden.arrays[f"single/{utterance}/speech_mask"].sum()]


def test_trace(golden):
    """The stages in between: the first place to look when something above is off."""
    model = golden.model
    llm = [layer.input_layernorm for layer in model.decoder.layers]
    after = {
        "enc_block": [*model.encoder.blocks[1:], model.encoder.norm],
        "ada_block": [*model.projector.blocks[1:], model.projector.norm],
        "llm_layer": [*llm[1:], model.decoder.norm],
    }
    places = {f"{name}{i}": module for name, modules in after.items() for i, module in enumerate(modules)}
    places |= {"enc_stem": model.encoder.blocks[0], "ada_in": model.projector.blocks[0]}
    mel, row = golden.mel("a"), golden.row("single/a", golden.labels("a"))
    with inputs_of(places) as seen:
        sequences = model.assemble(model.listen(mel, golden.frames(mel)), [row])
        seen["llm_norm"] = model.decoder(sequences.embeds_BND)
    assert seen.keys() == {key.removeprefix("trace/a/") for key in golden.arrays if key.startswith("trace/a/")}
    for name, tensor in seen.items():
        assert far(tensor, golden.arrays[f"trace/a/{name}"]) <= (LOGITS if "llm" in name else SPEECH), name


@pytest.mark.parametrize("case", ["single/a", "single/b", "noprompt/a"])
def test_teacher_forced(golden, case):
    check_teacher_forced(golden, case)


def test_text_only(pangu):
    check_teacher_forced(pangu, "intent")


def check_teacher_forced(golden, case: str) -> None:
    utterance = case.split("/")[-1]
    mel = None if case == "intent" else golden.mel(utterance)
    row = golden.row(case, golden.labels(utterance))
    speech = None if mel is None else golden.model.listen(mel, golden.frames(mel))
    sequences = golden.model.assemble(speech, [row])
    assert far(sequences.embeds_BND, golden.arrays[f"{case}/inputs_embeds"]) <= SPEECH
    assert sequences.labels_BN.cpu().equal(golden.arrays[f"{case}/labels"])
    logits, loss = golden.teacher_forced(golden.model, mel, row)
    assert far(logits[golden.spec["logits_from"][case] :], golden.arrays[f"{case}/logits"][0]) <= LOGITS
    assert abs(loss - golden.spec["losses"][case]) <= LOSS


def test_sequence_layout(golden):
    """The text of a recorded case is the recorded prompt and label, so `row` takes nothing from thin air."""
    row = golden.row("single/a", golden.labels("a"))
    assert list(row.target) == golden.arrays["inputs/a/label_ids"].tolist()
    prompt = golden.arrays["inputs/a/prompt_ids"].tolist()
    assert list(row.before)[-len(prompt) :] == prompt
    assert bool(row.after) == (golden.name == "pangu")


def test_batch_equals_single_runs(golden):
    """The reference's batches differ from its own single runs; ours give what each utterance gives alone."""
    mels = [golden.mel(utterance)[0] for utterance in "bca"]
    frames = golden.frames(*mels)
    padded = mels[0].new_full((3, 80, int(frames.max()) + 1), 5.0)  # what stands in the padding must not matter
    for mel, place in zip(mels, padded, strict=True):
        place[:, : mel.shape[1]] = mel
    speech = golden.model.listen(padded, frames)
    for i, utterance in enumerate("bca"):
        vectors = golden.arrays[f"single/{utterance}/speech_embeds"][0]
        assert far(speech.vectors_BSD[i, : speech.vector_counts_B[i]], vectors) <= SPEECH
        encoded = golden.arrays[f"single/{utterance}/encoder_out"][0]
        assert far(speech.encoded_BTE[i, : speech.encoded_lengths_B[i]], encoded) <= SPEECH


def test_batched_sequences(golden):
    mels, counts = [golden.mel(u)[0] for u in "ba"], [golden.labels(u) for u in "ba"]
    padded = torch.nn.utils.rnn.pad_sequence([mel.T for mel in mels], batch_first=True).transpose(1, 2)
    speech = golden.model.listen(padded, golden.frames(*mels))
    rows = [golden.row(f"single/{u}", golden.labels(u)) for u in "ba"]
    sequences = golden.model.assemble(speech, rows)
    logits = golden.model.decoder.logits(golden.model.decoder(sequences.embeds_BND))
    for i, u in enumerate("ba"):
        start, length = golden.spec["logits_from"][f"single/{u}"], sequences.lengths[i]
        assert far(logits[i, start:length], golden.arrays[f"single/{u}/logits"][0]) <= LOGITS
    # b fills the recorded batch, so there the reference agrees with its single run; it pads b's text in the middle
    start, present = golden.spec["logits_from"]["batch/ba"], golden.arrays["batch/ba/attention_mask"][0]
    ours = logits[0, : sequences.lengths[0]][int(present[:start].sum()) :]
    assert far(ours, golden.arrays["batch/ba/logits"][0][present[start:]]) <= LOGITS
    expected = sum(n * golden.spec["losses"][f"single/{u}"] for n, u in zip(counts, "ba", strict=True)) / sum(counts)
    assert abs(float(golden.model.loss(sequences)[0]) - expected) <= LOSS


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(
    ("utterance", "penalty", "name"), [(u, p, f"rp{p * 100:.0f}") for u in "ab" for p in (1.0, 1.05)]
)
def test_greedy(golden, greedy, utterance, penalty, name, cached):
    model, mel = golden.model, golden.mel(utterance)
    speech = model.listen(mel, golden.frames(mel))
    prefix = model.assemble(speech, [golden.row(f"greedy/{utterance}", 0)]).embeds_BND[0]
    assert far(prefix, golden.arrays[f"greedy/{utterance}/prefix_embeds"]) <= SPEECH
    expected = golden.arrays[f"greedy/{utterance}/{name}/ids"].tolist()
    ids, logits = greedy(model.decoder, prefix, len(expected), penalty=penalty, cached=cached)
    assert ids == expected
    assert far(logits[0], golden.arrays[f"greedy/{utterance}/first_logits"]) <= LOGITS
    if penalty != 1.0:  # the reference's default is what was recorded
        assert far(logits[-1], golden.arrays[f"greedy/{utterance}/last_logits"]) <= LOGITS


def test_greedy_without_prompt(osum, greedy):
    mel = osum.mel("a")
    prefix = osum.model.assemble(osum.model.listen(mel, osum.frames(mel)), [Row()]).embeds_BND[0]
    expected = osum.arrays["greedy/a/noprompt_rp105/ids"].tolist()
    assert greedy(osum.model.decoder, prefix, len(expected), penalty=1.05)[0] == expected


@pytest.mark.parametrize("variant", ["nolora", "partial_lora"])
def test_lora_variants(golden, variant):
    kept = ("o_proj", "gate_proj", "down_proj") if variant == "partial_lora" else ()
    state = {
        key if any(name in key for name in kept) else key.replace(".base_layer.", "."): tensor
        for key, tensor in golden.state.items()
        if ".lora_" not in key or any(name in key for name in kept)
    }
    model, report = golden.convert(state)
    assert bool(report.merged) == bool(kept)
    logits, loss = golden.teacher_forced(model, golden.mel("a"), golden.row("single/a", golden.labels("a")))
    start = golden.spec["logits_from"][f"{variant}/a"]
    assert far(logits[start:], golden.arrays[f"{variant}/a/logits"][0]) <= LOGITS
    assert abs(loss - golden.spec["losses"][f"{variant}/a"]) <= LOSS


def check_pangu_variant(golden, model, mel: Tensor, variant: str) -> None:
    speech = model.listen(mel, golden.frames(mel))
    assert far(speech.encoded_BTE, golden.arrays[f"{variant}/a/encoder_out"]) <= SPEECH
    assert far(speech.vectors_BSD, golden.arrays[f"{variant}/a/speech_embeds"]) <= SPEECH
    logits, _ = golden.teacher_forced(model, mel, golden.row("single/a", golden.labels("a")))
    start = golden.spec["logits_from"][f"{variant}/a"]
    assert far(logits[start:], golden.arrays[f"{variant}/a/logits"][0]) <= LOGITS


def test_recomputed_positions(pangu):
    state = {key: tensor for key, tensor in pangu.state.items() if not key.endswith(".pos_enc.pe")}
    model, _ = pangu.convert(state)
    assert not model.config.encoder.stored_positions
    assert not model.config.projector.stored_positions
    check_pangu_variant(pangu, model, pangu.mel("a"), "analytic_pe")


def test_unrounded_features(pangu):
    check_pangu_variant(pangu, pangu.model, pangu.mel("a", rounded=False), "unrounded_feats")


def test_hole_in_the_label(pangu):
    """OSUM-Pangu masks one label id out, leaving a gap in the row; packed rows simply lack it.

    The reference still scores the token after the gap from the gap's own row, which no packed row has: that one
    term of the loss is taken from its recorded logits.
    """
    present = pangu.arrays["hole/a/attention_mask"][0]
    row = pangu.row("hole/a", pangu.labels("a"))
    gap = int((~present).nonzero()) - (len(present) - len(row.target))
    packed = dataclasses.replace(row, target=[*row.target[:gap], *row.target[gap + 1 :]])
    logits, _ = pangu.teacher_forced(pangu.model, pangu.mel("a"), packed)
    start, recorded = pangu.spec["logits_from"]["hole/a"], pangu.arrays["hole/a/logits"][0]
    assert far(logits[start:], recorded[present[start:]]) <= LOGITS
    scores = logits[-len(packed.target) - 1 : -1].log_softmax(-1)
    terms = [-float(scores[i, token]) for i, token in enumerate(packed.target)]
    terms[gap] = -float(recorded[~present[start:]].log_softmax(-1)[0, packed.target[gap]])
    assert abs(sum(terms) / len(terms) - pangu.spec["losses"]["hole/a"]) <= LOSS
