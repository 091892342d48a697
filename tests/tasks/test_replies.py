"""Replies of other families, right and wrong: the same values as from ours, nothing lost, nothing guessed."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.result import Turn
from zhiyin.tasks import replies
from zhiyin.tasks.families import NAMES, Asked, find
from zhiyin.tasks.parse import Parsed
from zhiyin.tasks.render import TimedWord
from zhiyin.tasks.table import TASKS, select, with_labels


def read(family: str, reply: str, tasks: str = "", *, duration_s: float | None = None, **options) -> Parsed:
    asked = find(family).completed(Asked(select(tasks) if tasks else (), **options))
    return find(family).read(reply, asked, duration_s=duration_s)


# --- OSUM and OSUM-Pangu


@pytest.mark.parametrize(
    ("reply", "tasks", "text", "labels", "answer", "unparsed"),
    [
        ("你好<anger>", "ser", "你好", {"ser": "anger"}, "", ()),
        ("你好<child><female>", "asr,sgc,sap", "你好", {"sgc": "female", "sap": "child"}, "", ()),
        ("<OLD><MALE>", "sgc,sap", "", {"sgc": "male", "sap": "old"}, "", ()),
        ("<日常口语><ADULT><FEMALE>", "ssr,sgc,sap", "", {"ssr": "日常口语", "sgc": "female", "sap": "adult"}, "", ()),
        ("几点了<开始回答>三点", "sttc", "几点了", {}, "三点", ()),
        ("你好<angry>", "ser", "你好", {}, "", ("<angry>", "ser: no label")),
        ("你好", "ser", "你好", {}, "", ("ser: no label",)),
    ],
)
def test_osum(reply: str, tasks: str, text: str, labels: dict, answer: str, unparsed: tuple) -> None:
    parsed = read("osum", reply, tasks)
    assert (parsed.text, parsed.labels, parsed.answer, parsed.unparsed) == (text, labels, answer, unparsed)


def test_osum_answers_a_free_prompt_in_its_own_words() -> None:
    parsed = read("osum", "不知道<anger>\n第二行", instruction="谁？")
    assert parsed == Parsed((), answer="不知道<anger>\n第二行")


def test_word_times_of_osum() -> None:
    parsed = read("osum", "<0.10>打<0.30><0.30>开<0.52>", "srwt")
    assert parsed.words == (TimedWord("打", 0.1, 0.3), TimedWord("开", 0.3, 0.52)) and parsed.text == "打开"
    assert [task.id for task in parsed.tasks] == ["asr", "srwt"]


@pytest.mark.parametrize(
    ("reply", "tasks", "labels", "unparsed"),
    [
        ("<asr><age>hello everyone i am pangu<ADULT>", "asr,sap", {"sap": "adult"}, ()),
        (
            "<asr><age><gender>hello everyone i am pangu<adult><male>",
            "asr,sgc,sap",
            {"sgc": "male", "sap": "adult"},
            (),
        ),
        ("hello everyone i am pangu<adult>", "asr,sap", {"sap": "adult"}, ()),
        ("<asr><gender>hello everyone i am pangu<male>", "asr,sap", {}, ("<gender>", "<male>", "sap: no label")),
        ("<asr>hello everyone i am pangu", "asr", {}, ()),
    ],
)
def test_osum_pangu_says_tags_first(reply: str, tasks: str, labels: dict, unparsed: tuple) -> None:
    parsed = read("osum-pangu", reply, tasks)
    assert (parsed.text, parsed.labels, parsed.unparsed) == ("hello everyone i am pangu", labels, unparsed)


def test_osum_pangu_says_what_it_understood_of_a_request() -> None:
    table = with_labels(TASKS, {"sgc": ("woman", "man")})
    parsed = read("osum-pangu", "<asr><gender>go left<woman>", instruction="who speaks?", table=table)
    assert [task.id for task in parsed.tasks] == ["asr", "sgc"]
    assert (parsed.text, parsed.labels) == ("go left", {"sgc": "woman"})
    assert read("osum-pangu", "<chat>three o'clock", instruction="answer").answer == "three o'clock"


@pytest.mark.parametrize(
    ("reply", "said", "loose"),
    [
        ("[unused16]is it left?[unused17]<asr>go left", "<asr>go left", ()),
        ("[unused16]a[unused16]b[unused17]<asr>go left[unused16]c\nd[unused17]", "<asr>go left", ()),
        ("[unused16][unused17]go left", "go left", ()),
        ("go left", "go left", ()),
        ("go left[unused16]or right", "go left", ("[unused16]or right",)),
        ("so it is left[unused17]go left", "go left", ("so it is left[unused17]",)),
        ("a[unused17]go left[unused16]b", "go left", ("a[unused17]", "[unused16]b")),
        ("[unused16]never ends", "", ("[unused16]never ends",)),
        ("", "", ()),
    ],
)
def test_thoughts_are_no_part_of_the_reply(reply: str, said: str, loose: tuple) -> None:
    assert replies.without_thoughts(reply, ("[unused16]", "[unused17]")) == (said, loose)
    parsed = read("osum-pangu", reply, "asr")
    assert (parsed.text, parsed.unparsed) == (said.removeprefix("<asr>"), loose)


def test_other_families_have_no_thoughts() -> None:
    assert read("granite-speech", "[unused16]a[unused17]", "asr").text == "[unused16]a[unused17]"


# --- plain text


def test_the_whole_reply_is_what_was_asked() -> None:
    said = " A  <b> c.\n"
    assert read("granite-speech", said, "asr").text == "A <b> c."
    assert read("granite-speech", said, "ast", into="fr").translation == "A <b> c."
    assert read("voxtral", " - one\n - two\n", "sttc").answer == "- one\n - two"
    assert read("qwen2-audio", said, instruction="what?") == Parsed((), answer="A  <b> c.")


def test_qwen2_audio_may_name_the_language_first() -> None:
    parsed = read("qwen2-audio", "<|zh|>你好。", "asr")
    assert (parsed.language, parsed.text) == ("zh", "你好。")
    assert read("qwen2-audio", "<|zh", "asr").text == "<|zh"


# --- Qwen3-ASR


@pytest.mark.parametrize(
    ("reply", "language", "text", "unparsed"),
    [
        ("language English<asr_text>turn left", "en", "turn left", ()),
        ("language Cantonese<asr_text>左轉", "yue", "左轉", ()),
        ("Language chinese\n<asr_text> 你好\n", "zh", "你好", ()),
        ("language Klingon<asr_text>nuqneH", "Klingon", "nuqneH", ()),
        ("language None<asr_text>", "", "", ()),
        ("", "", "", ()),
        ("turn left", "", "turn left", ("reply: no <asr_text>",)),
        ("language English turn left", "", "language English turn left", ("reply: no <asr_text>",)),
        ("hm<asr_text>turn left", "", "turn left", ("hm",)),
        ("<asr_text>turn left", "", "turn left", ()),
        ("language<asr_text>turn left", "", "turn left", ("language",)),
        ("language English<asr_text>a<asr_text>b", "en", "a<asr_text>b", ()),
    ],
)
def test_qwen3_asr(reply: str, language: str, text: str, unparsed: tuple) -> None:
    parsed = read("qwen3-asr", reply, "asr")
    assert (parsed.language, parsed.text, parsed.unparsed) == (language, text, unparsed)


def test_qwen3_asr_told_the_language_says_only_the_text() -> None:
    assert read("qwen3-asr", "turn left", "asr", language="en") == Parsed(select("asr"), "turn left")


@given(st.sampled_from(sorted(find("qwen3-asr").languages.items())), st.text("abc 你好,.", max_size=30))
def test_qwen3_asr_is_read_as_transformers_reads_it(language: tuple[str, str], text: str) -> None:
    module = pytest.importorskip("transformers.models.qwen3_asr.processing_qwen3_asr")
    code, name = language
    reply = f"language {name}<asr_text>{text}"
    theirs, ours = module._parse_single_output(reply), read("qwen3-asr", reply, "asr")
    if not re.search(r"(.{1,20})\1{19}", text):  # theirs also cuts loops there; our guard does it later
        assert ours.text == " ".join(theirs["transcription"].split())
    assert (ours.language, theirs["language"]) == (code, name)


# --- Granite Speech plus


def plus(reply: str, **options) -> Parsed:
    return read("granite-speech-plus", reply, "srwt", **options)


def test_words_end_where_the_model_says_and_begin_where_the_last_one_ended() -> None:
    parsed = plus("hello [T:45] _ [T:60] world [T:82]")
    assert parsed == Parsed(
        select("srwt"), "hello world", (TimedWord("hello", 0.0, 0.45), TimedWord("world", 0.6, 0.82))
    )


def test_the_clock_begins_again_every_ten_seconds() -> None:
    ends = [word.end_s for word in plus("a [T:990] b [T:5] c [T:5] _ [T:4] d [T:0]").words]
    assert ends == [9.9, 10.05, 10.05, 30.0]


_GAPS_CS = st.lists(st.tuples(st.integers(0, 999), st.sampled_from(["word", "_", "你", "don't"])), max_size=60)


@given(_GAPS_CS)
def test_any_times_less_than_ten_seconds_apart_come_back(gaps: list[tuple[int, str]]) -> None:
    """The inverse written differently: absolute times, wrapped as the model card says."""
    at_cs, truth, written = 0, [], []
    for gap_cs, word in gaps:
        start_cs, at_cs = at_cs, at_cs + gap_cs
        written.append(f"{word} [T:{at_cs - 1000 * (at_cs // 1000)}]")
        if word != "_":
            truth.append(TimedWord(word, start_cs / 100, at_cs / 100))
    parsed = plus(" ".join(written), duration_s=at_cs / 100)
    assert parsed.words == tuple(truth) and not parsed.unparsed


@pytest.mark.parametrize(
    ("reply", "words", "unparsed"),
    [
        ("", [], ()),
        ("hello world", [], ("hello world",)),
        ("hello [T:45] world", ["hello"], ("world",)),
        ("hello [T:45] _", ["hello"], ()),
        ("[T:45] hello [T:82]", ["hello"], ("[T:45]",)),
        ("hello [T:45] [T:82]", ["hello"], ("[T:82]",)),
        ("hello [T:4x] you [T:82]", ["hello you"], ("[T:4x]",)),
        ("hello [T:1045] you [T:82]", ["hello you"], ("[T:1045]",)),
        ("hello [T:45] you [T:", ["hello"], ("[T:", "you")),
        ("[Speaker 1]: hello [T:45]", ["hello"], ("[Speaker 1]:",)),
        ("[laughs] hello [T:45]", ["[laughs] hello"], ()),
    ],
)
def test_what_is_no_timed_word_is_shown(reply: str, words: list[str], unparsed: tuple) -> None:
    parsed = plus(reply)
    assert ([word.text for word in parsed.words], parsed.unparsed) == (words, unparsed)


def test_a_time_beyond_the_audio_is_not_believed() -> None:
    """A step back of 2 cs reads as 10 s on; what follows must not be dragged along."""
    parsed = plus("a [T:45] b [T:43] c [T:90] d [T:140]", duration_s=1.0)
    assert parsed.words == (TimedWord("a", 0.0, 0.45), TimedWord("c", 0.45, 0.9), TimedWord("d", 0.9, 1.4))
    assert parsed.unparsed == ("b [T:43]",)


def test_turns() -> None:
    parsed = read(
        "granite-speech-plus", "[Speaker 1]: how are you [Speaker 2]: fine\n[Speaker 1]: bye", "asr", speakers=True
    )
    assert parsed.turns == (Turn("Speaker 1", "how are you"), Turn("Speaker 2", "fine"), Turn("Speaker 1", "bye"))
    assert parsed.text == "how are you fine bye" and not parsed.unparsed


@pytest.mark.parametrize(
    ("reply", "turns", "text", "unparsed"),
    [
        ("", [], "", ("speakers: no turn",)),
        ("hello", [], "hello", ("speakers: no turn",)),
        ("um [Speaker 1]: hello", [("", "um"), ("Speaker 1", "hello")], "um hello", ()),
        ("[Speaker 1] hello", [("Speaker 1", "hello")], "hello", ()),
        ("[Speaker 1]: hello [Speaker 2]:", [("Speaker 1", "hello")], "hello", ("[Speaker 2]:",)),
        ("[Speaker 1]: hello [Speaker", [("Speaker 1", "hello")], "hello", ("[Speaker",)),
        ("[Speaker A]: hello", [], "hello", ("[Speaker A]:", "speakers: no turn")),
        ("[Speaker 1]: hello [T:45] you", [("Speaker 1", "hello you")], "hello you", ("[T:45]",)),
        ("[Speaker 1]: hello [T-shirt]", [("Speaker 1", "hello [T-shirt]")], "hello [T-shirt]", ()),
    ],
)
def test_odd_turns(reply: str, turns: list, text: str, unparsed: tuple) -> None:
    parsed = read("granite-speech-plus", reply, "asr", speakers=True)
    assert [(turn.speaker, turn.text) for turn in parsed.turns] == turns
    assert (parsed.text, parsed.unparsed) == (text, unparsed)


def test_marks_that_were_not_asked_are_no_text() -> None:
    parsed = read("granite-speech-plus", "[Speaker 1]: hello [T:45] you", "asr")
    assert (parsed.text, parsed.turns, parsed.unparsed) == ("hello you", (), ("[Speaker 1]:", "[T:45]"))
    assert read("granite-speech-plus", "hello[T:45]you 你[T:7]好", "asr").text == "hello you 你好"


# --- all of them

_ODD = """hello 你好 _ [T:45] [T:7] [T:x] [T: [Speaker 1]: [Speaker 2] [Speaker <asr> <asr_text> language English < >
<0.10> <happy> <|zh|> <开始回答> [unused16] [unused17] [ ] : ."""
_PIECES = st.sampled_from(re.split(r"\s(?![12]\])", _ODD))
_WORD = re.compile(r"[a-z]+|[你好]+", re.IGNORECASE)


@pytest.mark.parametrize("name", NAMES)
@given(st.lists(st.tuples(_PIECES, st.sampled_from(["", " "])), max_size=12), st.data())
def test_no_word_of_a_reply_is_lost(name: str, pieces: list[tuple[str, str]], data: st.DataObject) -> None:
    reply = "".join(gap + piece for piece, gap in pieces)
    family = find(name)
    asked = [Asked(select(tasks)) for tasks in ("asr", "asr,ser", "srwt", "sttc", "ast")]
    asked += [Asked(select("asr"), speakers=True), Asked(select("asr"), language="en"), Asked(instruction="what?")]
    able = [one for one in map(family.completed, asked) if family._form(one) is not None]
    parsed = family.read(reply, data.draw(st.sampled_from(able)), duration_s=data.draw(st.sampled_from([None, 5.0])))
    said = [parsed.text, parsed.answer, parsed.translation, *parsed.labels.values(), *parsed.unparsed]
    said += [turn.speaker for turn in parsed.turns] + [task.tag for task in parsed.tasks]
    said += [parsed.language, family.languages.get(parsed.language, ""), "language asr_text asr T"]
    kept = " ".join(said)
    heard = re.sub(r"\[unused16\].*?\[unused17\]", "", reply, flags=re.DOTALL) if family.thinking else reply
    assert set(_WORD.findall(heard.casefold())) <= set(_WORD.findall(kept.casefold()))
