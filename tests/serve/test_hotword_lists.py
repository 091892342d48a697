"""Lists of hotwords that users keep."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from zhiyin.errors import UserError
from zhiyin.serve.hotword_lists import MAX_BYTES, HotwordLists
from zhiyin.text import hotword_list


@pytest.fixture
def lists(engine: Engine) -> HotwordLists:
    return HotwordLists(engine)


def test_a_list_comes_back(lists: HotwordLists) -> None:
    text = "\ufeff# 名字\r\n张三 2.0\n\n李四 => 李思\nAscend"
    saved = lists.save("li", " 公司  一 ", text)
    assert (saved.name, saved.num_words, saved.num_rules) == ("公司 一", 2, 1)
    assert lists.get("li", "公司 一") == saved and lists.get("li", " 公司 一") == saved
    assert saved.entries == ("张三 2.0", "李四 => 李思", "Ascend")
    read = hotword_list.read(saved.entries)
    assert ([word.text for word in read.words], read.words[0].weight) == (["张三", "Ascend"], 2.0)
    (listed,) = lists.list("li")
    assert (listed.name, listed.num_words, listed.num_rules, listed.updated_at) == ("公司 一", 2, 1, saved.updated_at)


def test_a_list_is_replaced_and_deleted(lists: HotwordLists) -> None:
    lists.save("li", "b", "one")
    lists.save("li", "a", "one")
    lists.save("li", "b", "two\nthree")
    assert [(one.name, one.num_words) for one in lists.list("li")] == [("a", 1), ("b", 2)]
    assert lists.delete("li", "b") and not lists.delete("li", "b") and lists.get("li", "b") is None


def test_lists_of_others_are_not_there(lists: HotwordLists) -> None:
    lists.save("li", "a", "one")
    assert lists.list("wang") == () and lists.get("wang", "a") is None and not lists.delete("wang", "a")
    lists.save("wang", "a", "two")
    assert (mine := lists.get("li", "a")) and mine.text == "one"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("", "x", "name '' does not fit"),
        ("x" * 101, "x", "1 to 100 printable"),
        ("a\x00b", "x", "does not fit"),
        ("a", "", "holds no words"),
        ("a", "# only a comment", "holds no words"),
        ("a", "<x>", "hotwords, entry 1: '<x>' holds one of"),
        ("a", "ok\na => a", "entry 2"),
        ("a", "x" * (MAX_BYTES + 1), "more than 2 MB"),
        ("a", "a => b\nb => a", "go in a circle"),
    ],
)
def test_what_makes_no_sense_is_refused(lists: HotwordLists, name: str, text: str, message: str) -> None:
    lists.save("li", "a", "one")
    with pytest.raises(UserError, match=message):
        lists.save("li", name, text)
    assert (kept := lists.get("li", "a")) and kept.text == "one"


def test_a_text_never_names_a_file(lists: HotwordLists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("password")
    monkeypatch.chdir(tmp_path)
    assert lists.save("li", "a", "secret").entries == ("secret",)
    assert lists.save("li", "b", str(tmp_path / "secret")).entries == (str(tmp_path / "secret"),)
    assert lists.save("li", "c", "secret.txt").num_words == 1


def test_there_are_not_too_many(lists: HotwordLists, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zhiyin.serve.hotword_lists.MAX_LISTS", 2)
    for name in ("a", "b", "a"):
        lists.save("li", name, "one")
    with pytest.raises(UserError, match="2 are kept, at most 2"):
        lists.save("li", "c", "one")
    lists.save("wang", "c", "one")
