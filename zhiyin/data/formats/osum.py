"""OSUM's data lines: key, wav, txt, task; one task, or one combination OSUM has a prompt for, on each line.

Source: OSUM `dataset.py`, `processor.py`, `conf/prompt_config.yaml` and `conf/data_config_huawei.yaml` at f2bcfac.
A record of ours that knows more than one line can say becomes several lines; each also carries the whole record in
`extra.zhiyin`, so that it comes back exactly. Where somebody has edited `txt` since, `txt` counts.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from zhiyin.data import clip, manifest
from zhiyin.data.manifest import Imported, Record, near
from zhiyin.errors import UserError
from zhiyin.tasks.render import TimedWord
from zhiyin.tasks.table import TASKS, spelling

EXTRA = "zhiyin"  # our part of the field `extra`
ANSWER_MARK = "<开始回答>"
NO_LABEL = "<none>"  # OSUM drops samples whose text has it, in any case
# Raw style names of OSUM's sources -> the eight classes.
STYLES = {"朗读": "新闻科普", "科普百科": "新闻科普", "悬疑恐怖": "恐怖故事", "诗歌": "诗歌散文", "散文": "诗歌散文"}
STYLES |= dict.fromkeys(("武侠评书", "小说", "历史", "科幻"), "有声书") | {"对话": "日常口语", "口语": "日常口语"}
STYLES |= {"幽默": "其他"}
_TASK_OF_TAG = {task.osum_tag.strip("<>"): task.id for task in TASKS if task.id != "ast"}  # OSUM does not translate
_TAG_OF_TASK = {task: tag for tag, task in _TASK_OF_TAG.items()}
_LANGUAGES = {"cn": "zh", "zh": "zh", "en": "en"}
_PAIR = re.compile(r"<(\d+(?:\.\d+)?)>([^<>]+)<(\d+(?:\.\d+)?)>")
_AFTER = re.compile(r"([^<>]+)<(\d+(?:\.\d+)?)\s*,\s*(\d+(?:\.\d+)?)>")  # OSUM-EChat's other form


def read(source: Path, _: Path) -> Imported:
    """Records of a raw JSONL file; audio paths are relative to its folder.

    Raises:
        UserError: a line is broken or its audio is missing, named by number.
    """
    found = Collected()
    for number, row in manifest.rows(source):
        where = f"{source} line {number}"
        wav = row.get("wav")
        if not isinstance(wav, str) or not wav:
            raise UserError(f"{where}: field 'wav' is missing; a line has key, wav, txt and task")
        found.add(row, source.parent / wav, where)
    return found.done()


def write(records: Iterable[Record], out: Path) -> list[str]:
    """Write a raw JSONL file; returns notes on what OSUM has no place for."""
    records = list(records)
    rows = []
    for record in records:
        part = {"start": record.start_s, "end": record.start_s + record.duration_s} if record.is_part else {}
        audio = manifest.relative(record.audio, out.parent)
        rows += [{"key": line["key"], "wav": audio, **part, **line} for line in to_lines(record)]
    manifest.write_lines(out, (json.dumps(row, ensure_ascii=False) for row in rows))
    return left_out(records)


def to_lines(record: Record) -> list[dict[str, Any]]:
    """The lines of a record without their audio.

    Raises:
        UserError: a text or label holds ``<`` or ``>``, which mark tags in OSUM's lines.
    """
    whole = manifest.to_row(record, record.audio.parent)
    del whole["audio"]  # the line says where it is
    name = clip.file_name(record.id)
    out = []
    for number, tasks in enumerate(combinations(record)):
        line = {
            "key": name if number == 0 else f"{name}@{number + 1}",
            "task": " ".join(f"<{tag}>" for tag in _tags(tasks)),
            "txt": _txt(record, tasks),
        }
        side = {"lang": record.language, "speaker": record.speaker}
        side |= {"emotion": record.labels.get("ser", ""), "gender": record.labels.get("sgc", "")}
        out.append(
            {**line, **{k: v for k, v in side.items() if v}, "duration": record.duration_s, "extra": {EXTRA: whole}}
        )
    return out


def combinations(record: Record) -> list[tuple[str, ...]]:
    """What to ask of a record, each as OSUM has a prompt for; in OSUM's order style, age, gender."""
    has: list[str] = [
        task for task in ("ved", "ser", "ssr", "sap", "sgc") if task in record.tasks and task in record.labels
    ]
    text = ("asr",) if "asr" in record.tasks else ()
    out: list[tuple[str, ...]] = [("srwt",)] if "srwt" in record.tasks else []
    groups: list[list[str]]
    if {"ssr", "sap", "sgc"} <= set(has):
        groups = [[task] for task in has if task in ("ved", "ser")] + [["ssr", "sap", "sgc"]]
    elif {"sap", "sgc"} <= set(has):
        groups = [[task] for task in has if task not in ("sap", "sgc")] + [["sap", "sgc"]]
    else:
        groups = [[task] for task in has]
    out += [(*text, *group) for group in groups]
    out += [(*text, "sttc")] if "sttc" in record.tasks else []
    return out or [("asr",)]


def left_out(records: Iterable[Record]) -> list[str]:
    """Notes on truths that OSUM's lines only carry along."""
    records = list(records)
    translations = sum("ast" in record.tasks for record in records)
    nothing = sum("none" in record.labels.values() for record in records)
    notes = (
        [f"{translations} translations have no task in OSUM; they are kept in extra.{EXTRA}"] if translations else []
    )
    return notes + ([f"OSUM drops samples with the label <none>; here are {nothing}"] if nothing else [])


class Collected:
    """Records gathered from lines; several lines of one record become one again."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}
        self._ours: set[str] = set()
        self._dropped = 0

    def add(self, row: Mapping[str, Any], audio: Path, where: str) -> None:
        """Add a line whose audio lies at `audio`.

        Raises:
            UserError: beginning with `where`.
        """
        key, txt = row.get("key"), row.get("txt")
        if not isinstance(key, str) or not key or not isinstance(txt, str):
            raise UserError(f"{where}: 'key' or 'txt' is missing or no text; a line has key, wav, txt and task")
        whole = _whole(row.get("extra"), where)
        if NO_LABEL in txt.lower() and whole is None:
            self._dropped += 1
            return
        tasks = _tasks(row.get("task"), where)
        if whole is not None:
            written = replace(manifest.from_row({**whole, "audio": "x"}, audio.parent, where), audio=audio)
            if written.id in self._records and written.id not in self._ours:
                raise UserError(f"{where}: the id '{written.id}' is there already; rename one")
            self._ours.add(written.id)
            record = self._records.get(written.id, written)
            if _txt(written, tasks) != txt:
                record = replace(record, **_truth(txt, tasks, record.labels, record.tasks, where))
        elif key in self._records:
            raise UserError(f"{where}: the key '{key}' is there already; rename one")
        else:
            record = _foreign(key, txt, tasks, row, audio, where)
        self._records[record.id] = record

    def done(self) -> Imported:
        """All records, in the order of their first lines."""
        notes = (f"{self._dropped} lines with the label <None> were left out, as OSUM does",) if self._dropped else ()
        return Imported({"all": list(self._records.values())}, notes)


def _foreign(key: str, txt: str, tasks: tuple[str, ...], row: Mapping[str, Any], audio: Path, where: str) -> Record:
    side = {"ser": row.get("emotion"), "sgc": row.get("gender")}
    known = {task.id: {spelling(label) for label in task.labels} for task in TASKS}
    labels = {
        task: _canonical(task, v) for task, v in side.items() if isinstance(v, str) and spelling(v) in known[task]
    }
    start_s, end_s = (_number(row.get(name), name, where) for name in ("start", "end"))
    length_s = end_s - (start_s or 0.0) if end_s else _number(row.get("duration"), "duration", where)
    duration_s = length_s or clip.length_s(audio) - (start_s or 0.0)
    if duration_s <= 0:
        raise UserError(f"{where}: the sample is {duration_s:g} s long; 'end' must lie behind 'start'")
    language = str(row.get("lang") or "").strip("<>").lower()
    speaker = str(row.get("speaker") or "")
    return Record(
        id=key,
        audio=audio,
        duration_s=round(duration_s, 6),
        language=_LANGUAGES.get(language, "" if language == "none" else language),
        speaker="" if speaker.strip("<>").lower() == "none" else speaker,
        start_s=start_s or 0.0,
        end_s=end_s or None,
        **_truth(txt, tasks, labels, tuple(labels), where),
    )


def _number(value: Any, name: str, where: str) -> float | None:
    try:
        number = None if value in (None, "") else float(value)
    except (TypeError, ValueError):
        number = -1.0
    if number is not None and not 0 <= number < 1e9:
        raise UserError(f"{where}: field '{name}' is {value!r}; seconds were expected")
    return number


def _whole(extra: Any, where: str) -> dict[str, Any] | None:
    if isinstance(extra, str) and extra.strip():
        try:
            extra = json.loads(extra)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: field 'extra' is not JSON ({error.msg})") from error
    whole = extra.get(EXTRA) if isinstance(extra, dict) else None
    return whole if isinstance(whole, dict) and isinstance(whole.get("id"), str) else None


def _tags(tasks: tuple[str, ...]) -> list[str]:
    return [tag for task in tasks for tag in (("TRANSCRIBE", "ALIGN") if task == "srwt" else (_TAG_OF_TASK[task],))]


def _tasks(tags: Any, where: str) -> tuple[str, ...]:
    """Task ids in the order in which the labels stand; without a task it is a transcript."""
    if tags in (None, ""):
        return ("asr",)
    names = re.findall(r"<([^<>]+)>", tags) if isinstance(tags, str) else []
    for name in names:
        if name.upper() not in _TASK_OF_TAG:
            raise UserError(f"{where}: task tag '<{name}>' is not OSUM's{near(name.upper(), _TASK_OF_TAG)}")
    if not names:
        raise UserError(f'{where}: task {tags!r} holds no tag; e.g. "<TRANSCRIBE> <EMOTION>"')
    tasks = [_TASK_OF_TAG[name.upper()] for name in names]
    return tuple(task for task in tasks if task != "asr" or "srwt" not in tasks)


def _txt(record: Record, tasks: tuple[str, ...]) -> str:
    if tasks == ("srwt",):
        return "".join(f"<{w.start_s:.1f}>{_free(w.text, record)}<{w.end_s:.1f}>" for w in record.words)
    text = _free(record.text or "", record) if "asr" in tasks else ""
    labels = "".join(f"<{_free(record.labels.get(task, ''), record)}>" for task in tasks if task not in ("asr", "sttc"))
    answer = _free(record.answer, record) if "sttc" in tasks else ""
    return text + labels + (ANSWER_MARK if "asr" in tasks and "sttc" in tasks else "") + answer


def _free(text: str, record: Record) -> str:
    if "<" in text or ">" in text:
        raise UserError(
            f"record '{record.id}': {text!r} holds '<' or '>', which mark tags in OSUM's lines; remove them"
        )
    return text


def _truth(
    txt: str, tasks: tuple[str, ...], labels: Mapping[str, str], more: tuple[str, ...], where: str
) -> dict[str, Any]:
    """Fields of a record as its line tells them."""
    if tasks == ("srwt",):
        words = _words(txt, where)
        spoken = "".join(w.text for w in words) if not re.search("[A-Za-z]", txt) else " ".join(w.text for w in words)
        return {"tasks": _ordered(("asr", "srwt", *more)), "words": words, "text": spoken, "labels": dict(labels)}
    asked = [task for task in tasks if task not in ("asr", "sttc")]
    body, answer = txt, ""
    if "sttc" in tasks:
        body, mark, answer = txt.partition(ANSWER_MARK) if "asr" in tasks else ("", "-", txt)
        if not mark:
            raise UserError(f"{where}: txt has no {ANSWER_MARK} between transcript and answer")
    shape = re.fullmatch(r"(.*?)(" + "<[^<>]*>" * len(asked) + ")", body.rstrip(), re.DOTALL)
    if not shape or "<" in shape[1] or ">" in shape[1]:
        raise UserError(
            f"{where}: txt {txt[-60:]!r} should end with {len(asked)} labels, for {' '.join(asked) or 'no X'}"
        )
    named = dict(zip(asked, re.findall(r"<([^<>]*)>", shape[2]), strict=True))
    out: dict[str, Any] = {"labels": {**labels, **{task: _canonical(task, label) for task, label in named.items()}}}
    if "asr" in tasks:
        out["text"] = shape[1].strip()
    if "sttc" in tasks:
        out["answer"] = answer.strip()
    return {**out, "tasks": _ordered((*tasks, *more))}


def _words(txt: str, where: str) -> tuple[TimedWord, ...]:
    for pattern, order in ((_PAIR, (2, 1, 3)), (_AFTER, (1, 2, 3))):
        if not pattern.sub("", txt).strip():
            found = [[match[i] for i in order] for match in pattern.finditer(txt)]
            return tuple(TimedWord(text.strip(), float(start), float(end)) for text, start, end in found)
    raise UserError(f"{where}: txt {txt[:60]!r} has no times that can be read; expected <0.1>word<0.3>")


def _canonical(task: str, label: str) -> str:
    """A label in the table's spelling; one that is in no set stays, `zhiyin data check` names it."""
    known = {spelling(name): name for row in TASKS if row.id == task for name in row.labels}
    label = STYLES.get(label, label) if task == "ssr" else label
    return known.get(spelling(label), label)


def _ordered(tasks: Iterable[str]) -> tuple[str, ...]:
    wanted = set(tasks)
    return tuple(task.id for task in TASKS if task.id in wanted)
