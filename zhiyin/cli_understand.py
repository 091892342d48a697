"""`zhiyin understand`: recordings in, results out, one after the other, whatever befalls some of them."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import zhiyin
from zhiyin import ask, cli_models, pipeline, write
from zhiyin.audio.decode import PcmFormat
from zhiyin.cli_inputs import Input, expand, is_batch
from zhiyin.cli_output import Folder, Stream, asked_of
from zhiyin.cli_progress import Progress
from zhiyin.errors import UserError
from zhiyin.result import Result
from zhiyin.tasks.families import NO_ITN
from zhiyin.text import hotword_list

FAILED, INTERRUPTED = 1, 130  # 130 is 128 + SIGINT, as shells count
WRITTEN_FORMATS = ("txt", "srt", "vtt", "json")  # are read by people, or hold both forms

Answer = Callable[[Input, Progress], Result]


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
    channels: str
    format: str
    output_dir: str | None
    resume: bool
    pcm: str | None
    model: str | None
    device: str
    backend: str
    threads: int | None
    dtype: str
    allow_download: bool
    allow_fallback: bool


def run(arguments: Sequence[str], options: Options) -> int:
    """Understand every recording and return the exit code.

    Raises:
        UserError: nothing can be done at all: a wrong option, an unwritable output, or the only recording is bad.
    """
    wishes = _wishes(options)
    ask.request(options.task, wishes)
    pcm = None if options.pcm is None else PcmFormat.parse(options.pcm)
    inputs = expand(arguments)
    if len(inputs) == 1 and inputs[0].fault:
        raise UserError(inputs[0].fault)
    output = _output(options, inputs, batch=is_batch(arguments))
    if options.allow_download and options.model:
        cli_models.pull_if_missing(options.model)
    model = zhiyin.load(
        options.model,
        options.device,
        options.backend,
        threads=options.threads,
        dtype=options.dtype,
        allow_download=options.allow_download,
        allow_fallback=options.allow_fallback,
    )
    if options.itn is False and NO_ITN in ask.family_of(model.spec).options:
        wishes = replace(wishes, itn=False)  # other models cannot be told
    ask.fit(ask.request(options.task, wishes), model.spec)  # what it cannot do fails once, not for every recording
    if isinstance(output, Folder):
        output.begin(asked_of(options.task, wishes, options.format, options.pcm, model.loaded))

    def answer(entry: Input, progress: Progress) -> Result:
        if entry.fault:
            raise UserError(entry.fault)
        return pipeline.understand(
            entry.source,
            options.task,
            model=model.loaded,
            options=wishes,
            pcm=pcm,
            journal=output.journal(entry) if isinstance(output, Folder) else None,
            on_segment=progress.heard,
        )

    return _each(inputs, answer, output)


def _wishes(options: Options) -> ask.Options:
    is_read = options.itn is None and options.format in WRITTEN_FORMATS
    return ask.Options(
        instruction=options.ask,
        language=options.language,
        into=options.into,
        hotwords=() if options.hotwords is None else hotword_list.read(options.hotwords),
        speakers=options.speakers,
        written=bool(options.itn) or is_read,
        template=options.template,
        channels=options.channels,
    )


def _output(options: Options, inputs: Sequence[Input], *, batch: bool) -> Stream | Folder:
    """Whatever can be known to fail when a result is written fails here, before any work."""
    if options.format not in write.FORMATS:
        raise UserError(f"format '{options.format}' is not known; known: {' '.join(write.FORMATS)}")
    if options.output_dir is None:
        if options.resume:
            raise UserError("--resume goes on with the results in a folder; add the same --output-dir as before")
        return Stream(options.format, batch=batch)
    if not options.output_dir.strip():
        raise UserError("--output-dir is empty; name a folder, or leave it out for standard output")
    return Folder(Path(options.output_dir), options.format, inputs, resume=options.resume)


def _each(inputs: Sequence[Input], answer: Answer, output: Stream | Folder) -> int:
    done = failed = 0
    todo = [entry for entry in inputs if not (isinstance(output, Folder) and output.holds(entry))]
    with Progress(len(todo)) as progress:
        if len(todo) < len(inputs):
            progress.say(f"zhiyin: {len(inputs) - len(todo)} of {len(inputs)} recordings were done before; skipped")
        try:
            for entry in todo:
                progress.start(entry.source)
                result = answer(entry, progress) if len(inputs) == 1 else _try(entry, answer, progress)
                if result is None:
                    failed += 1
                    continue
                with progress.aside():
                    output.save(entry, result)
                done += 1
                for note in result.notes:
                    progress.say(f"zhiyin: {result.source}: {note}")
        except KeyboardInterrupt as stop:
            _keep(stop, entry, output, progress)
            how = "; --resume goes on from there" if isinstance(output, Folder) else ""
            progress.say(f"zhiyin: interrupted; {done} of {len(todo)} recordings are done{how}")
            return INTERRUPTED
        if failed:
            progress.say(f"zhiyin: {failed} of {len(todo)} recordings failed")
    return FAILED if failed else 0


def _keep(stop: KeyboardInterrupt, entry: Input, output: Stream | Folder, progress: Progress) -> None:
    """On standard output, what was understood of the recording until Ctrl-C; a folder has it in the journal."""
    if isinstance(stop, pipeline.Interrupted) and isinstance(output, Stream) and stop.result.segments:
        with progress.aside():
            output.save(entry, stop.result)
        progress.say(f"zhiyin: {stop.result.source}: {stop.result.notes[-1]}")


def _try(entry: Input, answer: Answer, progress: Progress) -> Result | None:
    """The result of one recording of many, or None after saying why there is none; the others go on."""
    try:
        return answer(entry, progress)
    except UserError as error:
        progress.say(f"zhiyin: {error}")
    except Exception as error:  # a fault of ours in one recording must not cost a night's work on the others
        progress.say(f"{traceback.format_exc()}zhiyin: {entry.source}: a fault in zhiyin itself ({error!r}); report it")
    return None
