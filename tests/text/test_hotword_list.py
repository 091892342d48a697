"""Hotword files and lists: what people write is read as they mean it, or refused in one line that says what to do."""

from pathlib import Path

import pytest

from zhiyin.errors import UserError
from zhiyin.text.hotword_list import MAX_LINES, Hotword, Rule, read

FILE = """\ufeff# names of the team
知音\t2.5
openPangu 1.5

iPhone 15
阿里巴巴 4
Kubernetes :2
cooper netties => Kubernetes
小爱 ⇒ 小艾
"""


def test_a_file_with_weights_pairs_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(FILE.replace("\n", "\r\n").encode())
    found = read(path)
    assert found.words == (
        Hotword("知音", 2.5),
        Hotword("openPangu", 1.5),
        Hotword("iPhone 15"),
        Hotword("阿里巴巴", 4.0),
        Hotword("Kubernetes", 2.0),
    )
    assert found.rules == (Rule("cooper netties", "Kubernetes"), Rule("小爱", "小艾"))
    assert found.texts == ("阿里巴巴", "知音", "Kubernetes", "openPangu", "iPhone 15")
    assert read(str(path)).words == found.words


def test_a_string_of_words_and_a_list() -> None:
    assert [word.text for word in read("知音，昇腾, Alexa,, a  b").words] == ["知音", "昇腾", "Alexa", "a b"]
    assert read(["知音", "之音 => 知音"]).rules == (Rule("之音", "知音"),)
    assert not read("") and not read([]) and not read([" ", "# nothing"])


def test_duplicates_are_one_with_the_larger_weight() -> None:
    found = read(["知音 1.5", "知音", "知音 3.0", "a => b", "A => b"])
    assert found.words == (Hotword("知音", 3.0),)
    assert found.rules == (Rule("a", "b"),)


def test_as_many_lines_as_allowed_and_one_more(tmp_path: Path) -> None:
    path = tmp_path / "many.txt"
    lines = [f"word{number}" for number in range(MAX_LINES)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert len(read(path).words) == MAX_LINES
    path.write_text("\n".join([*lines, "more"]), encoding="utf-8")
    with pytest.raises(UserError, match=f"{MAX_LINES + 1} lines; at most {MAX_LINES}"):
        read(path)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "holds no words"),
        (b"# only\n\n", "holds no words"),
        ("知音\n昇腾".encode("gbk"), "looks like GB18030; convert it: iconv -f GB18030 -t UTF-8"),
        (b"fine\n" + "知音".encode("gbk"), r"not UTF-8 \(line 2\)"),
        ("知音".encode("utf-16"), "looks like UTF-16"),
        (b"a\x00b", "not a text file"),
        (b"\xff\xff\xff", "save it as UTF-8"),
        (b"a" * 101, "at most 100"),
        (b"fine\n[x]", "line 2: .*have a meaning in prompts"),
        (b"one, two", "have a meaning in prompts"),
        (b"word\theavy", "weight 'heavy' is no number"),
        (b"word\t1.2.3", "weight '1.2.3' is no number"),
        (b"word\t99", "weights go from 0.1 to 10"),
        (b"word\t-1", "weights go from 0.1 to 10"),
        (b"a => ", "is no pair"),
        (b"a => b => c", "is no pair"),
        (b"a => a", "become itself"),
        (b"a => b\nb => c\nc => a", "go in a circle"),
        (b"a => b\nA => c", "already becomes 'b'"),
        (b"...", "has no letter"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(tmp_path: Path, raw: bytes, message: str) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(raw)
    with pytest.raises(UserError, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the hotword file .*missing\.txt"):
        read(str(tmp_path / "missing.txt"))
    with pytest.raises(UserError, match="cannot read the hotword file"):
        read(tmp_path)


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    with path.open("wb") as file:
        file.truncate(17 * 2**20)
    with pytest.raises(UserError, match="larger than 16 MB"):
        read(path)
