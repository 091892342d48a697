"""Low-rank adapters on linear layers, stored as peft stores them, and merged into the weights when done.

A layer's output becomes ``W x + (alpha / r) B A x``; only A [r, in] and B [out, r] are trained.
Source: Hu et al. 2021, "LoRA"; files and names as peft 0.21 writes them (`adapter_config.json`,
`adapter_model.safetensors`).
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as fn

from zhiyin.errors import UserError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."  # peft's wrapping of the model
_PARTS = ("lora_A", "lora_B")
# What an adapter of peft may not ask for, since we would compute something else.
_REFUSED = (
    "use_dora",
    "use_rslora",
    "use_qalora",
    "fan_in_fan_out",
    "lora_bias",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "trainable_token_indices",
    "layer_replication",
    "target_parameters",
    "alora_invocation_tokens",
)


@dataclass(frozen=True)
class LoraConfig:
    """Which layers are adapted, and how.

    Attributes:
        r: rank of the adapters.
        alpha: their product is multiplied with alpha / r.
        dropout: of what goes into A while training.
        targets: names of linear layers, or the ends of their names; by default what OSUM and OSUM-Pangu adapt.
    """

    r: int = 8
    alpha: float = 32.0
    dropout: float = 0.1
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj")

    def __post_init__(self) -> None:
        if self.r < 1 or not 0 <= self.dropout < 1 or not self.alpha > 0 or not self.targets:
            raise UserError(
                f"lora: r {self.r}, alpha {self.alpha:g}, dropout {self.dropout:g} with {len(self.targets)} targets;"
                " r is at least 1, alpha above 0, dropout from 0 to below 1, and at least one target is named"
            )


class LoraLinear(nn.Linear):
    """A linear layer with an adapter; weight and bias keep their names."""

    def __init__(self, base: nn.Linear, config: LoraConfig):
        nn.Module.__init__(self)  # the weights are those of `base`, not new ones
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        device = base.weight.device
        self.lora_A = nn.Linear(self.in_features, config.r, bias=False, device=device)
        self.lora_B = nn.Linear(config.r, self.out_features, bias=False, device=device)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)  # it begins as the layer it was
        self.scale, self.dropout = config.alpha / config.r, config.dropout

    def forward(self, x: Tensor) -> Tensor:
        """The layer and its adapter."""
        low = fn.dropout(x.to(self.lora_A.weight.dtype), self.dropout, self.training) if self.dropout else x
        return fn.linear(x, self.weight, self.bias) + self.lora_B(self.lora_A(low)) * self.scale

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """The weight of a plain layer that computes the same."""
        product = self.lora_B.weight.float() @ self.lora_A.weight.float()
        return (self.weight.float() + self.scale * product).to(self.weight.dtype)


def attach(model: nn.Module, config: LoraConfig) -> list[str]:
    """Give the linear layers named by `config.targets` an adapter; returns their names.

    Raises:
        UserError: a target fits no linear layer that is called as one.
    """
    layers = {name: layer for name, layer in model.named_modules() if type(layer) is nn.Linear}
    layers = {name: layer for name, layer in layers.items() if name.split(".")[-1] != "lm_head"}  # its weight is read
    for target in config.targets:
        if not any(_is_named(name, target) for name in layers):
            known = " ".join(dict.fromkeys(name.split(".")[-1] for name in layers))
            raise UserError(f"lora: targets name '{target}', which is no linear layer of the model; there are: {known}")
    chosen = [name for name in layers if any(_is_named(name, target) for target in config.targets)]
    for name in chosen:
        _replace(model, name, LoraLinear(layers[name], config))
    return chosen


def is_adapter(name: str) -> bool:
    """Whether a parameter belongs to an adapter, by its name."""
    return any(part in name.split(".") for part in _PARTS)


def merge(model: nn.Module) -> None:
    """Put plain layers in place of the adapted ones; the model computes the same without adapters."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLinear):
            plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
            plain.weight, plain.bias = nn.Parameter(layer.merged_weight()), layer.bias
            _replace(model, name, plain)


def merged_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The state that `merge` would leave, one tensor at a time; the model stays as it is."""
    weights = {f"{name}.weight": layer for name, layer in model.named_modules() if isinstance(layer, LoraLinear)}
    for name, tensor in model.state_dict().items():
        if not is_adapter(name):
            yield name, weights[name].merged_weight() if name in weights else tensor.detach()


def save(folder: Path, model: nn.Module, config: LoraConfig, base: str) -> None:
    """Write the adapters of a model so that peft loads them onto the model without adapters.

    Args:
        folder: of `adapter_config.json` and `adapter_model.safetensors`.
        model: with adapters.
        config: they were made with.
        base: name or path of the checkpoint they belong to.

    Raises:
        UserError: the folder cannot be written.
    """
    state = {_PREFIX + name: value for name, value in model.state_dict().items() if is_adapter(name)}
    about = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": config.r,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": sorted(name for name, layer in model.named_modules() if isinstance(layer, LoraLinear)),
        "bias": "none",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(_on_cpu(state), folder / f"{WEIGHTS}.part")
        (folder / f"{CONFIG}.part").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        for name in (WEIGHTS, CONFIG):
            (folder / f"{name}.part").replace(folder / name)
    except (OSError, SafetensorError) as error:
        raise UserError(f"adapter {folder}: cannot be written ({error}); make room and go on") from error


def load(folder: Path, model: nn.Module) -> LoraConfig:
    """Attach the adapters that `save` or peft wrote in a folder; returns how they were made.

    Raises:
        UserError: no adapter is there, it is damaged, it asks for something else than plain LoRA, or it does not fit.
    """
    where = f"adapter {folder}"
    try:
        about = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        state = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{where}: it cannot be read ({error}); {CONFIG} and {WEIGHTS} are needed") from error
    found = {key.removeprefix(_PREFIX): value for key, value in state.items()}
    config = _config(about, found, where)
    try:
        attach(model, config)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    own = {name: value for name, value in model.state_dict().items() if is_adapter(name)}
    wrong = [name for name in own.keys() | found.keys() if _shape(own, name) != _shape(found, name)]
    if wrong:
        name = min(wrong)
        raise UserError(f"{where}: {name} is {_shape(found, name)}, the model's is {_shape(own, name)}; another model?")
    model.load_state_dict(found, strict=False)
    return config


def _config(about: Mapping[str, Any], found: Mapping[str, Tensor], where: str) -> LoraConfig:
    if about.get("peft_type") != "LORA":
        raise UserError(f"{where}: it is of the type {about.get('peft_type')!r}; only LORA is read")
    asked = [name for name in _REFUSED if about.get(name)] + (["bias"] if about.get("bias", "none") != "none" else [])
    if asked:
        raise UserError(f"{where}: it uses {', '.join(asked)}, which is not read here; merge it with peft")
    layers = tuple(sorted({name.rpartition(".lora_")[0] for name in found}))
    return LoraConfig(int(about["r"]), float(about["lora_alpha"]), float(about.get("lora_dropout", 0.0)), layers)


def _is_named(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...] | str:
    return tuple(state[name].shape) if name in state else "missing"


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}
