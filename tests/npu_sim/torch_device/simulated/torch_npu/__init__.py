"""Stands where torch_npu would: importing it registers the simulated npu device (see `npusim`)."""

from typing import Any

import npusim

npu = npusim.install()
__version__ = "0.0.0+simulated"


def npu_fusion_attention(*_: Any, **__: Any) -> None:
    """transformers imports the name wherever torch_npu is there, and calls it for `flash_attention_2` only."""
    raise NotImplementedError("the simulated npu device has no fused attention; use sdpa")
