"""The fixed sentences: OSUM's own, word for word, and refusals of what has none."""

import json
import re
from pathlib import Path

import pytest

from zhiyin.errors import UserError
from zhiyin.tasks import prompts
from zhiyin.tasks.dialect import OSUM
from zhiyin.tasks.parse import read_tags
from zhiyin.tasks.table import select


def test_fixed_prompts_are_osums_own_sentences(shared: Path) -> None:
    reference = (shared / "reference/osum.md").read_text(encoding="utf-8").split("## 3. Data")[0]
    table = reference.split("| tag | prompt |")[1]
    rows = re.findall(r"^\| `((?:<[A-Z0-9]+> ?)+)` \| ([^|]+) \|$", table, flags=re.MULTILINE)
    assert len(rows) == 12
    for tags, sentence in rows:
        assert prompts.fixed(read_tags(tags, dialect=OSUM)) == sentence


def test_fixed_prompts() -> None:
    assert prompts.fixed(select("asr")) == "转录如下音频。"
    assert prompts.fixed(select("sgc,asr"), "en") == prompts.fixed(select("asr,sgc"), "en")
    for key in json.loads((prompts.FOLDER / "fixed.json").read_text(encoding="utf-8")):
        assert "+".join(task.id for task in select(key)) == key
        assert all(prompts.fixed(select(key), language) for language in ("en", "zh"))
    with pytest.raises(UserError, match=r"no fixed prompt for 'ser'; there is one for: asr srwt .* ssr\+sgc\+sap"):
        prompts.fixed(select("ser"))
    with pytest.raises(UserError, match="no fixed prompt in language 'fr'; languages: zh en"):
        prompts.fixed(select("asr"), "fr")
