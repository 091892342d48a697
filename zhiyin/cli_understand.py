"""`zhiyin understand`: recordings in, results out, one after the other, whatever befalls some of them."""

import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import zhiyin
from zhiyin import ask, cli_models, write
from zhiyin.audio.decode import PcmFormat
from zhiyin.cli_inputs import Input, expand, is_batch
from zhiyin.cli_progress import Progress
from zhiyin.errors import UserError
from zhiyin.result import Result

FAILED, INTERRUPTED = 1, 130  # 130 is 128 + SIGINT, as shells count

Answer = Callable[[Input, Progress], Result]
Save = Callable[[Input, Result], None]


@dataclass(frozen=True)
class Options:
    """What stands on the command line beside the recordings."""

    task: str | None
    ask: str | None
    language: str | None
    into: str | None
    hotwords: str | None
    speakers: bool
    itn: bool | None
    template: str | None
    format: str
    output_dir: str | None
    pcm: str | None
    model: str | None
    device: str
    backend: str
    threads: int | None
    dtype: str
    allow_download: bool


def run(arguments: Sequence[str], options: Options) -> int:
    """Understand every recording and return the exit code.

    Raises:
        UserError: nothing can be done at all: a wrong option, an unwritable output, or the only recording is bad.
    """
    hotwords = _hotwords(options.hotwords)
    asked = ask.request(
        options.task,
        options.ask,
        options.language,
        into=options.into,
        hotwords=hotwords,
        speakers=options.speakers,
        itn=options.itn,
        template=options.template,
    )
    pcm = None if options.pcm is None else PcmFormat.parse(options.pcm)
    inputs = expand(arguments)
    if len(inputs) == 1 and inputs[0].fault:
        raise UserError(inputs[0].fault)
    save = _saver(options, inputs, batch=is_batch(arguments))
    if options.allow_download and options.model:
        cli_models.pull_if_missing(options.model)
    model = zhiyin.load(
        options.model,
        options.device,
        options.backend,
        threads=options.threads,
        dtype=options.dtype,
        allow_download=options.allow_download,
    )
    ask.fit(asked, model.spec)  # what the model cannot do fails once, not for every recording

    def answer(entry: Input, progress: Progress) -> Result:
        if entry.fault:
            raise UserError(entry.fault)
        return model.understand(
            entry.source,
            options.task,
            instruction=options.ask,
            language=options.language,
            into=options.into,
            hotwords=hotwords,
            speakers=options.speakers,
            itn=options.itn,
            template=options.template,
            pcm=pcm,
            on_segment=progress.heard,
        )

    return _each(inputs, answer, save)


def _hotwords(given: str | None) -> tuple[str, ...]:
    """Hotwords of a text file, one a line, or of a list with commas."""
    if given is None:
        return ()
    path = Path(given)
    looks_like_a_file = path.suffix == ".txt" or len(path.parts) > 1
    try:
        if looks_like_a_file or path.is_file():
            given = path.read_text(encoding="utf-8-sig")
            return tuple(line.strip() for line in given.splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror or str(error)).lower() if isinstance(error, OSError) else "no UTF-8 text"
        raise UserError(f"hotwords {given}: cannot be read ({why}); give words with commas or a file") from None
    return tuple(word for word in re.split("[,，]", given) if word.strip())


def _each(inputs: Sequence[Input], answer: Answer, save: Save) -> int:
    done = failed = 0
    with Progress(len(inputs)) as progress:
        try:
            for entry in inputs:
                progress.start(entry.source)
                result = answer(entry, progress) if len(inputs) == 1 else _try(entry, answer, progress)
                if result is None:
                    failed += 1
                    continue
                with progress.aside():
                    save(entry, result)
                done += 1
                for note in result.notes:
                    progress.say(f"zhiyin: {result.source}: {note}")
        except KeyboardInterrupt:
            progress.say(f"zhiyin: interrupted; {done} of {len(inputs)} recordings are done")
            return INTERRUPTED
        if failed:
            progress.say(f"zhiyin: {failed} of {len(inputs)} recordings failed")
    return FAILED if failed else 0


def _try(entry: Input, answer: Answer, progress: Progress) -> Result | None:
    """The result of one recording of many, or None after saying why there is none; the others go on."""
    try:
        return answer(entry, progress)
    except UserError as error:
        progress.say(f"zhiyin: {error}")
    except Exception as error:  # a fault of ours in one recording must not cost a night's work on the others
        progress.say(f"{traceback.format_exc()}zhiyin: {entry.source}: a fault in zhiyin itself ({error!r}); report it")
    return None


def _saver(options: Options, inputs: Sequence[Input], *, batch: bool) -> Save:
    """How a result is kept; whatever can be known to fail fails here, before any work."""
    if options.format not in write.FORMATS:
        raise UserError(f"format '{options.format}' is not known; known: {' '.join(write.FORMATS)}")
    if options.output_dir is not None:
        if not options.output_dir.strip():
            raise UserError("--output-dir is empty; name a folder, or leave it out for standard output")
        return _folder_saver(Path(options.output_dir), options.format, inputs)
    if batch and options.format not in ("txt", "json"):
        raise UserError(f"several results as {options.format} do not fit one stream; add --output-dir DIR")
    to_text = write.json_line if batch and options.format == "json" else write.FORMATS[options.format]
    with_header = batch and options.format == "txt"

    def save(entry: Input, result: Result) -> None:
        header = f"==> {result.source} <==\n" if with_header else ""
        sys.stdout.write(header + to_text(result))
        sys.stdout.flush()

    return save


def _folder_saver(folder: Path, format: str, inputs: Sequence[Input]) -> Save:
    targets = {entry.source: folder / f"{entry.name}.{format}" for entry in inputs if not entry.fault}
    try:
        for parent in {folder, *(target.parent for target in targets.values())}:
            parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=parent):
                pass
    except OSError as error:
        raise _unwritable(folder, error) from None
    taken = [target for target in targets.values() if target.is_dir()]
    if taken:
        raise UserError(f"cannot write {taken[0]}: a folder has this name; choose another --output-dir")

    def save(entry: Input, result: Result) -> None:
        try:
            _replace(targets[entry.source], write.FORMATS[format](result))
        except OSError as error:
            raise _unwritable(targets[entry.source], error) from None

    return save


def _replace(target: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_bytes(text.encode("utf-8", "backslashreplace"))
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write to {path}: {(error.strerror or str(error)).lower()}; choose another --output-dir")
