"""The formats `zhiyin data import` and `export` know: one row each, and one for each corpus."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zhiyin.data.corpora import (
    aishell,
    audio_mnist,
    common_voice,
    crema_d,
    esc50,
    librispeech,
    ravdess,
    speech_commands,
    speech_pack,
)
from zhiyin.data.formats import cuts, kaldi, osum, osum_tars, tabular, words
from zhiyin.data.manifest import Imported, Record, near
from zhiyin.errors import UserError


@dataclass(frozen=True)
class Format:
    """A format of others.

    Attributes:
        name: how it is chosen.
        about: what is read or written, for the help.
        read: a path, and the folder that takes audio which is not a file yet, to records.
        read_words: the same for word times, which are put onto records.
        write: records to a path; returns notes.
    """

    name: str
    about: str
    read: Callable[[Path, Path], Imported] | None = None
    read_words: Callable[[Path, Sequence[Record]], Imported] | None = None
    write: Callable[[Iterable[Record], Path], list[str]] | None = None


FORMATS = (
    Format("osum", "OSUM's raw JSONL: key, wav, txt, task", osum.read, write=osum.write),
    Format("osum-shards", "OSUM's tars with side files", osum_tars.read_shards, write=osum_tars.write_shards),
    Format("osum-combine", "audio tars + JSONL", osum_tars.read_combine, write=osum_tars.write_combine),
    Format("kaldi", "a folder with wav.scp, text, utt2spk, segments", kaldi.read, write=kaldi.write),
    Format("csv", "a table with file_name (metadata.csv)", tabular.read, write=tabular.write_csv),
    Format("jsonl", "a table with file_name (metadata.jsonl)", tabular.read, write=tabular.write_jsonl),
    Format("ctm", "word times of NIST", read_words=words.read_ctm, write=words.write_ctm),
    Format("textgrid", "word times of Praat", read_words=words.read_textgrids, write=words.write_textgrids),
    Format("lhotse", "cuts (.jsonl.gz)", cuts.read, write=cuts.write),
    Format("speech-pack", "corpus: the pack of the pocket model", speech_pack.read_all),
    Format("librispeech", "corpus: LibriSpeech", librispeech.read),
    Format("aishell-1", "corpus: AISHELL-1", aishell.read),
    Format("common-voice", "corpus: Common Voice, the folder of one language", common_voice.read),
    Format("speech-commands", "corpus: Speech Commands", speech_commands.read),
    Format("audio-mnist", "corpus: AudioMNIST", audio_mnist.read),
    Format("esc-50", "corpus: ESC-50", esc50.read),
    Format("ravdess", "corpus: RAVDESS speech", ravdess.read),
    Format("crema-d", "corpus: CREMA-D", crema_d.read),
)


def named(name: str, *, to_write: bool) -> Format:
    """The format of that name that can be read, or written.

    Raises:
        UserError: there is none.
    """
    known = {row.name: row for row in FORMATS if row.write or not to_write}
    if name not in known:
        what = "written" if to_write else "read"
        raise UserError(f"format '{name}' is not known; what can be {what}: {' '.join(known)}{near(name, known)}")
    return known[name]
