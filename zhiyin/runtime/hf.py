"""Runs models of other makers through transformers (extra `hf`): the families of `runtime.hf_spec`.

The generation loop, prompts and windows are ours; of transformers come the audio tower and the language model. Where
its processor repeats a placeholder token and then overwrites its embeddings by the speech vectors, ours stand there
at once.

Call `runtime.device.before_torch` before this module is imported. Shapes: `B` batch, `N` tokens in one call,
`D` decoder width, `V` vocabulary, `M` rows and `F` columns of features.
"""

import dataclasses
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import DynamicCache

from zhiyin.errors import UserError
from zhiyin.model import files, shards
from zhiyin.runtime import hf_spec
from zhiyin.runtime.base import Encoded, Float32
from zhiyin.runtime.device import check_memory, choose, choose_dtype
from zhiyin.runtime.eager import devices
from zhiyin.runtime.hf_listen import LISTEN

ENGINE = "torch"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_CHECKED_AT_ONCE = 2**22  # weights looked at in one go: a look needs memory too
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class HfBackend:
    """A model folder of the hub as a backend."""

    name = "hf"

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        threads: int | None = None,
        note: str = "",
    ):
        """Read a model; nothing is downloaded, no code of the folder runs, and only safetensors are opened.

        Args:
            folder: as on the hub, whole.
            device: see `runtime.device.choose`.
            dtype: of the weights, see `runtime.device.choose_dtype`; the device's reason says what was chosen and why.
            threads: of torch in this process; by default torch's own choice.
            note: what `runtime.device.before_torch` said.

        Raises:
            UserError: no whole model that we run, too large for the memory, or the device is not there.
        """
        kind, spec, config = hf_spec.read(folder)
        chosen = choose(device, devices(), engine=ENGINE, note=note)
        precision, why = choose_dtype(dtype, chosen)
        self.device = dataclasses.replace(chosen, reason=f"{chosen.reason}; {precision}: {why}")
        if threads:
            torch.set_num_threads(threads)
        self.model = _load(folder, kind, config, precision, self.device.name)
        self.spec = dataclasses.replace(spec, precision=precision)
        self._listen = LISTEN[kind.model_type]
        self._end_ids = hf_spec.end_ids(folder, config)

    @torch.inference_mode()
    def encode(self, mels: Sequence[Float32]) -> list[Encoded]:
        """See `runtime.base.Backend`."""
        for mel_MF in mels:
            self.spec.check_mel(mel_MF)
        return [Encoded(_fetch(self._listen(self.model, self._send(mel_MF)))) for mel_MF in mels]

    @torch.inference_mode()
    def embed(self, ids: Sequence[int]) -> Float32:
        """See `runtime.base.Backend`."""
        table = self.model.model.language_model.get_input_embeddings()
        return _fetch(table(torch.tensor(list(ids), dtype=torch.long, device=self.device.name)))

    @property
    def markers(self) -> Float32:
        """None: the prompts of these families hold their own tokens around the speech."""
        return np.zeros((0, self.model.model.language_model.config.hidden_size), np.float32)

    def start(self, batch: int) -> "HfSession":
        """See `runtime.base.Backend`."""
        return HfSession(self.model, batch, self.spec.max_tokens, self._end_ids)

    def _send(self, array: Float32) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device.name, self.model.dtype)


class HfSession:
    """The language model with a cache that grows; shorter rows are padded on the right and what pads is masked."""

    def __init__(self, model: Any, batch: int, places: int, end_ids: Sequence[int]):
        """Begin.

        Args:
            model: a `...ForConditionalGeneration` of transformers.
            batch: rows.
            places: most tokens in one row.
            end_ids: tokens that end a reply; the scores of all of them are given to the first.
        """
        self._language_model, self._head, self._end_ids = model.model.language_model, model.lm_head, list(end_ids)
        # Granite divides its scores (GraniteForCausalLM); GraniteSpeechForConditionalGeneration of transformers 5
        # forgets it, which leaves the best token the best but makes all probabilities too sure.
        self._divisor = float(getattr(self._language_model.config, "logits_scaling", 1.0))
        self._cache = DynamicCache(config=self._language_model.config)
        self._places = places
        self._used_B = np.zeros(batch, np.int64)
        self._valid_BN = np.zeros((batch, 0), np.int64)

    @torch.inference_mode()
    def extend(self, embeds: Sequence[Float32]) -> Float32:
        """See `runtime.base.Session`; each row gets at least one token."""
        sizes_B = np.array([len(row) for row in embeds], np.int64)
        if sizes_B.shape != self._used_B.shape or not sizes_B.all():
            raise ValueError(f"{len(self._used_B)} rows, each with tokens, were expected: {sizes_B}")
        if (self._used_B + sizes_B).max() > self._places:
            raise ValueError(f"{sizes_B} tokens after {self._used_B} do not fit a cache of {self._places}")
        steps_N = np.arange(sizes_B.max())
        embeds_BND = np.zeros((len(embeds), len(steps_N), embeds[0].shape[1]), np.float32)
        for i, row in enumerate(embeds):
            embeds_BND[i, : len(row)] = row
        self._valid_BN = np.concatenate([self._valid_BN, steps_N < sizes_B[:, None]], axis=1)
        weight: Tensor = self._head.weight
        hidden_BND = self._language_model(
            inputs_embeds=torch.from_numpy(embeds_BND).to(weight.device, weight.dtype),
            attention_mask=torch.from_numpy(self._valid_BN).to(weight.device),
            position_ids=torch.from_numpy(self._used_B[:, None] + steps_N).to(weight.device),
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        self._used_B += sizes_B
        last_BD = hidden_BND[torch.arange(len(embeds)), torch.from_numpy(sizes_B - 1)]
        return self._one_end(_fetch(self._head(last_BD)) / self._divisor)

    def keep(self, rows: Sequence[int]) -> None:
        """See `runtime.base.Session`."""
        self._used_B, self._valid_BN = self._used_B[list(rows)], self._valid_BN[list(rows)]
        self._cache.batch_select_indices(torch.tensor(list(rows), device=self._head.weight.device))

    def _one_end(self, logits_BV: Float32) -> Float32:
        if len(self._end_ids) > 1:
            logits_BV[:, self._end_ids[0]] = logits_BV[:, self._end_ids].max(axis=1)
            logits_BV[:, self._end_ids[1:]] = logits_BV.min(axis=1, keepdims=True)
        return logits_BV


def _load(folder: Path, kind: hf_spec.Kind, config: dict[str, Any], dtype: str, device: str) -> Any:
    """The model, every weight of it from the folder and every weight of the folder used."""
    where = f"model {folder}"
    paths, index = files.shards(folder, where)
    found = shards.entries(paths, index, where)
    has_adapter = _check_adapter(folder, config, where)
    numbers = sum(entry.count for entry in found.values())
    check_memory(numbers * _BYTES[dtype], device, f"{where}: {numbers / 1e9:.3g} billion weights as {dtype}")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # what its report would say, the lines below say
    architecture = getattr(transformers, kind.architecture)
    try:
        # Weights are given, not a folder: with a folder that holds an adapter, transformers tells what the adapter
        # lacked and not what its base did.
        model, info = architecture.from_pretrained(
            None,
            config=architecture.config_class.from_pretrained(folder, local_files_only=True),
            state_dict=_tensors(found, getattr(torch, dtype)),
            dtype=getattr(torch, dtype),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are listed and we can name them
        )
        _check_loaded(info, where)
        if has_adapter:
            _add_adapter(model, folder, where)
    except UserError:
        raise
    except Exception as error:  # of many kinds: its own, of the hub, of safetensors, of torch
        raise UserError(f"{where}: transformers cannot load it ({_line(error)}); copy the model again") from error
    for name, weight in model.named_parameters():
        if not all(part.isfinite().all() for part in weight.detach().flatten().split(_CHECKED_AT_ONCE)):
            raise UserError(f"{where}: weight {name} is not finite as {dtype}; copy the model again")
    return model.to(device).eval().requires_grad_(False)


def _tensors(found: dict[str, shards.Entry], dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights in their format: converted one by one, or still in the mapped file where it has that format."""
    read = shards.tensors(found)
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in read}


def _check_adapter(folder: Path, config: dict[str, Any], where: str) -> bool:
    """Whether LoRA weights lie beside the model, as in Granite Speech 3; they are on for speech, and all our prompts
    hold speech."""
    there = (folder / hf_spec.ADAPTER).is_file() and (folder / ADAPTER_WEIGHTS).is_file()
    if not there and (config.get("has_lora_adapter") or (folder / hf_spec.ADAPTER).is_file()):
        needs = f"{hf_spec.ADAPTER} and {ADAPTER_WEIGHTS}"
        raise UserError(f"{where}: a LoRA adapter belongs to it, but not both of {needs} are there; copy it again")
    if there and importlib.util.find_spec("peft") is None:
        raise UserError(f"{where}: it has a LoRA adapter, which needs peft: pip install 'peft>=0.18'")
    return there


def _add_adapter(model: Any, folder: Path, where: str) -> None:
    """LoRA weights beside the base's."""
    peft = importlib.import_module("peft")
    found = shards.entries([folder / ADAPTER_WEIGHTS], None, where)
    settings = peft.PeftConfig.from_pretrained(str(folder), local_files_only=True)
    info = model.load_adapter(peft_config=settings, adapter_state_dict=_tensors(found, model.dtype))
    _check_loaded(info.to_dict(), f"{where}: {ADAPTER_WEIGHTS}")


def _check_loaded(info: dict[str, Any], where: str) -> None:
    """transformers leaves missing weights random and unknown ones unused; here both end."""
    for key, text in (
        ("missing_keys", "lacks weights"),
        ("unexpected_keys", "holds weights the model does not have"),
        ("mismatched_keys", "holds weights of another shape than config.json says"),
    ):
        found = sorted(map(str, info.get(key) or ()))
        if found:
            raise UserError(f"{where}: {text}: {len(found)}, first {found[0]}; copy the model again")


def _line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def _fetch(tensor: Tensor) -> Float32:
    return tensor.detach().float().cpu().numpy()
