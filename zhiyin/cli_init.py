"""`zhiyin init`: a new trainable checkpoint from an encoder and a decoder that exist."""

from dataclasses import dataclass
from pathlib import Path

from zhiyin.errors import UserError


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line; `None` is the projector's default."""

    family: str
    ctc: bool
    dtype: str
    seed: int
    projector_layers: int | None
    projector_width: int | None
    projector_heads: int | None
    projector_ffn: int | None


def run(out: Path, encoder: Path, decoder: Path, options: Options) -> tuple[str, ...]:
    """Write the checkpoint; returns lines about what it is, and further ones about what to mind.

    Raises:
        UserError: an extra is missing, an option does not fit, or a source cannot be used.
    """
    import importlib.util

    missing = [name for name in ("torch", "safetensors") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"this command needs {', '.join(missing)}: pip install 'zhiyin[train]'")
    from zhiyin.runtime.device import before_torch

    before_torch()
    from zhiyin.config import build
    from zhiyin.model import init
    from zhiyin.model.config import ProjectorConfig

    asked = {
        "num_layers": options.projector_layers,
        "width": options.projector_width,
        "num_heads": options.projector_heads,
        "ffn_width": options.projector_ffn,
    }
    sizes = {name: value for name, value in asked.items() if value is not None}
    projector = build(ProjectorConfig, sizes, "projector")
    settings = init.Settings(projector, options.family, options.ctc, options.dtype, options.seed)
    made = init.create(out, encoder, decoder, settings)
    config = made.config
    return (
        f"{out}: encoder {config.encoder.num_layers} x {config.encoder.width}, {config.encoder.num_mels} mels;"
        f" projector {config.projector.num_layers} x {config.projector.width}, new;"
        f" decoder {config.decoder.num_layers} x {config.decoder.width}",
        *made.notes,
    )
