"""zhiyin: speech in, text and meaning out.

>>> import zhiyin
>>> result = zhiyin.load().understand("a.wav", tasks=["asr", "sgc"])  # doctest: +SKIP
>>> result.text, result.labels  # doctest: +SKIP
('turn left', {'sgc': 'male'})
"""

from __future__ import annotations  # the types of heavy modules are named without importing them

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zhiyin.errors import UserError
from zhiyin.result import Result, Segment, Turn, Word

if TYPE_CHECKING:
    from zhiyin.ask import Hotwords
    from zhiyin.audio.decode import PcmFormat
    from zhiyin.audio.io import Source
    from zhiyin.runtime.base import ModelSpec
    from zhiyin.runtime.load import Loaded

__all__ = ["Model", "Result", "Segment", "Turn", "UserError", "Word", "__version__", "load"]
__version__ = "0.1.0"


def load(
    model: str | os.PathLike[str] | None = None,
    device: str = "auto",
    backend: str = "auto",
    *,
    threads: int | None = None,
    dtype: str = "auto",
    allow_download: bool = False,
    allow_fallback: bool = False,
) -> Model:
    """A model that runs.

    Args:
        model: folder of a bundle, a checkpoint or a model of the hub, or a name that `zhiyin models` lists; by default
            ``pocket``, the built-in one.
        device: where to run; ``auto`` chooses, and every result says what was chosen and why.
        backend: ``auto``, ``onnx``, ``om``, ``eager`` or ``hf``.
        threads: CPU threads; by default a few.
        dtype: number format of the weights, where the backend has a choice.
        allow_download: pull a model that is not here; without it nothing touches the network.
        allow_fallback: run elsewhere if `device` is not there; every result then says so.

    Raises:
        UserError: there is no such model, it is damaged, or it cannot run there.
    """
    from zhiyin.runtime.load import load as load_model

    return Model(
        load_model(
            model,
            device=device,
            backend=backend,
            threads=threads,
            dtype=dtype,
            allow_download=allow_download,
            allow_fallback=allow_fallback,
        )
    )


@dataclass(frozen=True)
class Model:
    """A loaded model; `loaded` is what `zhiyin.pipeline` works with."""

    loaded: Loaded = field(repr=False)

    @property
    def spec(self) -> ModelSpec:
        """What the model says of itself: name, tasks, labels, languages."""
        return self.loaded.backend.spec

    def understand(
        self,
        source: Source,
        tasks: str | Iterable[str] | None = None,
        *,
        instruction: str | None = None,
        language: str | None = None,
        into: str | None = None,
        hotwords: Hotwords = (),
        speakers: bool = False,
        itn: bool | None = None,
        written: bool = False,
        template: str | None = None,
        channels: str = "mix",
        pcm: PcmFormat | None = None,
        sample_rate_hz: int | None = None,
        journal: str | os.PathLike[str] | None = None,
        on_segment: Callable[[Segment], None] | None = None,
    ) -> Result:
        """Everything asked of one recording; see `zhiyin.pipeline.understand` and `zhiyin.ask.Options`."""
        from zhiyin import ask, pipeline

        return pipeline.understand(
            source,
            tasks,
            model=self.loaded,
            options=ask.Options(instruction, language, into, hotwords, speakers, itn, written, template, channels),
            pcm=pcm,
            sample_rate_hz=sample_rate_hz,
            journal=journal,
            on_segment=on_segment,
        )

    def segments(
        self,
        source: Source,
        tasks: str | Iterable[str] | None = None,
        *,
        instruction: str | None = None,
        language: str | None = None,
        into: str | None = None,
        hotwords: Hotwords = (),
        speakers: bool = False,
        itn: bool | None = None,
        written: bool = False,
        template: str | None = None,
        channels: str = "mix",
        pcm: PcmFormat | None = None,
        sample_rate_hz: int | None = None,
    ) -> Iterator[Segment]:
        """Segments as they become final, for recordings of any length; see `zhiyin.pipeline.segments`."""
        from zhiyin import ask, pipeline

        return pipeline.segments(
            source,
            tasks,
            model=self.loaded,
            options=ask.Options(instruction, language, into, hotwords, speakers, itn, written, template, channels),
            pcm=pcm,
            sample_rate_hz=sample_rate_hz,
        )
