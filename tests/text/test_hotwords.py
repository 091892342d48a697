"""Hotwords are put right by sound; common words, numbers and everything else stay; spans and times are kept."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.result import Segment, Turn, Word
from zhiyin.text import phonetics
from zhiyin.text.hotword_list import read
from zhiyin.text.hotword_search import common, en_score, index, zh_score
from zhiyin.text.hotwords import correct, correct_segment, move_times

NAMES = [
    "知音",
    "张晓明",
    "欧阳修文",
    "昇腾",
    "openPangu",
    "Kubernetes",
    "Nvidia",
    "Alexa",
    "O'Brien",
    "GPT-4",
    "王一博",
]
WORDS = read(NAMES)


@pytest.mark.parametrize(
    ("heard", "right"),
    [
        ("请打开之音系统", "请打开知音系统"),
        ("张小名去了北京", "张晓明去了北京"),
        ("张 小 名去了北京", "张晓明去了北京"),
        ("请欧样修闻说话", "请欧阳修文说话"),
        ("用声腾芯片", "用昇腾芯片"),
        ("张小民，之音", "张晓明，知音"),
        ("we use cubernetes here", "we use Kubernetes here"),
        ("we use kuber nettis here", "we use Kubernetes here"),
        ("on open pangu and alexa", "on openPangu and Alexa"),
        ("ask a lexa please", "ask Alexa please"),
        ("mister o brien said", "mister O'Brien said"),
        ("gpt 4 and gpt 5", "GPT-4 and gpt 5"),
        ("用envidia的卡", "用Nvidia的卡"),
    ],
)
def test_what_sounds_like_a_hotword_becomes_it(heard: str, right: str) -> None:
    assert correct(heard, WORDS).text == right


@pytest.mark.parametrize(
    "text",
    [
        "只因为你",  # 只因 sounds exactly like 知音, but 因为 is a word
        "我们在生疼的时候",  # 生疼 is a word
        "王二博士",  # a number is never another number
        "turn left one two three",
        "in video games a legs a",
        "Kubernetes's alexas",
        "we bought an apple",
        "GPT 3",
        "",
        " ，。",
        "🙂 ﷽ é ß İ",
    ],
)
def test_everything_else_stays(text: str) -> None:
    done = correct(text, WORDS)
    assert (done.text, done.changes) == (text, ())


def test_a_common_word_yields_to_a_heavy_hotword_that_sounds_exactly_so() -> None:
    text = "我觉得大将很好 it is on sail"
    assert "大将" in common("zh") and "sail" in common("en")
    assert correct(text, read(["大匠", "Sayl"])).text == text
    assert correct(text, read(["大匠 2.0", "Sayl 2.0"])).text == "我觉得大匠很好 it is on Sayl"


def test_capitals_of_a_common_word_stay() -> None:
    assert correct("an apple a day", read(["Apple"])).text == "an apple a day"
    assert correct("an apple a day", read(["Apple 2.0"])).text == "an Apple a day"


def test_of_two_hotwords_the_nearer_the_longer_and_the_first_wins() -> None:
    assert correct("找张伟铭吧", read(["张伟", "张伟明"])).text == "找张伟明吧"
    assert correct("找章玮吧", read(["张伟", "章伟"])).text == "找章伟吧"
    assert correct("找章玮吧", read(["章伟", "张伟"])).text == "找章伟吧"
    assert correct("找张伟吧", read(["章玮", "张伟"])).text == "找张伟吧"


def test_in_another_language_only_spelling_counts() -> None:
    assert correct("wir nehmen cubernetes", WORDS, language="de").text == "wir nehmen cubernetes"
    assert correct("wir nehmen kubernetes", WORDS, language="de").text == "wir nehmen Kubernetes"


def test_pairs_go_by_spelling_and_longest_first() -> None:
    words = read(["小爱 => 小艾", "小爱同学 => 小艾同学们", "cat => dog", "音 => 知音", "知音"])
    assert correct("小爱同学和小爱", words).text == "小艾同学们和小艾"
    assert correct("Cat concat cat's", words).text == "dog concat dog's"
    assert correct("知音和音", words).text == "知音和知音"
    assert correct("之音", read(["知音", "知音 => 只因"])).text == "只因"


def test_a_stricter_and_a_looser_threshold() -> None:
    words = read(["Kowalski"])
    assert correct("mister kofolsky", words, threshold=0.99).text == "mister kofolsky"
    assert correct("mister kofolsky", words, threshold=0.7).text == "mister Kowalski"


def test_many_short_names_must_sound_the_same_tones_too() -> None:
    """Among hundreds of names, one sounds nearly like two characters of any long text."""
    few = ["知音", *(f"{char}文" for char in "赵钱孙李周吴郑王冯陈")]
    many = [a + b for a in "赵钱孙李周吴郑王冯陈褚卫蒋沈韩杨" for b in "伟芳娜敏静丽"]
    assert correct("请知引说话", read(few)).text == "请知音说话"
    assert correct("请知引说话", read([*few, *many])).text == "请知引说话"
    assert correct("请知引说话", read([*few[1:], *many, "知音 3.0"])).text == "请知音说话"
    assert correct("请支音说话", read([*few, *many])).text == "请知音说话"


# Characters and words in which hotwords, their homophones and common words meet
PIECES = st.sampled_from(
    [*"知之只枝音因阴为张章小晓明名一二博王", "alexa", "lexa", "a", "kuber", "netes", "GPT", "4", " ", "，"]
)
TEXTS = st.lists(PIECES, max_size=14).map("".join)
LISTS = st.lists(
    st.sampled_from(
        [
            *NAMES,
            "之音 2.0",
            "知因",
            "章晓明",
            "小明",
            "音 => 知音",
            "晓 => 小",
            "alexa => Lexa",
            "明 => 晓明",
            "a => lexa",
        ]
    ),
    max_size=6,
    unique=True,
)


@given(TEXTS | st.text(max_size=40))
def test_without_hotwords_nothing_changes(text: str) -> None:
    assert correct(text, read([])) == correct(text, read([]))
    assert correct(text, read([])).text == text


@given(TEXTS | st.text(max_size=40), LISTS)
def test_correcting_twice_changes_nothing_more_and_spans_agree(text: str, entries: list[str]) -> None:
    words = read(entries)
    done = correct(text, words)
    assert correct(done.text, words).text == done.text
    rebuilt, at = "", 0
    for change in done.changes:
        assert at <= change.start <= change.end <= len(text)
        assert text[change.start : change.end] == change.old != change.new
        assert done.text[change.new_start : change.new_end] == change.new
        rebuilt += text[at : change.start] + change.new
        at = change.end
    assert rebuilt + text[at:] == done.text


@given(
    st.lists(
        st.sampled_from([*"的我你他天空海水树花鸟桌子电视看书", "summer", "window", "bread", "7", " "]), max_size=30
    ).map("".join)
)
def test_text_with_none_of_the_sounds_stays(text: str) -> None:
    assert correct(text, read(["知音", "昇腾", "Kubernetes", "欧阳修文"])).text == text


@given(st.lists(st.sampled_from("知之只音英因张章晓小明民名"), min_size=2, max_size=7).map("".join))
def test_the_index_misses_no_near_homophone(text: str) -> None:
    """Against trying every hotword at every place."""
    words = ["知音", "张晓明", "知音张晓", "民音"]
    found = {(f.start, f.word.text) for f in index(read(words)).near(text, language="zh", threshold=0.9, careful=False)}
    tried = {
        (start, word)
        for word in words
        for start in range(len(text) - len(word) + 1)
        if text[start : start + len(word)] != word and zh_score(text[start : start + len(word)], word) >= 0.9
    }
    assert found == tried


def test_pinyin_against_what_every_dictionary_says() -> None:
    assert phonetics.readings("中") == (("zh", "ong", 1), ("zh", "ong", 4))
    assert phonetics.readings("女") == (("n", "v", 3),)
    assert phonetics.readings("鱼") == (("", "v", 2),)
    assert phonetics.readings("月") == phonetics.readings("阅") == (("", "ve", 4),)
    assert phonetics.readings("a") == ()
    near = [("四", "是"), ("南", "兰"), ("分", "风"), ("心", "星"), ("福", "湖"), ("山", "三"), ("班", "帮")]
    assert all(0 < phonetics.syllable_distance(a, b) < 0.35 for a, b in near)
    assert all(phonetics.syllable_distance(a, b) >= 0.6 for a, b in ["水火", "天地", "大小"])


def test_english_sounds() -> None:
    same = [("phone", "fone"), ("knight", "night"), ("cat", "kat"), ("write", "rite"), ("sea", "see")]
    assert all(phonetics.sounds(a) == phonetics.sounds(b) for a, b in same)
    assert phonetics.sound_likeness(phonetics.sounds("kubernetes"), phonetics.sounds("cubernetis")) > 0.9
    assert phonetics.sound_likeness(phonetics.sounds("window"), phonetics.sounds("market")) < 0.4
    assert en_score("abc", "ABC", "abcdefgh") == 0.0


@given(st.text("abcdefghijklmnopqrstuvwxyz", max_size=8), st.text("abcdefghijklmnopqrstuvwxyz", max_size=8))
def test_sound_distance_is_a_distance(one: str, other: str) -> None:
    a, b = phonetics.sounds(one), phonetics.sounds(other)
    assert phonetics.sound_distance(a, a) == 0.0
    assert phonetics.sound_distance(a, b) == pytest.approx(phonetics.sound_distance(b, a))
    assert 0.0 <= phonetics.sound_likeness(a, b) <= 1.0


def timed(*words: str) -> tuple[Word, ...]:
    return tuple(Word(word, float(i), i + 0.5, "ctc") for i, word in enumerate(words))


def test_times_of_characters_and_of_joined_words() -> None:
    text = "请打开之音"
    assert move_times(timed(*text), text, correct(text, WORDS)) == timed(*"请打开知音")
    text = "use kuber nettis now"
    moved = move_times(timed(*text.split()), text, correct(text, WORDS))
    assert moved == (Word("use", 0.0, 0.5, "ctc"), Word("Kubernetes", 1.0, 2.5, "ctc"), Word("now", 3.0, 3.5, "ctc"))
    text = "请张小名，说话"
    moved = move_times(timed("请", "张小", "名，", "说话"), text, correct(text, WORDS))
    assert [(word.text, word.start_s, word.end_s) for word in moved][1] == ("张晓明，", 1.0, 2.5)


@given(st.lists(st.sampled_from([*"知之音因张小名打开", "lexa"]), max_size=12))
def test_times_stay_in_order_and_words_make_the_text(pieces: list[str]) -> None:
    text = "".join(pieces)
    done = correct(text, WORDS)
    moved = move_times(timed(*pieces), text, done)
    assert "".join(word.text for word in moved) == done.text
    assert all(a.end_s <= b.start_s for a, b in pairwise(moved))
    assert {word.start_s for word in moved} <= {word.start_s for word in timed(*pieces)}


def test_a_segment_is_corrected_with_its_words_and_turns() -> None:
    segment = Segment(0.0, 3.0, "叫张小名", timed(*"叫张小名"), turns=(Turn("1", "叫"), Turn("2", "张小名")))
    done, changes = correct_segment(segment, WORDS)
    assert done.text == "叫张晓明" == "".join(word.text for word in done.words)
    assert done.turns == (Turn("1", "叫"), Turn("2", "张晓明"))
    assert [change.old for change in changes] == ["张小名"]
    assert correct_segment(segment, read([])) == (segment, ())
    foreign = Segment(0.0, 1.0, "cubernetes", language="de")
    assert correct_segment(foreign, WORDS) == (foreign, ())


def test_among_a_hundred_thousand_hotwords_the_right_one_is_found() -> None:
    chars = sorted({char for word in common("zh") for char in word if phonetics.readings(char)})[:300]
    names = [a + b + c for a in chars[:50] for b in chars[50:100] for c in chars[100:140]]
    many = read([*names[:99_000], "张晓明", "Kubernetes"])
    assert len(many.words) > 99_000
    assert correct("我们请张小名来讲 cubernetes", many).text == "我们请张晓明来讲 Kubernetes"


def test_our_words_are_written_down_as_they_are_compared() -> None:
    """Chinese words of two to four characters, English ones in small letters; endings are taken off when looking."""
    assert all(2 <= len(word) <= 4 and all("\u4e00" <= char <= "\u9fff" for char in word) for word in common("zh"))
    assert all(word.isascii() and word.isalpha() and word.islower() for word in common("en"))
    assert len(common("zh")) > 40_000 and len(common("en")) > 4_000
    text = "she was running happily and tries the largest studies makes planned carefully"
    assert correct(text, read(["Runing", "Happilly", "Trise", "Largesst", "Studys", "Planed", "Carefuly"])).text == text


def test_readings_that_nobody_says_do_not_count() -> None:
    assert phonetics.readings("王") == (("", "uang", 2),), "dictionaries have wàng and yù too"
    assert [final for _, final, _ in phonetics.readings("行")][:2] in (["ing", "ang"], ["ang", "ing"])
    assert phonetics.readings("了")[0] == ("l", "e", 5)
