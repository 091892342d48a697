"""Options that several commands share."""

import typer

MODEL_HELP = "A model folder, or a name of `zhiyin models`; default: pocket, the built-in one."
DEVICE = typer.Option("--device", metavar="NAME", help="Where to run; auto says what it chose and why.")
BACKEND = typer.Option("--backend", metavar="NAME", help="How to run: auto, onnx, om (Ascend), eager (torch), hf.")
TASK = typer.Option("--task", metavar="ID,ID", help="Task ids as `zhiyin tasks` lists them.  [default: asr]")
LANGUAGE = typer.Option("--language", metavar="CODE", help="Of the speech; refuse a model that does not know it.")
HOTWORDS = typer.Option("--hotwords", metavar="FILE|WORD,WORD", help="Names likely to be said; a file has one a line.")
ITN = typer.Option(
    "--itn/--no-itn", help="Numbers in figures, or as spoken; default: figures, in tsv not.", show_default=False
)
PCM = typer.Option("--pcm", metavar="CODING[:RATE[:CHANNELS]]", help="Input is raw PCM, e.g. s16le:16000:1.")
DTYPE = typer.Option("--dtype", metavar="NAME", help="Of weights that run with torch: float32, bfloat16, float16.")
THREADS = typer.Option("--threads", metavar="N", min=1, help="CPU threads; default: a few.", show_default=False)
FALLBACK = typer.Option("--allow-fallback", help="Run elsewhere if the device is not there; results say so.")
