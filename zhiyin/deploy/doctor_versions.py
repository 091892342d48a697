"""Which versions belong together, as their makers say."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

# torch_npu and the CANN it was released for (github.com/Ascend/pytorch, COMPATIBILITY.md, torch_npu 2.12.0).
CANN_OF = {
    "2.12.0": "9.1.0",
    "2.11.0": "9.1.0",
    "2.10.0.post4": "9.1.0",
    "2.9.0.post6": "9.1.0",
    "2.7.1.post8": "9.1.0",
    "2.9.0.post2": "9.0.0",
    "2.8.0.post4": "9.0.0",
    "2.7.1.post4": "9.0.0",
    "2.9.0": "8.5.0",
    "2.8.0.post2": "8.5.0",
    "2.7.1.post2": "8.5.0",
    "2.6.0.post5": "8.5.0",
    "2.8.0": "8.3.RC1",
    "2.7.1": "8.3.RC1",
    "2.6.0.post3": "8.3.RC1",
    "2.1.0.post17": "8.3.RC1",
    "2.6.0": "8.2.RC1",
    "2.5.1.post1": "8.2.RC1",
    "2.1.0.post13": "8.2.RC1",
    "2.5.1": "8.1.RC1",
    "2.4.0.post4": "8.1.RC1",
    "2.1.0.post12": "8.1.RC1",
}
_SOURCE_NPU = "github.com/Ascend/pytorch, COMPATIBILITY.md"
_SOURCE_PIN = "what torch_npu requires of torch"
_SOURCE_ORT = "onnxruntime.ai, CANN execution provider, requirements"
_SOURCE_SEEN = "import of onnxruntime-cann 1.24.4 with numpy 2.4 failed"


@dataclass(frozen=True)
class Match:
    """Two versions, and whether they belong together.

    Attributes:
        pair: e.g. ``torch 2.13.0 with torch_npu 2.12.0``.
        fits: whether they do; nothing where no table says.
        wanted: what would fit.
        source: who says so.
    """

    pair: str
    fits: bool | None
    wanted: str
    source: str


def compare(versions: Mapping[str, str], cann: str) -> tuple[Match, ...]:
    """Every pair that is here.

    Args:
        versions: of Python packages, by name.
        cann: version of CANN, or nothing.
    """
    torch, plug_in, numpy = (versions.get(name, "") for name in ("torch", "torch-npu", "numpy"))
    runtime = versions.get("onnxruntime-cann", "")
    found = []
    if torch and plug_in:
        same = _release(torch) == _release(plug_in)
        wanted = f"torch {_release(plug_in)}"
        found.append(Match(f"torch {torch} with torch_npu {plug_in}", same, wanted, _SOURCE_PIN))
    if plug_in and cann:
        found.append(_npu_and_cann(plug_in, cann))
    if runtime and cann:
        known = "1.20" <= runtime[:4] <= "1.22"
        fits = _line(cann) == "8.2" if known else None
        wanted = "CANN 8.2" if known else "not in the table; its release notes say which CANN"
        found.append(Match(f"onnxruntime-cann {runtime} with CANN {cann}", fits, wanted, _SOURCE_ORT))
    if runtime and numpy:
        fits = numpy.split(".")[0] == "1"
        found.append(Match(f"onnxruntime-cann {runtime} with numpy {numpy}", fits, "numpy 1.26", _SOURCE_SEEN))
    return tuple(found)


def _npu_and_cann(plug_in: str, cann: str) -> Match:
    pair = f"torch_npu {plug_in} with CANN {cann}"
    wanted = CANN_OF.get(plug_in.split("+")[0])
    if wanted is None:
        return Match(pair, None, "not in the table; its release notes say which CANN", _SOURCE_NPU)
    here, there = _line(cann), _line(wanted)
    if here == there:
        return Match(pair, True, f"CANN {wanted}", _SOURCE_NPU)
    older = [int(part) for part in here.split(".")] < [int(part) for part in there.split(".")] if here else True
    # a newer CANN often runs what was made for an older one, but nobody promises it
    return Match(pair, False if older else None, f"CANN {wanted}", _SOURCE_NPU)


def _release(version: str) -> str:
    """``2.13.0+cpu`` and ``2.13.0.post1`` are builds of 2.13.0."""
    return ".".join(version.split("+")[0].split(".")[:3])


def _line(cann: str) -> str:
    """``8.5`` of ``8.5.1``, ``8.3`` of ``8.3.RC1``: patches of a line belong together."""
    found = re.match(r"\d+\.\d+", cann)
    return found[0] if found else ""
