"""Which words of an open window are certain: those that two hypotheses in a row agree on.

Source: LocalAgreement-2 of Liu et al. 2020, "Low-Latency Sequence-to-Sequence Speech Recognition and Translation by
Partial Hypothesis Selection", as used for windows that are encoded again and again by Macháček et al. 2023, "Turning
Whisper into Real-Time Transcription System" (whisper_streaming).
"""

import re
from collections.abc import Sequence

from zhiyin.result import Word

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# One character of Chinese or Japanese, or a run of anything else; punctuation belongs to the word before it.
_WORD = re.compile(rf"[{_CJK}][^\w\s(\[{{<\"'“‘（《【「]*|[^\s{_CJK}]+")


def split(text: str) -> list[Word]:
    """The words of a text that has no times."""
    return [Word(piece, 0.0, 0.0, "") for piece in _WORD.findall(text)]


class Agreement:
    """The words of one window while it grows at its end and is cut at its beginning.

    Attributes:
        fixed: words that never change; those before `first_open` belong to segments that are final already.
        first_open: number of the first fixed word of the open segment.
        tail: what the last hypothesis says after them.
    """

    def __init__(self, *, timed: bool, hold_s: float, hold_words: int) -> None:
        """Nothing heard yet.

        Args:
            timed: whether words have times.
            hold_s: a word that ends in the last `hold_s` of the audio is not fixed: what follows may change it.
            hold_words: the same in words, where they have no times.
        """
        self._timed, self._hold_s, self._hold_words = timed, hold_s, hold_words
        self.clear()

    def clear(self) -> None:
        """Begin a new window."""
        self.fixed: list[Word] = []
        self.tail: list[Word] = []
        self.first_open = 0

    @property
    def committed(self) -> list[Word]:
        """Fixed words of the open segment."""
        return self.fixed[self.first_open :]

    def hear(self, words: Sequence[Word], until_s: float, *, is_sure: bool = True) -> None:
        """Take a hypothesis for the whole window, which reaches to `until_s`; one that is not sure fixes nothing."""
        rest = self._rest(words)
        agreed = shared(self.tail, rest)
        if self._timed:
            sure = sum(1 for word in rest if word.end_s <= until_s - self._hold_s)
        else:
            sure = len(rest) - self._hold_words
        count = max(0, min(agreed, sure)) if is_sure else 0
        self._fix(rest[:count])
        self.tail = self._after(rest[count:])

    def close(self, words: Sequence[Word]) -> list[Word]:
        """Take the last hypothesis for the open segment; returns its words, which are fixed now."""
        self._fix(self._rest(words))
        closed, self.tail = self.committed, []
        self.first_open = len(self.fixed)
        return closed

    def close_part(self, words: Sequence[Word], end_s: float) -> list[Word]:
        """Take the last hypothesis for the window up to `end_s`, where it was cut; the window then begins there.

        Returns:
            The words of the open segment: as many as were committed, also where the hypothesis does not reach so far.
        """
        if self._timed:
            inside = sum(1 for word in self.fixed if middle_s(word) < end_s)
        else:
            inside = continuation(words, self.fixed, guess=len(words))
        behind = self.fixed[inside:]
        closed = self.committed if behind else self.close(words)
        self.fixed, self.tail, self.first_open = behind, [], len(behind)
        return closed

    def settle(self) -> list[Word]:
        """End the open segment with what is fixed of it; returns its words."""
        settled, self.first_open = self.committed, len(self.fixed)
        return settled

    def drop(self, count: int) -> None:
        """Forget the first fixed words, which belong to final segments; the window now begins behind them."""
        self.fixed, self.first_open = self.fixed[count:], max(0, self.first_open - count)

    def boundary(self, latest_s: float) -> tuple[int, float] | None:
        """The last place between two words, the first of them fixed, that is not later than `latest_s`.

        Returns:
            Number of fixed words before it, and its time; None where there is none.
        """
        following = [*self.fixed, *self.tail[:1]]
        for count in range(len(self.fixed), 0, -1):
            end_s = self.fixed[count - 1].end_s
            time_s = (end_s + following[count].start_s) / 2 if count < len(following) else end_s
            if time_s <= latest_s:
                return count, time_s
        return None

    def _rest(self, words: Sequence[Word]) -> list[Word]:
        """What a hypothesis says after the fixed words."""
        if not self.fixed:
            return list(words)
        last_s = self.fixed[-1].end_s
        guess = sum(1 for word in words if middle_s(word) < last_s) if self._timed else len(self.fixed)
        return list(words[continuation(self.fixed, words, guess=guess) :])

    def _fix(self, words: Sequence[Word]) -> None:
        self.fixed += self._after(words)

    def _after(self, words: Sequence[Word]) -> list[Word]:
        """Words, none of them beginning before the fixed ones end: another hypothesis had other times."""
        if not self._timed or not self.fixed:
            return list(words)
        end_s = self.fixed[-1].end_s
        return [
            Word(word.text, max(word.start_s, end_s), max(word.end_s, end_s), word.source)
            if word.start_s < end_s
            else word
            for word in words
        ]


def continuation(known: Sequence[Word], words: Sequence[Word], *, guess: int) -> int:
    """How many first words of `words` say what `known` says: the split with the fewest edits (Levenshtein 1966).

    Of equally good ones the nearest to `guess`.
    """
    keys = [key(word) for word in words]
    row = list(range(len(keys) + 1))
    for word in known:
        own = key(word)
        diagonal, row[0] = row[0], row[0] + 1
        for at, other in enumerate(keys, 1):
            diagonal, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, diagonal + (own != other))
    return min(range(len(row)), key=lambda count: (row[count], abs(count - guess)))


def shared(left: Sequence[Word], right: Sequence[Word]) -> int:
    """How many first words are the same."""
    count = 0
    while count < min(len(left), len(right)) and key(left[count]) == key(right[count]):
        count += 1
    return count


def key(word: Word) -> str:
    """What is compared: without case and punctuation, which change while a sentence goes on."""
    return re.sub(r"\W", "", word.text).casefold() or word.text


def middle_s(word: Word) -> float:
    """The middle of a word in time."""
    return (word.start_s + word.end_s) / 2
