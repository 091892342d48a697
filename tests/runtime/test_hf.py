"""Granite Speech and Granite Speech Plus through our pipeline, against transformers itself; foreign folders."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.runtime import hf_tiny
from zhiyin.errors import UserError
from zhiyin.runtime import device as devices
from zhiyin.runtime import load as loading
from zhiyin.runtime.generate import Prompt, decode
from zhiyin.runtime.hf import HfBackend
from zhiyin.runtime.load import load

MAKE = {"granite-speech": hf_tiny.granite, "granite-speech-plus": hf_tiny.granite_plus}
BEFORE, AFTER = (85, 83, 69), ((32, 10), (7,), (44, 45, 46, 47))
FRAMES = (31, 7, 90)  # blocks of the encoder are 20: more than one, less than one, several

Break = Callable[[Path], object]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random model of each family."""
    root = tmp_path_factory.mktemp("hf")
    return {family: make(root / family) for family, make in MAKE.items()}


@pytest.fixture(params=list(MAKE))
def folder(folders: dict[str, Path], request: pytest.FixtureRequest) -> Path:
    """Each of them."""
    return folders[request.param]


def features(*frames: int) -> list[np.ndarray]:
    generator = np.random.default_rng(7)
    return [generator.standard_normal((160, count)).astype(np.float32) for count in frames]


def prompts(backend: HfBackend) -> list[Prompt]:
    heard = backend.encode(features(*FRAMES))
    return [Prompt(BEFORE, one.vectors_SD, after) for one, after in zip(heard, AFTER, strict=True)]


def reference(folder: Path) -> transformers.PreTrainedModel:
    """The model as transformers itself loads and runs it."""
    config = transformers.AutoConfig.from_pretrained(folder)
    return getattr(transformers, config.architectures[0]).from_pretrained(folder)


def generate(model: transformers.PreTrainedModel, mel_MF: np.ndarray, after: Sequence[int], count: int) -> list[int]:
    """What its own `generate` says: 3 placeholders for 15 columns begun, which it replaces by the speech vectors."""
    ids = [*BEFORE, *[hf_tiny.AUDIO] * (3 * -(-mel_MF.shape[1] // 15)), *after]
    with torch.inference_mode():
        said = model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones((1, len(ids)), dtype=torch.long),
            input_features=torch.from_numpy(np.ascontiguousarray(mel_MF.T))[None],
            max_new_tokens=count,
            do_sample=False,
        )
    return said[0, len(ids) :].tolist()


def test_the_spec_says_what_the_files_say(folder: Path) -> None:
    backend = HfBackend(folder, device="cpu")
    spec = backend.spec
    assert (spec.name, spec.family) == (folder.name, folder.name)
    assert (spec.front_end, spec.num_mels, spec.max_frames, spec.eos_id) == ("granite", 160, 1500, hf_tiny.END)
    assert (spec.max_tokens, spec.precision, spec.can_follow_instructions) == (2048, "float32", False)
    assert str(backend.device) == "cpu (asked for; float32: auto: exact)"
    assert backend.markers.shape == (0, 48) and backend.embed([]).shape == (0, 48)


def test_greedy_replies_are_those_of_transformers(folder: Path) -> None:
    backend, model = HfBackend(folder, device="cpu"), reference(folder)
    replies = decode(backend, prompts(backend), max_new_tokens=20)
    for mel_MF, after, reply in zip(features(*FRAMES), AFTER, replies, strict=True):
        said = generate(model, mel_MF, after, 20)
        assert list(reply.ids) == (said[:-1] if reply.ended else said)
    assert len({reply.ids for reply in replies}) == len(replies), "other speech, other reply"


def test_a_batch_gives_what_each_gets_alone(folder: Path) -> None:
    backend = HfBackend(folder, device="cpu")
    together = backend.encode(features(*FRAMES))
    for mel_MF, one in zip(features(*FRAMES), together, strict=True):
        assert np.array_equal(one.vectors_SD, backend.encode([mel_MF])[0].vectors_SD)
        assert len(one.vectors_SD) == 3 * -(-mel_MF.shape[1] // 15)
    batch = decode(backend, prompts(backend), max_new_tokens=20)
    alone = [decode(backend, [prompt], max_new_tokens=20)[0] for prompt in prompts(backend)]
    assert [reply.ids for reply in batch] == [reply.ids for reply in alone]
    assert [reply.mean_logprob for reply in batch] == pytest.approx([reply.mean_logprob for reply in alone], abs=1e-5)


def test_scores_are_those_of_the_language_model(folder: Path) -> None:
    """`GraniteForCausalLM` divides them by `logits_scaling`, `GraniteSpeechForConditionalGeneration` forgets it."""
    backend = HfBackend(folder, device="cpu")
    speech = reference(folder)
    plain = transformers.GraniteForCausalLM(speech.config.text_config).eval()
    plain.model.load_state_dict(speech.model.language_model.state_dict())
    plain.lm_head.load_state_dict(speech.lm_head.state_dict())
    embeds_ND = backend.embed(range(40, 60))
    with torch.inference_mode():
        wanted_NV = plain(inputs_embeds=torch.from_numpy(embeds_ND)[None]).logits[0].numpy()
        sure_NV = speech(inputs_embeds=torch.from_numpy(embeds_ND)[None]).logits[0].numpy()
    session = backend.start(2)
    first_BV = session.extend([embeds_ND[:5], embeds_ND[:12]])
    then_BV = session.extend([embeds_ND[5:20], embeds_ND[12:13]])
    for logits_V, place in ((first_BV[0], 4), (first_BV[1], 11), (then_BV[0], 19), (then_BV[1], 12)):
        np.testing.assert_allclose(logits_V, wanted_NV[place], atol=2e-5)
        np.testing.assert_allclose(logits_V * 8, sure_NV[place], atol=2e-4)


def test_sessions_keep_rows_and_refuse_what_does_not_fit(folder: Path) -> None:
    backend = HfBackend(folder, device="cpu")
    embeds_ND = backend.embed(range(40, 60))
    session = backend.start(3)
    session.extend([embeds_ND[:3], embeds_ND[:9], embeds_ND[:6]])
    session.keep([2, 0])
    kept_BV = session.extend([embeds_ND[6:7], embeds_ND[3:4]])
    for logits_V, count in zip(kept_BV, (7, 4), strict=True):
        np.testing.assert_allclose(logits_V, backend.start(1).extend([embeds_ND[:count]])[0], atol=2e-5)
    with pytest.raises(ValueError, match="do not fit a cache of 2048"):
        session.extend([embeds_ND[:1], np.repeat(embeds_ND, 103, axis=0)])
    for wrong in ([embeds_ND[:1]], [embeds_ND[:1], embeds_ND[:0]]):
        with pytest.raises(ValueError, match="2 rows, each with tokens"):
            session.extend(wrong)


def test_any_of_several_end_tokens_ends(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / folder.name)
    backend = HfBackend(copy, device="cpu")
    said = decode(backend, prompts(backend)[:1], max_new_tokens=3)[0].ids
    generation = json.loads((copy / "generation_config.json").read_text())
    (copy / "generation_config.json").write_text(json.dumps({**generation, "eos_token_id": [hf_tiny.END, said[2]]}))
    reply = decode(HfBackend(copy, device="cpu"), prompts(backend)[:1], max_new_tokens=9)[0]
    ends = said.index(said[2])
    assert (reply.ids, reply.ended) == (said[:ends], True)


def test_half_the_memory_where_asked(folder: Path) -> None:
    backend = HfBackend(folder, device="cpu", dtype="bfloat16")
    assert backend.spec.precision == "bfloat16" and "bfloat16: asked for" in str(backend.device)
    assert {parameter.dtype for parameter in backend.model.parameters()} == {torch.bfloat16}
    exact = HfBackend(folder, device="cpu").encode(features(31))[0].vectors_SD
    close = backend.encode(features(31))[0].vectors_SD
    assert close.dtype == np.float32 and 0 < np.abs(close - exact).max() < 0.1
    assert len(decode(backend, prompts(backend), max_new_tokens=3)) == len(FRAMES)
    with pytest.raises(UserError, match=r"dtype 'bfloat' is not known; known: auto .*did you mean 'bfloat16'\?"):
        HfBackend(folder, device="cpu", dtype="bfloat")


def test_features_of_another_kind_are_refused(folder: Path) -> None:
    for mel_MF in (np.zeros((80, 9), np.float32), np.zeros((160, 1501), np.float32), np.zeros((160, 0), np.float32)):
        with pytest.raises(ValueError, match=r"takes \[160, 1 to 1500\]"):
            HfBackend(folder, device="cpu").encode([mel_MF])


@pytest.mark.filterwarnings("ignore:Could not find a config file")  # of peft, while it saves the adapter
def test_a_lora_adapter_beside_the_model(tmp_path: Path) -> None:
    """As in Granite Speech 3: `generate` switches it on for speech. A missing one must not pass unseen."""
    peft = pytest.importorskip("peft")
    base = hf_tiny.granite(tmp_path / "base", has_lora_adapter=True)
    with pytest.raises(UserError, match=r"a LoRA adapter belongs to it, but not both of adapter_config.json and"):
        HfBackend(base, device="cpu")
    model = reference(base)
    torch.manual_seed(1)
    names = r".*language_model.*\.(q_proj|v_proj)"
    model.add_adapter(peft.LoraConfig(r=4, lora_alpha=64, target_modules=names, init_lora_weights=False))
    model.save_pretrained(str(tmp_path / "both"))
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(tmp_path / "both" / name, base)
    backend = HfBackend(base, device="cpu")
    with_adapter = [list(reply.ids) for reply in decode(backend, prompts(backend), max_new_tokens=12)]
    assert with_adapter == [generate(model, *pair, 12) for pair in zip(features(*FRAMES), AFTER, strict=True)]
    model.disable_adapters()
    embeds = backend.embed(range(40, 60))
    plain = model(inputs_embeds=torch.from_numpy(embeds)[None]).logits[0, -1].detach().numpy() / 8
    assert np.abs(backend.start(1).extend([embeds])[0] - plain).max() > 0.01, "the adapter matters"
    with pytest.raises(UserError, match=r"lacks weights: 4, first model.language_model.layers.0.self_attn.q_proj"):
        HfBackend(tmp_path / "both", device="cpu")  # what its save_pretrained writes here has no base to stand on


def test_without_its_extra_one_line_says_what_to_install(folders: dict[str, Path], monkeypatch) -> None:
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs torch and transformers: pip install 'zhiyin\[hf\]'"):
        load(folders["granite-speech"])


def test_too_large_a_model_is_refused_before_it_is_read(folders: dict[str, Path], monkeypatch) -> None:
    def unread(*_: object, **__: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(transformers.GraniteSpeechForConditionalGeneration, "from_pretrained", unread)
    monkeypatch.setattr(devices, "free_bytes", lambda device: 1_000_000)
    with pytest.raises(UserError, match=r"billion weights as float32 needs .* GB on cpu, where 0.0 GB are free"):
        HfBackend(folders["granite-speech"], device="cpu")


def _config(**changes: object) -> Break:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        for name, value in changes.items():
            place, _, key = name.rpartition("__")
            (config[place] if place else config)[key] = value
        (folder / "config.json").write_text(json.dumps(config))

    return change


def _weights(edit: Callable[[dict[str, torch.Tensor]], object], shard: int = 2) -> Break:
    """Change a shard, and the index with it."""

    def change(folder: Path) -> None:
        path = folder / f"model-{shard:05d}-of-00005.safetensors"
        tensors = load_file(path)
        edit(tensors)
        save_file(tensors, path)
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        places = {name: file for name, file in index["weight_map"].items() if file != path.name}
        index["weight_map"] = {**places, **dict.fromkeys(tensors, path.name)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return change


def _pickled(folder: Path) -> None:
    for path in folder.glob("model*.safetensors*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))


def _vocabulary(*, without: str = "", more: int = 0) -> Break:
    def change(folder: Path) -> None:
        record = json.loads((folder / "tokenizer.json").read_text())
        record["added_tokens"] = [token for token in record["added_tokens"] if token["content"] != without]
        record["model"]["vocab"] |= {f"more{i}": 300 + i for i in range(more)}
        (folder / "tokenizer.json").write_text(json.dumps(record))

    return change


def _cut(name: str, left: int) -> Break:
    def change(folder: Path) -> None:
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(raw[:left])

    return change


_SHARD = "model-00003-of-00005.safetensors"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / _SHARD).unlink(), rf"1 of 5 shards missing \({_SHARD}\); copy"),
        (
            lambda folder: (folder / _SHARD).rename(folder / f"{_SHARD}.incomplete"),
            rf"1 of 5 shards missing .*a download is unfinished \({_SHARD}.incomplete\)",
        ),
        (_cut(_SHARD, -8), f"{_SHARD} is damaged"),
        (_cut(_SHARD, 5), f"{_SHARD} is damaged"),
        (_cut("model.safetensors.index.json", 40), "index.json is damaged"),
        (_cut("config.json", 40), "config.json is damaged"),
        (_cut("tokenizer.json", 40), "tokenizer.json: cannot be read"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json: cannot be read"),
        (_pickled, "model.safetensors is damaged or missing"),
        (_weights(lambda tensors: tensors.pop(sorted(tensors)[0])), r"lacks weights: 1, first \w+"),
        (
            _weights(lambda tensors: tensors.update(surprise=torch.zeros(2))),
            "holds weights the model does not have: 1, first surprise",
        ),
        (
            _weights(lambda tensors: tensors.update({name: t.flatten()[1:] for name, t in [min(tensors.items())]})),
            r"holds weights of another shape than config.json says: 1, first \('\w+",
        ),
        (_weights(lambda tensors: min(tensors.items())[1].view(-1)[0:1].fill_(torch.nan)), r"weight .* is not finite"),
        (_config(text_config__num_hidden_layers=3), "lacks weights: 9, first"),
        (_config(text_config__num_hidden_layers=1), "holds weights the model does not have: 9, first"),
        (_config(text_config__hidden_size=64), "holds weights of another shape than config.json says"),
        (_config(text_config__hidden_size="wide"), "transformers cannot load it"),
        (_config(encoder_config__input_dim=0), "encoder_config.input_dim is 0; a number of mel bins was expected"),
        (
            _config(model_type="telepathy"),
            r"says model_type 'telepathy', which this version does not run; it runs: granite_speech granite_speech_pl",
        ),
        (_vocabulary(more=5), "its tokenizer has 265 tokens, its embeddings 260 rows"),
    ],
)
def test_damaged_folders_are_refused(folders: dict[str, Path], tmp_path: Path, damage: Break, message: str) -> None:
    copy = shutil.copytree(folders["granite-speech"], tmp_path / "copy")
    damage(copy)
    with pytest.raises(UserError, match=message) as caught:
        load(copy, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_the_marks_of_the_prompt_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(folders["granite-speech-plus"], tmp_path / "copy")
    _vocabulary(without="<|start_of_role|>")(copy)
    with pytest.raises(UserError, match=r"its tokenizer lacks <\|start_of_role\|>, which prompts of granite-"):
        load(copy, device="cpu")


def test_a_model_that_does_not_say_how_replies_end_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(folders["granite-speech"], tmp_path / "copy")
    (copy / "generation_config.json").unlink()
    assert load(copy, device="cpu").backend.spec.eos_id == hf_tiny.END  # config.json says it as well
    _config(text_config__eos_token_id=None)(copy)
    with pytest.raises(UserError, match=r"neither generation_config.json nor config.json says eos_token_id"):
        load(copy, device="cpu")


# What the chat templates of the published models write (granite-speech-4.1-2b; its plus variant, which has a system
# text of its own where none is given), and two that ask in another way.
USER = "{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }}\n ASSISTANT:{% endif %}{% endfor %}"
ROLES = (
    "{% if messages[0].role != 'system' %}<|start_of_role|>system<|end_of_role|>Be safe.<|end_of_text|>\n{% endif %}"
    "{% for m in messages %}<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}<|end_of_text|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)
PARTS = (
    "{% for m in messages %}{% for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %}{% endfor %}"
)


@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer_config.json", "chat_template.json"])
@pytest.mark.parametrize(
    ("family", "template", "found"),
    [
        ("granite-speech", USER, "agrees with the prompt"),
        ("granite-speech-plus", ROLES, "agrees with the prompt"),
        ("granite-speech", ROLES, "granite-3"),  # Granite Speech 3
        ("granite-speech-plus", USER, None),
        ("granite-speech", USER.replace("\n ", " "), None),
        ("granite-speech-plus", ROLES.replace("assistant", "model"), None),
        ("granite-speech-plus", ROLES[: ROLES.index("{% if add")], None),
        ("granite-speech", PARTS, "not compared: it does not take a plain text"),
    ],
)
def test_chat_templates_are_compared_with_the_prompt(
    folders: dict[str, Path], tmp_path: Path, file: str, family: str, template: str, found: str | None
) -> None:
    copy = shutil.copytree(folders[family], tmp_path / "copy")
    text = template if file.endswith("jinja") else json.dumps({"chat_template": template})
    (copy / file).write_text(text)
    if found is None:
        with pytest.raises(UserError, match=f"its chat template does not write the prompts of {family}"):
            load(copy, device="cpu")
    else:
        extra = load(copy, device="cpu").backend.spec.extra
        template = "" if " " in found else found
        assert extra["chat_template"] == ("agrees with the prompt" if template else found)
        assert extra.get("template", "") == template


OFFLINE = """
import socket, sys

def refuse(*_, **__):
    raise AssertionError("the network was asked")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
import zhiyin
result = zhiyin.load(sys.argv[1], device="cpu").understand(sys.argv[2])
print(result.family, result.backend, result.precision, len(result.segments))
"""


def test_nothing_asks_the_network_and_no_code_of_the_folder_runs(
    folders: dict[str, Path], tmp_path: Path, repository: Path
) -> None:
    copy = shutil.copytree(folders["granite-speech"], tmp_path / "copy")
    _config(auto_map={"AutoConfig": "bomb.Config", "AutoModel": "bomb.Model"})(copy)
    (copy / "bomb.py").write_text(f"open({str(tmp_path / 'exploded')!r}, 'w')")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    command = [sys.executable, "-c", OFFLINE, str(copy), str(repository / "samples" / "digits-1.flac")]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["granite-speech", "hf", "float32", "1"]
    assert not (tmp_path / "exploded").exists()
