"""The same words written in two ways are the same units; other words stay other words."""

import importlib.util
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.text.normalize import characters, has_wide, normalize, seems_traditional, units

SAME = [
    ("", "hello, world. how are you?", "Hello world how are you"),
    ("", "他说:“走吧…”—好的", "他说走吧好的"),
    ("", "我用iPhone15拍照", "我用 iphone 15 拍照"),
    ("", "价格是3.5%", "价格是百分之三点五"),
    ("", "价格是３．５％", "价格是3.5%。"),
    ("en", "Ｔｕｒｎ　ｌｅｆｔ", "turn left"),
    ("zh", "二零二六年十一月二十一日", "2026年11月21日"),
    ("en", "it's john's co-op", "its johns co op"),
    ("en", "It’s twenty-one degrees", "its 21 degrees"),
    ("en", "one hundred and five", "105"),
    ("en", "one two three", "1 2 3"),
    ("en", "at 3:20 p.m. in the U.S.", "at 3:20 pm in the US"),
    ("en", "3.5 percent", "three point five per cent"),
    ("en", "25 dollars.", "twenty five dollars"),
    ("en", "1,200 people", "1200 people"),
    ("en", "café naïve", "cafe naive"),
    ("de", "Grüße, Welt!", "grüße welt"),
]
DIFFERENT = [
    ("", "你好", "您好"),
    ("", "it is", "its"),
    ("", "3.5", "35"),
    ("", "-5 degrees", "5 degrees"),
    ("", "5 %", "5"),
    ("de", "schön", "schon"),
    ("de", "drei", "3"),
    ("en", "recreate", "re create"),
]


@pytest.mark.parametrize(("language", "one", "other"), SAME)
def test_ways_of_writing_do_not_count(language: str, one: str, other: str) -> None:
    assert normalize(one, language) == normalize(other, language)


@pytest.mark.parametrize(("language", "one", "other"), DIFFERENT)
def test_what_was_said_counts(language: str, one: str, other: str) -> None:
    assert normalize(one, language) != normalize(other, language)


@pytest.mark.skipif(importlib.util.find_spec("opencc") is None, reason="needs the extra eval")
def test_traditional_characters_are_simplified() -> None:
    assert normalize("皇后的發現", "zh") == normalize("皇后的发现", "zh")
    assert normalize("頭髮和發現") == normalize("头发和发现")  # two characters become one


def test_traditional_characters_are_noticed() -> None:
    assert seems_traditional("皇后的發現")
    assert not seems_traditional("皇后的发现, abc")


def test_units_and_characters() -> None:
    assert units("我用 iPhone15 拍照") == ["我", "用", "iphone", "1", "5", "拍", "照"]
    assert characters("打开 the 灯") == ["打", "开", "t", "h", "e", "灯"]
    assert units("हिन्दी में") == ["हिन्दी", "में"]
    assert units("한국어 좋아", "ko") == ["한국어", "좋아"]
    assert units("ひらがなが", "ja") == list("ひらがなが")
    assert units(" …!? ") == []


def test_one_wrong_figure_is_one_error() -> None:
    one, other = units("twenty one thousand and five"), units("21,006")
    assert [a == b for a, b in zip(one, other, strict=True)] == [True, True, True, True, False]


@given(st.text(max_size=30), st.sampled_from(["", "zh", "en", "de"]))
def test_any_text_has_a_form_without_punctuation_and_case(text: str, language: str) -> None:
    form = normalize(text, language)
    assert form == " ".join(form.split())
    kinds = {unicodedata.category(char)[0] for char in form if char not in " .-%°$€£¥"}
    assert kinds <= {"L", "M", "N"}
    assert normalize(text.upper() if text.isascii() else text, language) == form


@given(st.text("今天天气很好打开灯", max_size=12))
def test_plain_chinese_is_divided_into_characters(text: str) -> None:
    assert units(text, "zh") == characters(text, "zh") == list(text)
    assert has_wide(text) == bool(text)
