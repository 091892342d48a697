"""`zhiyin understand`: recordings in, results out, one after the other, whatever befalls some of them."""

import contextlib
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import zhiyin
from zhiyin import write
from zhiyin.audio.decode import PcmFormat
from zhiyin.cli_inputs import Input, expand, is_batch
from zhiyin.cli_progress import Progress
from zhiyin.errors import UserError
from zhiyin.pipeline import Request
from zhiyin.result import Result

INTERRUPTED = 130  # 128 + SIGINT, as shells count


@dataclass(frozen=True)
class Options:
    """What stands on the command line beside the recordings; empty means not given."""

    task: str
    ask: str
    language: str
    format: str
    output_dir: str
    pcm: str
    model: str
    device: str
    backend: str
    threads: int


def run(arguments: Sequence[str], options: Options) -> int:
    """Understand every recording and return the exit code.

    Raises:
        UserError: nothing can be done at all: a wrong option, an unwritable output, or the only recording is bad.
    """
    request = Request.of(options.task or None, options.ask or None, options.language or None)
    pcm = PcmFormat.parse(options.pcm) if options.pcm else None
    inputs = expand(arguments)
    if len(inputs) == 1 and inputs[0].fault:
        raise UserError(inputs[0].fault)
    save = _saver(options, batch=is_batch(arguments))
    try:
        model = zhiyin.load(options.model or None, device=options.device, backend=options.backend, threads=options.threads or None)
        request.check(model.spec)
        return _each(inputs, lambda entry, progress: model.answer(entry.source, request, pcm=pcm, on_segment=progress.heard), save)
    except KeyboardInterrupt:
        sys.stderr.write("zhiyin: interrupted before the first recording\n")
        return INTERRUPTED


def _each(inputs: Sequence[Input], answer: Callable[[Input, Progress], Result], save: Callable[[Input, Result], None]) -> int:
    done = failed = 0
    with Progress(len(inputs)) as progress:
        try:
            for entry in inputs:
                progress.start(entry.source)
                try:
                    result = _answer(entry, answer, progress)
                except UserError as error:
                    if len(inputs) == 1:
                        raise
                    progress.say(f"zhiyin: {error}")
                    failed += 1
                    continue
                with progress.aside():
                    save(entry, result)
                for note in result.notes:
                    progress.say(f"zhiyin: {result.source}: {note}")
                done += 1
        except KeyboardInterrupt:
            progress.say(f"zhiyin: interrupted; {done} of {len(inputs)} recordings are done and stay")
            return INTERRUPTED
    if failed:
        sys.stderr.write(f"zhiyin: {failed} of {len(inputs)} recordings failed\n")
    return 1 if failed else 0
