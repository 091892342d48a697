"""The row layout, the two losses against brute force, and that every weight learns."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from zhiyin.model.projector import Voice
from zhiyin.model.speech_lm import IGNORE, Row, Speech, SpeechLM


def listen(model: SpeechLM, mel_BMF: Tensor, *frames: int) -> Speech:
    """What it hears on its own device."""
    place = model.markers.device
    return model.listen(mel_BMF.to(place), torch.tensor(frames, device=place))


def test_rows_read_before_begin_speech_end_after_target(tiny):
    torch.nn.init.normal_(tiny.markers)
    speech = listen(tiny, torch.randn(2, 8, 40), 40, 17)
    rows = [Row([5, 6], [7], [8, 3]), Row([], [], [9, 10, 3])]
    sequences = tiny.assemble(speech, rows)
    table, (begin, end) = tiny.decoder.embed_tokens.weight, tiny.markers
    assert speech.vector_counts_B.tolist() == [5, 3]
    first = [table[5], table[6], begin, *speech.vectors_BSD[0, :5], end, table[7], table[8], table[3]]
    second = [begin, *speech.vectors_BSD[1, :3], end, table[9], table[10], table[3]]
    assert sequences.lengths == (len(first), len(second)) == (12, 8)
    assert torch.equal(sequences.embeds_BND[0], torch.stack(first))
    assert torch.equal(sequences.embeds_BND[1, :8], torch.stack(second))
    assert sequences.labels_BN.tolist() == [[IGNORE] * 10 + [8, 3], [IGNORE] * 5 + [9, 10, 3] + [IGNORE] * 4]


def test_text_only_rows_have_no_markers(tiny):
    sequences = tiny.assemble(None, [Row([5], [6], [7, 3])])
    assert torch.equal(sequences.embeds_BND[0], tiny.decoder.embed_tokens.weight[[5, 6, 7, 3]])


def test_loss_is_the_mean_over_target_tokens_of_the_batch(device, tiny):
    rows = [Row([5, 6], [7], [8, 3]), Row([4], [], [9, 10, 11, 3])]
    loss, logits = tiny.loss(tiny.assemble(None, rows))
    assert logits.shape == (6, 40)
    terms = []
    for row in rows:
        ids = torch.tensor([*row.before, *row.after, *row.target], device=device)
        hidden = tiny.decoder(tiny.decoder.embed_tokens(ids)[None])[0]
        probabilities = tiny.decoder.logits(hidden).log_softmax(-1)
        terms += [-float(probabilities[i - 1, ids[i]]) for i in range(len(ids) - len(row.target), len(ids))]
    assert float(loss) == pytest.approx(sum(terms) / len(terms), abs=1e-5)
    smooth, _ = tiny.loss(tiny.assemble(None, rows), label_smoothing=0.1)
    uniform = -float(logits.log_softmax(-1).mean())
    assert float(smooth) == pytest.approx(0.9 * float(loss) + 0.1 * uniform, abs=1e-5)


def test_a_token_counts_by_its_weight(device, tiny):
    rows = [Row([5], [], [8, 3]), Row([6, 7], [], [9, 8, 3])]
    plain, logits = tiny.loss(tiny.assemble(None, rows))
    weights = torch.ones(logits.shape[1], device=device)
    weights[8] = 5.0
    terms = [-float(row[i]) for row, i in zip(logits.log_softmax(-1), (8, 3, 9, 8, 3), strict=True)]
    expected = sum(w * term for w, term in zip((5, 1, 1, 5, 1), terms, strict=True)) / 13
    assert float(tiny.loss(tiny.assemble(None, rows), weights_V=weights)[0]) == pytest.approx(expected, abs=1e-5)
    assert float(plain) == pytest.approx(sum(terms) / 5, abs=1e-5)


def brute_force_ctc(logits_TV: Tensor, target: list[int]) -> float:
    """-log of the summed probability of every path that collapses to the target; infinite where there is none."""
    scores = logits_TV.log_softmax(-1)
    total = 0.0
    for path in itertools.product(range(logits_TV.shape[1]), repeat=len(logits_TV)):
        if [token for token, _ in itertools.groupby(path) if token != 0] == target:
            total += math.exp(sum(float(scores[t, token]) for t, token in enumerate(path)))
    return -math.log(total) if total else math.inf


class Flat(torch.nn.Module):
    """Stands for the CTC head: the encoder frames are the logits already."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@given(
    targets=st.lists(st.none() | st.lists(st.integers(1, 2), max_size=3), min_size=1, max_size=3),
    lengths=st.lists(st.integers(1, 5), min_size=3, max_size=3),
)
def test_ctc_loss_against_brute_force(device, targets, lengths):
    torch.manual_seed(0)
    lm = SpeechLM.__new__(SpeechLM)
    torch.nn.Module.__init__(lm)
    lm.ctc = Flat()
    frames = torch.randn(len(targets), 5, 3)
    rows = list(zip(frames, lengths, targets, strict=False))
    terms = [brute_force_ctc(logits[:length], target) for logits, length, target in rows if target is not None]
    tokens = sum(max(1, len(target)) for target in targets if target is not None)  # silence counts as one
    expected = sum(term for term in terms if math.isfinite(term)) / tokens if tokens else 0.0
    lengths_B = torch.tensor(lengths[: len(targets)], device=device)
    assert float(lm.ctc_loss(frames.to(device), lengths_B, targets)) == pytest.approx(expected, abs=1e-4)


def test_every_weight_gets_a_finite_gradient(tiny):
    with torch.enable_grad():
        speech = listen(tiny.train(), torch.randn(2, 8, 40), 40, 23)
        loss, _ = tiny.loss(tiny.assemble(speech, [Row([5], [], [8, 3]), Row([6], [], [9, 3])]))
        (loss + tiny.ctc_loss(speech.encoded_BTE, speech.encoded_lengths_B, [[8], [9]])).backward()
    for name, parameter in tiny.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_padding_does_not_move_the_loss(tiny):
    mel, rows = torch.randn(1, 8, 23), [Row([5], [], [8, 3])]
    alone = listen(tiny, mel, 23)
    padded = listen(tiny, torch.cat([mel, torch.randn(1, 8, 30)], dim=2), 23)
    assert float(tiny.loss(tiny.assemble(alone, rows))[0]) == pytest.approx(
        float(tiny.loss(tiny.assemble(padded, rows))[0]), abs=1e-5
    )
    losses = [float(tiny.ctc_loss(x.encoded_BTE, x.encoded_lengths_B, [[8]])) for x in (alone, padded)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_the_voice_vector_is_mean_and_deviation_of_the_loud_frames(device):
    torch.manual_seed(0)
    mel = torch.rand(2, 8, 30) * 0.5
    mel[0, :, 10:20] -= 2.0  # a pause in the middle
    lengths = torch.tensor([30, 17])
    voice = Voice(6, 12)
    seen = voice.to(device)(mel.to(device), lengths.to(device))[:, 0].cpu()
    voice.cpu()
    for row in range(2):
        low = mel[row, :6, : lengths[row]].numpy().astype(np.float64)
        level = low.mean(0)
        loud = low[:, level > level.max() - 0.8]
        assert loud.shape[1] == (20, 17)[row]
        halves = loud.mean(1), np.sqrt(loud.var(1) + 1e-6)
        pooled = np.concatenate([(half - half.mean()) / np.sqrt(half.var() + 1e-5) for half in halves])
        hidden = voice.hidden.weight.numpy() @ pooled + voice.hidden.bias.numpy()
        smooth = np.array([0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in hidden])
        expected = voice.out.weight.numpy() @ smooth + voice.out.bias.numpy()
        np.testing.assert_allclose(seen[row].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("pace", [False, True])
def test_of_rows_that_hear_the_voice_alone_the_vectors_of_the_whole_are_left(device, tiny, pace):
    config = dataclasses.replace(tiny.config.projector, voice_mels=5, pace=pace)
    made = SpeechLM(dataclasses.replace(tiny.config, projector=config)).eval().to(device)
    speech, count = listen(made, torch.randn(2, 8, 40), 40, 17), 1 + pace
    rows = speech.voice_alone(torch.tensor([True, False], device=device)).rows()
    assert torch.equal(rows[0], speech.vectors_BSD[0, :count])
    assert torch.equal(rows[1], speech.vectors_BSD[1, : 3 + count])


@pytest.mark.parametrize("parts", [("voice",), ("pace",), ("voice", "pace")])
def test_voice_and_pace_come_before_the_speech(device, tiny, parts):
    torch.manual_seed(0)
    mels, pace = 5 if "voice" in parts else None, "pace" in parts
    config = dataclasses.replace(tiny.config.projector, voice_mels=mels, pace=pace)
    made = SpeechLM(dataclasses.replace(tiny.config, projector=config)).eval().to(device)
    mel, lengths = torch.randn(2, 8, 40).to(device), torch.tensor([40, 17], device=device)
    speech, encoded = made.listen(mel, lengths), made.encoder(mel, lengths)
    rest, counts = made.projector(*encoded)
    heard = {"voice": lambda: made.projector.voice(mel, lengths), "pace": lambda: made.projector.pace(*encoded)}
    expected = torch.cat([*(heard[part]() for part in parts), rest], 1)
    assert torch.equal(speech.vectors_BSD, expected) and torch.equal(speech.vector_counts_B, counts + len(parts))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_voice_and_pace_alone_point_to_the_labels(device, tiny, smoothing):
    torch.manual_seed(0)
    config = dataclasses.replace(tiny.config.projector, voice_mels=5, pace=True)
    made = SpeechLM(dataclasses.replace(tiny.config, projector=config)).eval().to(device)
    with torch.no_grad():
        made.decoder.norm.weight.uniform_(0.5, 2.0)
    gender, age = (4, 7), (5, 6, 9)
    labels = [[(7, gender), (9, age)], [], [(4, gender)]]
    with torch.enable_grad():
        speech = listen(made, torch.randn(3, 8, 40), 40, 17, 30)
        loss = made.voice_loss(speech, labels, label_smoothing=smoothing)
        loss.backward()
    table = made.decoder.get_parameter(
        "embed_tokens.weight" if made.config.decoder.tie_embeddings else "lm_head.weight"
    ).cpu()
    scale, total = made.decoder.norm.weight.cpu(), []
    for row, pairs in enumerate(labels):
        for vector in speech.vectors_BSD[row, :2].cpu():
            read = table @ (vector / (vector.square().mean() + made.config.decoder.norm_eps).sqrt() * scale)
            for truth, choices in pairs:
                log = (read[list(choices)] - read[list(choices)].logsumexp(0)).tolist()
                total.append(-(1 - smoothing) * log[choices.index(truth)] - smoothing * sum(log) / len(log))
    assert float(loss) == pytest.approx(sum(total) / 6, abs=1e-5)
    parts = (made.projector.voice, made.projector.pace)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for part in parts for p in part.parameters())
    assert float(made.voice_loss(speech, [[], [], []])) == 0.0


def test_a_louder_recording_has_the_same_voice(device):
    voice, mel = Voice(6, 12).to(device), torch.rand(1, 8, 30).to(device)
    frames = torch.tensor([30], device=device)
    torch.testing.assert_close(voice(mel, frames).cpu(), voice(mel + 0.3, frames).cpu())
