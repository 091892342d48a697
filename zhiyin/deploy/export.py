"""Writes a checkpoint as a bundle (extra `export`); every graph is compared with PyTorch before anything is replaced.

Two kinds. By default the encoder takes any length and the decoder any batch: that is what runs on CPUs. With buckets
all sizes are fixed, as compilers of NPUs want them: one encoder graph per bucket, and decoder graphs that add 64 tokens
or 1 to a key/value cache of fixed size.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zhiyin.deploy import export_native, export_trace, out
from zhiyin.deploy.export_graphs import PRECISIONS, Weights
from zhiyin.deploy.export_plan import COMPONENTS, OPSETS, Options, Source
from zhiyin.errors import UserError
from zhiyin.model.files import BIGRAM
from zhiyin.runtime import bundle, hf_spec


@dataclass(frozen=True)
class Exported:
    """What was written: its size, and how far each graph is from PyTorch in float32, relative to the largest value."""

    folder: Path
    size_bytes: int
    differences: dict[str, float]


def export(checkpoint: Path, out_folder: Path, options: Options | None = None) -> Exported:
    """Write a checkpoint as a bundle; an older bundle in `out_folder` is replaced once the new one is proven.

    Args:
        checkpoint: folder written by `model.checkpoint.save`, or of a model of the hub whose encoder and projector we
            can export (`deploy.export_granite`).
        out_folder: a new or empty folder, or a bundle.
        options: see there; by default a bundle for any length of audio.

    Raises:
        UserError: options that do not fit the model, no checkpoint, a folder with other content, or a graph that
            differs from PyTorch.
    """
    options = options or Options()
    check(options)
    place = out.check(out_folder)
    source = _source(Path(checkpoint), options)
    with out.fresh(place) as folder:
        for name, table in source.tables.items():
            np.save(folder / name, table)
        files: dict[str, Weights] = {}
        differences, graphs = {}, []
        for plan in source.plans:
            weights = files.setdefault(plan.weights, Weights(folder / plan.weights))
            made = export_trace.write(plan, folder, weights, precision=options.precision, opset=options.opset)
            differences[plan.file] = made.difference
            graphs += [made.graph] if made.graph else []
        shutil.copyfile(source.tokenizer, folder / bundle.TOKENIZER)
        if (Path(checkpoint) / BIGRAM).is_file():
            shutil.copyfile(Path(checkpoint) / BIGRAM, folder / BIGRAM)
        bundle.seal(folder, source.spec, bundle.Target("onnx") if graphs else None, graphs)
        size = sum(path.stat().st_size for path in folder.iterdir())
    return Exported(place, size, differences)


def check(options: Options) -> None:
    """Refuse what no model can have.

    Raises:
        UserError: an unknown word, or two options that do not go together.
    """
    if options.precision not in PRECISIONS:
        raise UserError(f"precision '{options.precision}' is not known; known: {' '.join(PRECISIONS)}")
    if options.precision == "int8-dynamic" and options.buckets_s:
        raise UserError("precision int8-dynamic is for CPUs; leave out --buckets, or take float32, float16 or int8")
    if options.opset not in OPSETS:
        raise UserError(f"opset {options.opset}: {OPSETS[0]} to {OPSETS[-1]} are what ATC reads; leave it out for 17")
    unknown = [word for word in options.components if word not in COMPONENTS]
    if unknown:
        raise UserError(f"component '{unknown[0]}' is not known; known: {' '.join(COMPONENTS)}")
    if not {"encoder", "projector"} <= set(options.components):
        raise UserError(
            f"components {','.join(options.components)}: encoder and projector are one graph; give "
            "encoder,projector or encoder,projector,decoder"
        )
    if "decoder" not in options.components and not options.buckets_s:
        raise UserError("components encoder,projector: without a decoder only fixed lengths are written; add --buckets")


def _source(folder: Path, options: Options) -> Source:
    if not hf_spec.is_hf(folder):
        return export_native.source(folder, options)
    if "decoder" in options.components:
        raise UserError(
            f"export {folder}: the language model of a model of the hub runs through transformers and is not exported; "
            "give --components encoder,projector"
        )
    from zhiyin.deploy import export_granite  # needs the extra `hf`

    return export_granite.source(folder, options)
