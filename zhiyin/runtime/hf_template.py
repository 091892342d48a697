"""Whether our prompt is the one that a model's own chat template would write; another one costs accuracy in silence."""

import json
import re
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from zhiyin.errors import UserError
from zhiyin.tasks import families, table

AUDIO = "<|audio|>"  # stands where the speech goes; any text would do
MARK = re.compile(r"<\|[^|<>]+\|>")
FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
_SYSTEM, _USER = "the system text", "what the user says"


def check(folder: Path, family: str, tokenizer: Tokenizer, vocabulary: int) -> tuple[str, str]:
    """Which of its family's prompt templates a model was made for; one that fits none is refused.

    Args:
        folder: the model.
        family: a name of `tasks.families`.
        tokenizer: the model's.
        vocabulary: rows of its embedding table; 0 where that is not known.

    Returns:
        The template's name, empty for the family's default, and how that is known, for `zhiyin info`.

    Raises:
        UserError: the model's chat template writes something else around what is said than each of the family's, or a
            token of the prompt is none of the tokenizer's, or an id of it none of the model's.
    """
    where = f"model {folder}"
    asked = families.find(family)
    name, said = _choose(folder, asked)
    for mark in sorted({mark for prompt in _prompts(asked, name) for mark in MARK.findall(prompt)} - {AUDIO}):
        if tokenizer.token_to_id(mark) is None:
            raise UserError(f"{where}: its tokenizer lacks {mark}, which prompts of {family} need; copy it again")
    if 0 < vocabulary < tokenizer.get_vocab_size():
        wrong = f"its tokenizer has {tokenizer.get_vocab_size()} tokens, its embeddings {vocabulary} rows"
        raise UserError(f"{where}: {wrong}; tokenizer.json and config.json are not of one model")
    return name, said


def _choose(folder: Path, family: families.Family) -> tuple[str, str]:
    written = _template(folder)
    if not written:
        return "", "none in the folder; the prompt is the family's"
    patterns = _patterns(written)
    if not patterns:
        return "", "not compared: it does not take a plain text"
    for name in ("", *family.choices[1:]):
        prompts = _prompts(family, name)
        if any(re.fullmatch(pattern, prompt, re.DOTALL) for pattern in patterns for prompt in prompts):
            return name, "agrees with the prompt"
    raise UserError(
        f"model {folder}: its chat template does not write the prompts of {family.name}, as if it were an older or"
        f" newer kind of model; this version would ask {_prompts(family, '')[0]!r} and be misunderstood"
    )


def _prompts(family: families.Family, template: str) -> list[str]:
    """What the family says for each of its tasks alone, without options."""
    found = []
    for task in family.tasks:
        try:
            told = family.told(families.Asked(table.select(task), template=template))
        except ValueError:  # there is no such form, as of a translation into nothing
            continue
        found.append("".join(told.before) + AUDIO + "".join(told.after))
    return found


def _template(folder: Path) -> str:
    for name in FILES:
        path = folder / name
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        found: Any = text if path.suffix == ".jinja" else json.loads(text).get("chat_template")
        if isinstance(found, list):  # several, by name
            found = next((one.get("template") for one in found if one.get("name") == "default"), None)
        if isinstance(found, str) and found:
            return found
    return ""


def _patterns(template: str) -> list[str]:
    """Regular expressions of what the template writes, for a system text and a request of any wording.

    Neither may hold a token that the template itself writes, nor begin or end with a space: that would be a piece of
    the template that ours has and it has not.
    """
    user = {"role": "user", "content": _USER}
    found = []
    for messages in ([user], [{"role": "system", "content": _SYSTEM}, user]):
        rendered = render_jinja_template([messages], chat_template=template, add_generation_prompt=True)[0][0]
        if rendered.count(_USER) == 1:
            tokens = "|".join(map(re.escape, re.findall(MARK, rendered)))
            words = rf"(?:(?!{tokens}).)*" if tokens else ".*"
            pattern = re.escape(rendered).replace(re.escape(_USER), rf"(?=\S){words}(?<=\S)")
            found.append(pattern.replace(re.escape(_SYSTEM), words))
    return found
