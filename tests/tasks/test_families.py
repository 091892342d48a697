"""Prompts of every family, word for word, against published strings that were written down somewhere else."""

import re
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path

import pytest

from zhiyin.errors import UserError
from zhiyin.tasks import families, render
from zhiyin.tasks.dialect import OSUM, OSUM_PANGU
from zhiyin.tasks.families import Asked, Family, Told, find
from zhiyin.tasks.parse import read_tags
from zhiyin.tasks.table import TASKS, select

ALL = tuple(task.id for task in TASKS)


@dataclass(frozen=True)
class Spec:
    """What `check` must know of a model."""

    name: str = "m"
    tasks: tuple[str, ...] = ALL
    languages: tuple[str, ...] = ()
    can_follow_instructions: bool = True


def ask(family: str, tasks: str = "", **options) -> Asked:
    return find(family).completed(Asked(select(tasks) if tasks else (), **options))


def told(family: str, tasks: str = "", **options) -> Told:
    asked = ask(family, tasks, **options)
    find(family).check(asked, Spec())
    return find(family).told(asked)


@pytest.fixture(scope="module")
def reference(shared: Path) -> Path:
    """What was read in the families' own repositories, as tables."""
    folder = shared / "reference"
    if not (folder / "osum.md").is_file():
        pytest.skip(f"no reference tables in {folder}")
    return folder


def rows(document: Path, heading: str) -> list[list[str]]:
    """Cells of the table rows after a heading, without code marks."""
    text = document.read_text(encoding="utf-8").split(heading, 1)[1]
    table = re.match(r"[^|]*((?:\|.*\n)+)", text)
    assert table, heading
    lines = [line.replace(r"\|", "\0") for line in table[1].splitlines()]
    return [[cell.replace("\0", "|").strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[2:]]


# --- ours: as before there were families


@pytest.mark.parametrize("count", [1, 2, 3])
def test_our_own_models_are_asked_by_tags_alone(count: int) -> None:
    for ids in combinations([name for name in ALL if name != "ast"], count):
        assert told("zhiyin", ",".join(ids)) == Told(("".join(f"<{name}>" for name in ids),))


def test_our_own_models_are_told_a_request_as_it_is() -> None:
    assert told("zhiyin", instruction="who {is} speaking?") == Told(("who {is} speaking?",))


# --- OSUM


def test_every_sentence_of_osum(reference: Path) -> None:
    table = rows(reference / "osum.md", "needs these strings exactly):")
    assert len(table) == 12
    for tags, sentence in table:
        asked = Asked(read_tags(tags, dialect=OSUM))
        find("osum").check(asked, Spec())
        assert find("osum").told(asked) == Told((sentence,)), tags


def test_osum_takes_a_free_prompt_instead() -> None:
    assert told("osum", instruction="这段话是谁说的？") == Told(("这段话是谁说的？",))


# --- OSUM-Pangu


def test_the_system_texts_of_osum_pangu(reference: Path) -> None:
    texts = dict(rows(reference / "pangu-granite.md", "Verbatim:"))
    for template, use, tasks in product(("training", "inference"), ("understanding", "STTC"), ("asr", "sttc")):
        if (use == "STTC") == (tasks == "sttc"):
            system = told("osum-pangu", tasks, template=template).before[0]
            assert system == f"<|im_start|>system\n{texts[f'{template}, {use}']}<|im_end|>\n<|im_start|>user\n"


def test_the_questions_of_osum_pangu(reference: Path) -> None:
    for name, sentence in rows(reference / "pangu-granite.md", "usable as fixed instructions):"):
        task = name.lower()
        ids = task if task in ("asr", "sttc") else f"asr,{task}"
        assert told("osum-pangu", ids).before[1] == sentence.split(" / ")[0], name


def test_every_combination_of_osum_pangu_is_asked_by_question_or_tags(reference: Path) -> None:
    known = 0
    for tags, said in rows(reference / "pangu-granite.md", "Tags (`conf/prompt_config2.yaml`):"):
        split = zip(re.findall(r"(?:<\w+> ?)+", tags), re.findall(r"(?:<\w+>)+", said), strict=True)
        for asked_tags, said_tags in split:
            asked = Asked(read_tags(asked_tags.strip(), dialect=OSUM))
            if [task.id for task in asked.tasks] == ["asr", "srwt"]:
                assert said_tags == "<asr><align>"
            find("osum-pangu").check(asked, Spec())
            prompt = find("osum-pangu").told(asked).before[1]
            assert prompt == said_tags or not prompt.startswith("<")
            assert render.tags(asked.tasks, dialect=OSUM_PANGU) == said_tags
            known += 1
    assert known == 22


def test_the_layout_of_osum_pangu() -> None:
    """`[system+user][prompt][speech][assistant]`, each piece for itself (golden README, sequence layout)."""
    asked = told("osum-pangu", "asr")
    assert len(asked.before) == 2 and asked.after == ("<|im_end|>\n<|im_start|>assistant\n",)
    own = told("osum-pangu", "asr", template="openpangu")
    assert re.fullmatch(r"<s>\[unused9\]系统：You are .*\[unused10\]\[unused9\]用户：", own.before[0])
    assert own.after == ("[unused10][unused9]助手：",) and own.before[1] == asked.before[1]
    assert told("osum-pangu", instruction="turn it down").before[1] == "turn it down"


# --- Granite Speech: the forms of the model cards, which IBM's granite-speech library tests word for word


@pytest.mark.parametrize(
    ("tasks", "options", "instruction"),
    [
        ("asr", {}, "transcribe the speech with proper punctuation and capitalization."),
        ("asr", {"itn": True}, "transcribe the speech with proper punctuation and capitalization."),
        ("asr", {"language": "pt"}, "transcribe the Portuguese speech with proper punctuation and capitalization."),
        ("asr", {"itn": False}, "can you transcribe the speech into a written format?"),
        ("asr", {"hotwords": ("kw1", "kw2")}, "transcribe the speech to text. Keywords: kw1, kw2"),
        ("ast", {"into": "en"}, "translate the speech to English with proper punctuation and capitalization."),
        ("ast", {"into": "zh"}, "translate the speech to Mandarin with proper punctuation and capitalization."),
        ("ast", {"into": "en", "language": "ja", "itn": False}, "translate the speech to English."),
        ("ast", {"into": "de", "hotwords": ("kw1", "kw2")}, "translate the speech to German. Keywords: kw1, kw2"),
    ],
)
def test_granite(tasks: str, options: dict, instruction: str) -> None:
    assert told("granite-speech", tasks, **options) == Told(("USER: ",), (f"{instruction}\n ASSISTANT:",))


def test_older_granite_has_roles() -> None:
    old = told("granite-speech", "asr", itn=False, template="granite-3")
    assert old.before[0].startswith("<|start_of_role|>system<|end_of_role|>Knowledge Cutoff Date: April 2024.\n")
    assert old.after == (
        "can you transcribe the speech into a written format?<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>",
    )


def test_granite_translates_its_pairs_and_no_others() -> None:
    others = ("fr", "de", "es", "pt", "ja")
    pairs = {*product(("en",), (*others, "it", "zh")), *product(others, ("en",))}
    heard = ("en", *others)
    for of, to in product(heard, (*heard, "it", "zh", "ko")):
        asked = ask("granite-speech", "ast", language=of, into=to)
        if (of, to) in pairs:
            find("granite-speech").check(asked, Spec())
        else:
            with pytest.raises(UserError, match=f"cannot translate from '{of}' into '{to}'; it can into: "):
                find("granite-speech").check(asked, Spec())


@pytest.mark.parametrize(
    ("tasks", "options", "row"),
    [
        ("asr", {}, "raw ASR"),
        ("asr", {"speakers": True}, "speakers"),
        ("srwt", {}, "word times"),
        ("asr,srwt", {}, "word times"),
    ],
)
def test_granite_plus(reference: Path, tasks: str, options: dict, row: str) -> None:
    text = (reference / "pangu-granite.md").read_text(encoding="utf-8").split("Plus: system ", 1)[1]
    system = re.match(r'"(.*?)"; user', text.replace("\n", " "))
    instructions = dict(rows(reference / "pangu-granite.md", "(**with** space) + one of"))
    assert system
    assert told("granite-speech-plus", tasks, **options) == Told(
        (
            f"<|start_of_role|>system<|end_of_role|>{system[1]}<|end_of_text|>\n".replace("\\n", "\n")
            + "<|start_of_role|>user<|end_of_role|>",
        ),
        (f" {instructions[row]}<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",),
    )


def test_granite_plus_takes_keywords() -> None:
    after = told("granite-speech-plus", "asr", hotwords=("kw1", "kw2")).after[0]
    assert after.startswith(" can you transcribe the speech into a written format? Keywords: kw1, kw2<|end_of_text|>")


# --- Fun-ASR-Nano, Qwen3-ASR, Qwen2-Audio, Voxtral


@pytest.mark.parametrize("hotwords", [(), ("开放时间",), ("a", "b")])
@pytest.mark.parametrize(("language", "name"), [(None, ""), ("zh", "中文"), ("en", "英文"), ("ja", "日文")])
@pytest.mark.parametrize("itn", [None, True, False])
def test_fun_asr_nano(hotwords: tuple[str, ...], language: str | None, name: str, itn: bool | None) -> None:
    """FunASR's `get_prompt`, put together in another way; transformers' template knows no switch for ITN."""
    words = "热词列表：[" + ", ".join(hotwords) + "]\n"
    context = (
        "请结合上下文信息，更加准确地完成语音转写任务。如果没有相关信息，我们会留空。\n\n\n**上下文信息：**\n\n\n"
        + words
    )
    prompt = (context if hotwords else "") + (f"语音转写成{name}" if name else "语音转写")
    prompt += "，不进行文本规整：" if itn is False else "："
    assert told("fun-asr-nano", "asr", hotwords=hotwords, language=language, itn=itn) == Told(
        (f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{prompt}",),
        ("<|im_end|>\n<|im_start|>assistant\n",),
    )


def test_qwen3_asr() -> None:
    before = "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\n<|audio_start|>"
    after = "<|audio_end|><|im_end|>\n<|im_start|>assistant\n"
    assert told("qwen3-asr", "asr") == Told((before.format(""),), (after,))
    assert told("qwen3-asr", "asr", hotwords=("交易", "停滞"), language="yue") == Told(
        (before.format("交易 停滞"),), (after + "language Cantonese<asr_text>",)
    )


@pytest.mark.parametrize("family", ["qwen3_asr", "fun_asr_nano"])
def test_the_names_of_languages_are_those_of_transformers(family: str) -> None:
    pytest.importorskip("transformers")
    from importlib import import_module

    module = import_module(f"transformers.models.{family}.processing_{family}")
    codes = {code: name for code, name in module.LANGUAGE_CODE_TO_NAME.items() if len(code) < 4}
    assert find(family.replace("_", "-")).languages == codes


@pytest.mark.parametrize(
    ("tasks", "options", "text"),
    [
        ("asr", {}, "Detect the language and recognize the speech:"),
        ("asr", {"language": "zh"}, "Detect the language and recognize the speech: <|zh|>"),
        ("", {"instruction": "What's that sound?"}, "What's that sound?"),
        ("sttc", {}, ""),
    ],
)
def test_qwen2_audio_writes_what_its_processor_writes(tasks: str, options: dict, text: str) -> None:
    pytest.importorskip("transformers")
    from transformers.models.qwen2_audio.processing_qwen2_audio import Qwen2AudioProcessor
    from transformers.utils.chat_template_utils import render_jinja_template

    template = Qwen2AudioProcessor.default_chat_template.fget(None)
    content = [{"type": "audio", "audio_url": "a.wav"}, {"type": "text", "text": text}]
    messages = [{"role": "user", "content": content if text else content[:1]}]
    rendered, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=True)
    asked = told("qwen2-audio", tasks, **options)
    assert "<|AUDIO|>".join(("".join(asked.before), "".join(asked.after))) == rendered[0]


def test_qwen2_audio_before_it_learned_to_chat() -> None:
    assert told("qwen2-audio", "asr", language="en", template="base") == Told(
        ("<|audio_bos|>",), ("<|audio_eos|>Detect the language and recognize the speech: <|en|>",)
    )


def test_voxtral() -> None:
    """The strings in mistral-common's tests of its instruct tokenizer 7."""
    before = ("<s>[INST][BEGIN_AUDIO]",)
    assert told("voxtral", "asr") == Told(before, ("[/INST][TRANSCRIBE]",))
    assert told("voxtral", "asr", language="fr") == Told(before, ("[/INST]lang:fr[TRANSCRIBE]",))
    assert told("voxtral", instruction="What is said?") == Told(before, ("What is said?[/INST]",))
    assert told("voxtral", "sttc") == Told(before, ("[/INST]",))


# --- all of them


def test_the_families_there_are() -> None:
    fixed = "zhiyin osum osum-pangu granite-speech granite-speech-plus fun-asr-nano qwen3-asr qwen2-audio voxtral"
    assert set(families.NAMES) == set(fixed.split()) and families.NAMES[0] == "zhiyin"
    with pytest.raises(UserError, match="models of family 'whisper' cannot be asked; this version speaks: zhiyin "):
        find("whisper")


def everything(family: Family) -> list[Asked]:
    """Every request that could be made of a family, sensible or not."""
    tasks = [(), *(rows for count in (1, 2) for rows in combinations(TASKS, count))]
    options = [
        {"language": next(iter(family.languages), None)},
        {"into": next(iter(family.into), "en")},
        {"hotwords": ("Ada", "Bob")},
        {"speakers": True},
        {"itn": True},
        {"itn": False},
        *({"template": name} for name in family.choices),
    ]
    found = []
    for rows_asked in tasks:
        for first, second in ((a, b) for a in [{}, *options] for b in [{}, *options]):
            found.append(Asked(rows_asked, instruction="" if rows_asked else "who?", **(first | second)))
    return found


@pytest.mark.parametrize("name", families.NAMES)
def test_what_is_not_refused_can_be_told_and_read(name: str) -> None:
    family, served = find(name), set()
    for asked in everything(family):
        asked = family.completed(asked)
        try:
            family.check(asked, Spec())
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 400
            continue
        served.add("+".join(task.id for task in asked.tasks))
        prompt = family.told(asked)
        text = "".join((*prompt.before, *prompt.after))
        assert not re.search(r"[{}]", text)
        assert all(word in text for word in asked.hotwords) and asked.instruction in text
        assert family.limit_tokens(asked, 4096) <= 4096
        family.read("", asked)
    shorter = {combination for combination in family.combinations if combination.count("+") < 2}
    wanted = {"+".join(task.id for task in select(name)) for name in shorter if name != families.ANY}
    assert wanted <= served
    assert ("" in served) == family.can_follow_instructions
    assert family.title and family.source


@pytest.mark.parametrize(
    ("family", "tasks", "options", "message"),
    [
        ("qwen3-asr", "ser", {}, "model 'm' cannot do ser; it can do: asr$"),
        ("granite-speech", "asr,ast", {"into": "de"}, r"cannot do asr\+ast at once; together it can do: asr ast$"),
        ("osum", "ser,sap", {}, r"cannot do ser\+sap at once; together it can do: asr asr\+srwt "),
        ("granite-speech", "", {"instruction": "who?"}, "takes no plain language; ask for tasks: asr ast$"),
        ("granite-speech", "ast", {}, "must know the language to translate into; choose from: en fr "),
        ("granite-speech", "asr", {"into": "de"}, "was given a language to translate into, 'de'; add the task ast"),
        ("zhiyin", "ast", {"into": "de"}, "was given a language to translate into, 'de'; leave it out"),
        ("zhiyin", "asr", {"hotwords": ("a",)}, "cannot take hotwords with asr; there it takes nothing$"),
        ("qwen3-asr", "asr", {"speakers": True}, "cannot take speakers with asr; there it takes any of: hotwords lang"),
        (
            "granite-speech",
            "asr",
            {"hotwords": ("a",), "language": "en"},
            "cannot take hotwords and language with asr; there it takes nothing; or language; or no-itn; or hotwords$",
        ),
        ("voxtral", "asr", {"itn": True}, "cannot take itn with asr; there it takes any of: language$"),
        ("granite-speech-plus", "srwt", {"speakers": True}, "cannot take speakers with srwt; there it takes nothing$"),
        ("fun-asr-nano", "asr", {"language": "fr"}, "does not know language 'fr'; languages: zh en ja$"),
        ("osum-pangu", "asr", {"template": "x"}, "no prompt template 'x'; templates: inference training openpangu$"),
        ("voxtral", "asr", {"template": "chat"}, "no prompt template 'chat'; templates: it has only its own"),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_can(family: str, tasks: str, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find(family).check(ask(family, tasks, **options), Spec())


def test_the_models_own_word_counts_more_than_the_familys() -> None:
    small = Spec(tasks=("asr",), languages=("zh",), can_follow_instructions=False)
    for options in ({"tasks": select("sgc")}, {"language": "en"}, {"instruction": "who?"}):
        with pytest.raises(UserError, match=r"it can do: asr$|languages: zh$|ask for tasks: asr$"):
            find("osum").check(Asked(**options), small)


def test_a_label_that_comes_only_with_the_transcript_is_asked_with_it() -> None:
    labelled = tuple(replace(task, labels=("young", "old")) for task in select("sap"))
    asked = find("osum").completed(Asked(labelled))
    assert [task.id for task in asked.tasks] == ["asr", "sap"] and asked.tasks[1].labels == ("young", "old")
    assert [task.id for task in ask("osum", "sgc,sap").tasks] == ["sgc", "sap"]
    assert [task.id for task in ask("osum-pangu", "sap").tasks] == ["sap"]
    assert [task.id for task in ask("zhiyin", "sap").tasks] == ["sap"]
    assert [task.id for task in ask("qwen3-asr", "sap").tasks] == ["sap"]


def test_how_long_and_how_freely_a_family_speaks() -> None:
    """Limits and penalties of the reference programs: OSUM `llmasr_model.py`, OSUM-Pangu `infer_*.py`, model cards."""
    limits = {name: find(name).limit_tokens(ask(name, "asr"), 4096) for name in families.NAMES}
    assert limits["zhiyin"] == 4096 and limits["osum"] == limits["osum-pangu"] == 400 and limits["qwen3-asr"] == 512
    assert find("granite-speech-plus").limit_tokens(ask("granite-speech-plus", "srwt"), 99_999) == 10_000
    penalties = {name: find(name).repetition_penalty for name in families.NAMES}
    assert {name for name, penalty in penalties.items() if penalty == 1.05} == {"osum", "osum-pangu"}
    assert set(penalties.values()) == {1.0, 1.05}


def test_the_template_that_was_used_has_a_name_where_there_is_a_choice() -> None:
    pangu = find("osum-pangu")
    assert pangu.template_name(Asked()) == "inference" and pangu.template_name(Asked(template="training")) == "training"
    assert find("osum").template_name(Asked()) == find("voxtral").template_name(Asked()) == ""


def test_what_a_family_takes_is_listed() -> None:
    assert find("granite-speech").options == ("language", "into", "hotwords", "no-itn")
    assert find("granite-speech-plus").options == ("hotwords", "speakers")
    assert find("fun-asr-nano").options == ("language", "hotwords", "no-itn")
    assert find("zhiyin").options == find("osum").options == ()
    assert find("granite-speech").at_once(("asr",)) == ("asr",)
