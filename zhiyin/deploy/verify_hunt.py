"""Finds the first part of a model that computes something else: layer by layer, each fed with the reference's input.

Both models run; every outermost call of a part of the reference (encoder, projector, decoder) is played again on the
subject with exactly what the reference's part got. The first that gives another result is guilty; its own parts are
looked at in the same way, and so on down to a leaf. If all parts of a guilty one are innocent, either what it gives to
one of them is already wrong (a mask, an angle), which is said with the name of the argument, or its own arithmetic is.
An error is so found where it is made, not where it has grown. Needs torch on both sides.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zhiyin.audio.features import Float32
from zhiyin.deploy.verify_gates import Gate
from zhiyin.deploy.verify_inputs import REAL, Case
from zhiyin.deploy.verify_inside import Call, calls, copied, mapped, root, tensors
from zhiyin.deploy.verify_observe import INSIDE, asked, embeds, forced
from zhiyin.errors import UserError
from zhiyin.runtime.load import Loaded

MAX_CASES = 3  # with different lengths, so that a batch is padded
MAX_STEPS = 4  # calls of the decoder after the prompt
_CLOSER = 0.1  # of the limit: a part that is guilty for sure has a part that is, though a residual may hide it
_DRIFT = 10.0  # roundings of earlier layers add up in what a part gets; that much more is allowed there

Run = Callable[[Loaded], object]


@dataclass(frozen=True)
class Finding:
    """Where a model first differs.

    Attributes:
        path: of the part, e.g. ``encoder.blocks.2.attn``.
        what: what is wrong there.
        difference: relative L2 of what it gives, or gets.
    """

    path: str
    what: str
    difference: float


def hunt(
    subject: Loaded, reference: Loaded, cases: Sequence[Case], gate: Gate, say: Callable[[str], None]
) -> Iterator[tuple[str, Finding | None]]:
    """Where the encoder side, and where the decoder side, first differs from the reference.

    Args:
        subject: the model on the device in question, on backend eager or hf.
        reference: the same on the CPU.
        cases: of the reference.
        gate: how far the result of one part may be, fed with the reference's input.
        say: told what is being done.

    Raises:
        UserError: one of the two shows no layers.
    """
    for model in (subject, reference):
        if model.backend.name not in INSIDE:
            raise UserError(
                f"hunt: backend '{model.backend.name}' of {model.source} shows no layers; verify its checkpoint with "
                "--backend eager on the same device, or compare component by component without --hunt"
            )
    some = sorted(cases, key=lambda case: (case.kind != REAL, case.mel_MF.shape[1]))[:MAX_CASES]
    limit = gate.max_relative_l2 or 0.0
    for side, run in (("encoder side", _listen(some)), ("decoder side", _speak(some))):
        say(f"hunt: {side}")
        yield side, search(subject, reference, run, limit)


@torch.inference_mode()
def search(subject: Loaded, reference: Loaded, run: Run, limit: float) -> Finding | None:
    """The first part that differs while `run` runs on both models; nothing where none does."""
    ours, theirs = root(subject), root(reference)
    send = _sender(ours)
    expected = calls(theirs, lambda: run(reference))
    found = _first(expected, ours, theirs, send, limit, "")
    seen = calls(ours, lambda: run(subject)) if found is None else []
    return found or _between(theirs, expected, seen, limit * _DRIFT, f"backend '{subject.backend.name}'")


def _listen(cases: Sequence[Case]) -> Run:
    return lambda model: model.backend.encode([case.mel_MF for case in cases])


def _speak(cases: Sequence[Case]) -> Run:
    """Prompts of different lengths in one session, then single steps, rows leaving it.

    Through transformers whole sequences without a cache instead: its cache is an object that cannot be played again.
    """
    every = asked(cases)
    replies = [question.reply_ids[: 2 + min(i, MAX_STEPS)] for i, (*_, question) in enumerate(every)]

    def run(model: Loaded) -> object:
        if model.backend.name == "hf":
            for (_, case, question), reply in zip(every, replies, strict=True):
                whole_ND = np.concatenate([embeds(model, case, question), model.backend.embed(reply)])
                _whole(root(model), whole_ND)
            return None
        prompts = [embeds(model, case, question) for _, case, question in every]
        return forced(model, prompts, replies) if prompts else None

    return run


def _whole(model: Any, embeds_ND: Float32) -> None:
    """A whole sequence through language model and head of a model of transformers."""
    weight: Tensor = model.lm_head.weight
    embeds_BND = torch.from_numpy(embeds_ND)[None].to(weight.device, weight.dtype)
    model.lm_head(model.model.language_model(inputs_embeds=embeds_BND, use_cache=False).last_hidden_state)


def _first(
    expected: Sequence[Call], ours: nn.Module, theirs: nn.Module, send: Callable[[Any], Any], limit: float, prefix: str
) -> Finding | None:
    for call in expected:
        if any(not _is_plain(value) for value in (*call.args, *call.kwargs.values())):
            continue  # e.g. a cache object of transformers; its parts are looked at through what they get
        result, args = _replay(ours, call, send)
        difference = _difference(call.result, result)
        if call.method == "append":
            difference = max(difference, _difference(tuple(tensors(call.after)), tuple(tensors(args))))
        if difference > limit:
            path = f"{prefix}{call.path}"
            parts = ours.get_submodule(call.path), theirs.get_submodule(call.path)
            return _inside(call, *parts, send, limit, path) or Finding(path, _own(call, parts[0]), difference)
    return None


def _inside(
    call: Call, ours: nn.Module, theirs: nn.Module, send: Callable[[Any], Any], limit: float, path: str
) -> Finding | None:
    """The first guilty part of a guilty part, or what it gives wrongly to one of its parts."""
    args, kwargs = copied(call.args), copied(call.kwargs)
    expected = calls(theirs, lambda: getattr(theirs, call.method)(*args, **kwargs))
    args, kwargs = send(copied(call.args)), send(copied(call.kwargs))
    seen = calls(ours, lambda: getattr(ours, call.method)(*args, **kwargs))
    for scale in (1.0, _CLOSER):
        found = _first(expected, ours, theirs, send, limit * scale, f"{path}.")
        found = found or _between(theirs, expected, seen, limit * scale * _DRIFT, path)
        if found is not None:
            return found
    return None


def _between(
    whole: nn.Module, expected: Sequence[Call], seen: Sequence[Call], limit: float, path: str
) -> Finding | None:
    """The first call whose part gets something else, although all before it compute rightly."""
    for i, call in enumerate(expected):
        if i >= len(seen) or (seen[i].path, seen[i].method) != (call.path, call.method):
            got = f"{seen[i].path}.{seen[i].method}" if i < len(seen) else "nothing"
            return Finding(path, f"call {i + 1} is of {got} instead of {call.path}.{call.method}", float("inf"))
        given, other = _named(whole, call), _named(whole, seen[i])
        for name, value in given.items():
            difference = _difference(tuple(tensors(value)), tuple(tensors(other.get(name))))
            if difference > limit:
                what = f"its parts are right, but what it gives to {call.path}.{call.method} as '{name}' is not"
                return Finding(path, what, difference)
    return None


def _named(whole: nn.Module, call: Call) -> dict[str, Any]:
    """Arguments by the names that the part's method gives them."""
    method = getattr(type(whole.get_submodule(call.path)), call.method)
    names = list(inspect.signature(method).parameters)[1:]
    return {
        names[i] if i < len(names) else f"argument {i + 1}": value for i, value in enumerate(call.args)
    } | call.kwargs


def _own(call: Call, part: nn.Module) -> str:
    is_leaf = next(part.children(), None) is None
    what = "its weights or its arithmetic" if is_leaf else "its own arithmetic; its parts are right"
    return f"{type(part).__name__}.{call.method}: {what}"


def _replay(ours: nn.Module, call: Call, send: Callable[[Any], Any]) -> tuple[tuple[Tensor, ...], Any]:
    """What our part gives for the input of the reference's, and its arguments afterwards."""
    args, kwargs = send(copied(call.args)), send(copied(call.kwargs))
    part = ours.get_submodule(call.path)
    return tuple(tensors(getattr(part, call.method)(*args, **kwargs))), args


def _sender(ours: nn.Module) -> Callable[[Any], Any]:
    """Moves what the reference computed to the device and number format of a model."""
    first = next(parameter for parameter in ours.parameters() if parameter.is_floating_point())

    def send(tree: Any) -> Any:
        return mapped(
            tree, lambda tensor: tensor.to(first.device, first.dtype if tensor.is_floating_point() else tensor.dtype)
        )

    return send


def _is_plain(value: Any) -> bool:
    """Whether a value of a call can be given again: tensors, numbers, text, and nests of these."""
    plain = (Tensor, tuple, list, int, float, str, type(None), torch.dtype, torch.device)
    return isinstance(value, plain) or type(value) is dict or hasattr(value, "__dataclass_fields__")


def _difference(expected: tuple[Tensor, ...], got: tuple[Tensor, ...]) -> float:
    """The largest relative L2 of two lists of tensors; infinite for other shapes or values that are not finite."""
    if len(expected) != len(got):
        return float("inf")
    worst = 0.0
    for left, right in zip(expected, got, strict=True):
        if left.shape != right.shape:
            return float("inf")
        a, b = (tensor.detach().cpu().double() for tensor in (left, right))
        if torch.equal(a, b):
            continue
        if not b.isfinite().all() or (not left.is_floating_point() and not right.is_floating_point()):
            return float("inf")
        worst = max(worst, float((a - b).norm() / a.norm().clamp(min=1e-300)))
    return worst
