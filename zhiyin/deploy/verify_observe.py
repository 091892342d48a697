"""What one model makes of the cases: arrays and texts by row and case. Two of these are compared.

Rows, in the order of the computation::

    features                 of the front end, from the waveform
    embeddings               rows of the token table, and the markers
    encoder ..., encoder     blocks of the encoder, what leaves it      (eager and hf only)
    projector ..., projector blocks, and the speech vectors
    ctc                      logits of the CTC head
    ... in a batch           the same with all inputs at once
    decoder ..., decoder     blocks, and logits after each token of the reply, teacher-forced, one call per token
    decoder in a batch       all rows in one session, each leaving it when its reply is at its end
    reply                    greedy tokens, from the reference's speech vectors
    text                     of the main job, from the waveform on

Shapes: `S` speech vectors, `D` decoder width, `V` vocabulary, `N` tokens.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from zhiyin import pipeline
from zhiyin.ask import Options
from zhiyin.audio.features import Float32
from zhiyin.deploy.verify_inputs import MAX_REPLY_TOKENS, REAL, Case, Question, features, said, speaks
from zhiyin.runtime.load import Loaded

BATCH = " in a batch"
INSIDE = ("eager", "hf")  # backends whose blocks can be seen
_EMBEDDED = 64  # rows of the token table that are compared

Rows = dict[str, dict[str, Float32]]


@dataclass
class Seen:
    """What a model made of the cases.

    Attributes:
        arrays: row -> case -> values, in the order of the computation.
        tokens: row -> case -> greedy token ids.
        texts: row -> case -> text of the main job.
        broken: row -> what went wrong instead of a result.
        hidden: rows that cannot be shown here, and why.
    """

    arrays: Rows = field(default_factory=dict)
    tokens: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=dict)
    texts: dict[str, dict[str, str]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    hidden: dict[str, str] = field(default_factory=dict)

    def put(self, row: str, case: str, values: Float32) -> None:
        """Keep the result of one case."""
        self.arrays.setdefault(row, {})[case] = np.asarray(values, np.float32)


def observe(model: Loaded, cases: Sequence[Case], *, batches: bool = True) -> Seen:
    """Everything of a model that can be compared; each component gets what the cases say, not its own input.

    Args:
        model: on any device and backend.
        cases: from `verify_inputs.prepare`, of the reference.
        batches: also all cases at once; of the reference single runs are the truth for both.
    """
    seen = Seen()
    for case in cases:
        if case.samples_T is not None:
            seen.put("features", case.name, features(model.backend.spec, case.samples_T))
    _see_inside(seen, model, cases)
    _listen(seen, model, cases, batches)
    if speaks(model):
        _table(seen, model)
        _speak(seen, model, cases, batches)
        _reply(seen, model, cases)
        _understand(seen, model, cases)
    else:
        seen.hidden["decoder"] = f"{model.source} holds the encoder alone"
    return seen


def embeds(model: Loaded, case: Case, question: Question) -> Float32:
    """The prompt with the reference's speech vectors in it, [N, D]."""
    backend = model.backend
    markers = backend.markers
    parts = (backend.embed(question.before_ids), markers[:1], case.vectors_SD, markers[1:])
    return np.concatenate([*parts, backend.embed(question.after_ids)])


def forced(model: Loaded, prompts: Sequence[Float32], replies: Sequence[Sequence[int]]) -> list[list[Float32]]:
    """Logits [V] after each prompt and after each token of its reply but the last, all in one session."""
    session = model.backend.start(len(prompts))
    active = list(range(len(prompts)))
    found: list[list[Float32]] = [[] for _ in prompts]
    given = list(prompts)
    while True:
        for i, logits_V in zip(active, session.extend(given), strict=True):
            found[i].append(logits_V)
        rows = [row for row, i in enumerate(active) if len(found[i]) < len(replies[i])]
        if not rows:
            return found
        if len(rows) < len(active):
            session.keep(rows)
        active = [active[row] for row in rows]
        given = list(model.backend.embed([replies[i][len(found[i]) - 1] for i in active])[:, None])


def asked(cases: Sequence[Case]) -> list[tuple[str, Case, Question]]:
    """Every question of every case, with the name its results have."""
    return [(f"{case.name} {question.name}", case, question) for case in cases for question in case.questions]


def _see_inside(seen: Seen, model: Loaded, cases: Sequence[Case]) -> None:
    if model.backend.name not in INSIDE or importlib.util.find_spec("torch") is None:
        why = f"backend '{model.backend.name}' shows only what leaves a graph; eager torch shows its blocks"
        seen.hidden["blocks of encoder, projector and decoder; encoder"] = why
        return
    from zhiyin.deploy.verify_inside import blocks

    for case in cases:
        for row, values in blocks(model, partial(model.backend.encode, [case.mel_MF])).items():
            seen.put(row, case.name, values)
    for name, case, question in asked(cases):
        reply = model.backend.embed(question.reply_ids)[:-1]
        whole_ND = np.concatenate([embeds(model, case, question), reply])
        for row, values in blocks(model, partial(model.backend.start(1).extend, [whole_ND])).items():
            seen.put(row, name, values)


def _listen(seen: Seen, model: Loaded, cases: Sequence[Case], batches: bool) -> None:
    passes = {"": [model.backend.encode([case.mel_MF])[0] for case in cases]}
    if batches:
        passes[BATCH] = model.backend.encode([case.mel_MF for case in cases])
    for how, encoded in passes.items():
        for case, one in zip(cases, encoded, strict=True):
            seen.put(f"projector{how}", case.name, one.vectors_SD)
            if one.ctc_TV is not None:
                seen.put(f"ctc{how}", case.name, one.ctc_TV)


def _table(seen: Seen, model: Loaded) -> None:
    backend = model.backend
    ids = np.linspace(0, model.tokenizer.get_vocab_size() - 1, _EMBEDDED).astype(int).tolist()
    seen.put("embeddings", "tokens", backend.embed(ids))
    if len(backend.markers):
        seen.put("embeddings", "markers", backend.markers)


def _speak(seen: Seen, model: Loaded, cases: Sequence[Case], batches: bool) -> None:
    every = asked(cases)
    prompts = {name: embeds(model, case, question) for name, case, question in every}
    for name, _, question in every:
        [logits] = forced(model, [prompts[name]], [question.reply_ids])
        seen.put("decoder", name, np.stack(logits))
    if batches and every:
        rows = forced(model, list(prompts.values()), [question.reply_ids for *_, question in every])
        for (name, *_), logits in zip(every, rows, strict=True):
            seen.put(f"decoder{BATCH}", name, np.stack(logits))


def _reply(seen: Seen, model: Loaded, cases: Sequence[Case]) -> None:
    for name, case, question in asked(cases):
        if case.kind != REAL:
            continue
        try:
            ids = said(model, question, case.vectors_SD, MAX_REPLY_TOKENS)
        except FloatingPointError as error:
            seen.broken["reply"] = str(error)
            return
        seen.tokens.setdefault("reply", {})[name] = ids


def _understand(seen: Seen, model: Loaded, cases: Sequence[Case]) -> None:
    for name, case, question in asked(cases):
        if case.samples_T is None:
            continue
        try:
            options = Options(into=question.into or None)
            result = pipeline.understand(case.samples_T, [question.task], model=model, options=options)
        except FloatingPointError as error:
            seen.broken["text"] = str(error)
            return
        labels = " ".join(f"{task}={label}" for task, label in result.labels.items())
        seen.texts.setdefault("text", {})[name] = " ".join(filter(None, (result.text, result.translation, labels)))
