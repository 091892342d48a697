"""festival as a process beside this one: samples, and where each word lies in them.

It is told what to say in its own language (Scheme) on standard input, writes the sound into an unnamed file that both
processes hold, and prints the times of the words. So nothing is left behind, whichever process is killed.
"""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from typing import IO

import numpy as np
import soundfile

from zhiyin.audio.features import Float32
from zhiyin.errors import UserError

# The voices that are used, the packages of Debian they are in, and their words per minute at stretch 1, on the scale of
# espeak-ng (measured on 40 sentences of our grammars, from the first word's beginning to the last one's end).
VOICES = {
    "cmu_us_slt_arctic_hts": ("festvox-us-slt-hts", 165.0),
    "ked_diphone": ("festvox-kdlpc16k", 185.0),
    "kal_diphone": ("festvox-kallpc16k", 185.0),
}
_PACKAGES = ("festival", *sorted(package for package, _ in VOICES.values()))
_MARK = "zhiyin:"  # begins each line of an answer; all others are complaints
_SPEAKABLE = re.compile(r"[!-~]+")  # what its lexicon and its rules are made for: ASCII that can be seen
# Choosing the voice again sets all that an utterance before has changed back to what the voice says. A voice of hidden
# Markov models (HTS) knows a rate of its own and no pitch.
_PROGRAM = """
(define (zhiyin_say voice stretch pitch utterance path)
  (voice.select voice)
  (if (string-equal (Parameter.get 'Synth_Method) "HTS")
    (set! hts_engine_params (cons (list "-r" (/ 1 stretch)) hts_engine_params))
    (begin
      (Parameter.set 'Duration_Stretch stretch)
      (set! int_lr_params
        (mapcar
          (lambda (pair)
            (if (string-matches (car pair) "target_.*") (list (car pair) (* pitch (cadr pair))) pair))
          int_lr_params))))
  (utt.synth utterance)
  (utt.save.wave utterance path 'riff)
  (let ((token (utt.relation.first utterance 'Token)))
    (while token
      (format t "zhiyin:")
      (mapcar
        (lambda (word)
          (if (item.daughters (item.relation word 'SylStructure))
            (format t " %l %l"
              (item.feat word "R:SylStructure.daughter1.daughter1.R:Segment.start")
              (item.feat word "R:SylStructure.daughtern.daughtern.R:Segment.end"))))
        (item.daughters token))
      (format t "\\n")
      (set! token (item.next token)))))
"""


class Festival:
    """A process of festival.

    Raises:
        UserError: festival is not installed.
    """

    def __init__(self) -> None:
        program = shutil.which("festival")
        if program is None:
            raise UserError(
                f"synthesis: festival is not installed; install it and its voices (apt install {' '.join(_PACKAGES)})"
            )
        self._wave: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            [program, "--pipe"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[self._wave.fileno()],
            env={**os.environ, "HOME": os.devnull},  # nobody's .festivalrc changes a voice
            text=True,
            encoding="latin-1",
        )
        weakref.finalize(self, _end, self._process, self._wave)
        self._ask(_PROGRAM)

    def voices(self) -> list[str]:
        """Names of the voices that are installed."""
        [answer], _ = self._ask(f'(format t "{_MARK} %l\\n" (voice.list))')
        return answer.strip(" ()\n").split()

    def say(
        self, name: str, words: Sequence[str], words_per_minute: float, pitch: float
    ) -> tuple[Float32, float, list[tuple[float, float]] | None]:
        """Speak English words.

        Args:
            name: of the voice, one of `VOICES`.
            words: each in ASCII; a sign beside a word ("seven,") makes its pause.
            words_per_minute: on the scale of espeak-ng.
            pitch: what the voice's own is multiplied by; a voice of hidden Markov models takes no notice.

        Returns:
            Samples, their rate in Hz, and start and end of each word in seconds; None where one was not spoken.

        Raises:
            UserError: there is no such voice, a word cannot be read, or festival failed.
        """
        if name not in VOICES:
            raise UserError(f"synthesis: festival has no voice '{name}' that is used here; {', '.join(VOICES)} are")
        path = f"/dev/fd/{self._wave.fileno()}"
        self._wave.seek(0)
        self._wave.truncate()
        stretch = VOICES[name][1] / words_per_minute
        command = f'(zhiyin_say \'{name} {stretch:.6f} {pitch:.6f} (Utterance Text {quoted(words)}) "{path}")'
        answers, complaint = self._ask(command)
        self._wave.seek(0)
        try:
            samples_T, rate_hz = soundfile.read(self._wave, dtype="float32")
        except soundfile.LibsndfileError as error:
            self.require(name)
            raise UserError(f"synthesis: festival said nothing for {' '.join(words)!r} ({complaint})") from error
        times = [
            (edges[0], edges[-1]) for edges in ([float(word) for word in line.split()] for line in answers) if edges
        ]
        return np.asarray(samples_T, np.float32), rate_hz, times if len(times) == len(words) else None

    def require(self, *names: str) -> None:
        """Refuse where a voice is not installed.

        Raises:
            UserError: with the package that has it.
        """
        there = self.voices()
        for name in names:
            if name not in there:
                package, _ = VOICES[name]
                raise UserError(
                    f"synthesis: festival does not have its voice {name}; install the package {package} "
                    f"(apt install {package})"
                )

    def _ask(self, command: str) -> tuple[list[str], str]:
        """The lines of the answer, without their mark; and the last complaint."""
        answers: list[str] = []
        complaint, end = "no reason given", f"{_MARK} end\n"
        try:
            assert self._process.stdin and self._process.stdout
            # A command of its own: it is also carried out after one that failed.
            self._process.stdin.write(f'{command}\n(format t "{_MARK} end\\n") (fflush nil)\n')
            self._process.stdin.flush()
            for line in self._process.stdout:
                if line == end:
                    return answers, complaint
                if line.startswith(_MARK):
                    answers.append(line.removeprefix(_MARK))
                elif line.strip():
                    complaint = line.strip()
        except BrokenPipeError:
            pass
        raise UserError(f"synthesis: festival ended while it was asked to speak ({complaint}); give the command again")


def quoted(words: Iterable[str]) -> str:
    """Words as one string of Scheme.

    Raises:
        UserError: one has other signs than those of ASCII that can be seen, or there is nothing to say: festival reads
            bytes of other scripts as something else, and without a word it crashes.
    """
    words = list(words)
    for word in words:
        if not _SPEAKABLE.fullmatch(word):
            raise UserError(
                f"synthesis: festival reads only letters, digits and signs of ASCII, not {word!r}; respell it"
            )
    text = " ".join(words)
    if not any(sign.isalnum() for sign in text):
        raise UserError(f"synthesis: there is no word in {text!r} that festival could speak")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _end(process: subprocess.Popen[str], wave: IO[bytes]) -> None:
    process.kill()
    with contextlib.suppress(BrokenPipeError):  # of what was not yet read
        process.communicate()
    wave.close()
