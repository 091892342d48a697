"""onnxruntime, PyTorch with a cache and PyTorch without one say the same; a row says in a batch what it says alone."""

import dataclasses

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhiyin.errors import UserError
from zhiyin.runtime import bundle, device
from zhiyin.runtime.generate import decode
from zhiyin.runtime.onnx import OnnxBackend

NEAR = 1e-4
FRAMES = (1, 37, 300, 150)


def test_encoders_agree_and_a_batch_equals_single(tiny) -> None:
    mels = tiny.mels(*FRAMES)
    alone = [tiny.eager.encode([mel])[0] for mel in mels]
    for backend in tiny.backends:
        for one, batched, frames in zip(alone, backend.encode(mels), FRAMES, strict=True):
            assert batched.vectors_SD.shape == (-(-frames // tiny.eager.spec.frames_per_vector), 64)
            np.testing.assert_allclose(batched.vectors_SD, one.vectors_SD, atol=NEAR)
            assert (batched.ctc_TV is None) == (not tiny.model.config.ctc)
            if one.ctc_TV is not None:
                assert batched.ctc_TV.shape == (-(-frames // 4), 97)
                np.testing.assert_allclose(batched.ctc_TV, one.ctc_TV, atol=NEAR)


def test_encoder_graph_takes_a_ragged_batch(tiny) -> None:
    """The backend encodes one by one; the graph must be right for batches too. Padding holds rubbish on purpose."""
    mels = tiny.mels(*FRAMES)
    mel_BMF = np.full((len(mels), 80, max(FRAMES)), 1e3, np.float32)
    for i, mel in enumerate(mels):
        mel_BMF[i, :, : mel.shape[1]] = mel
    session = onnxruntime.InferenceSession(str(tiny.bundle / bundle.ENCODER))
    vectors_BSD, counts_B = session.run(["vectors", "counts"], {"mel": mel_BMF, "frames": np.array(FRAMES)})
    for row, count, alone in zip(vectors_BSD, counts_B, tiny.eager.encode(mels), strict=True):
        np.testing.assert_allclose(row[:count], alone.vectors_SD, atol=NEAR)


def test_embeddings_and_markers_agree(tiny) -> None:
    for ids in ([], [0], [3, 96, 3]):
        np.testing.assert_array_equal(tiny.onnx.embed(ids), tiny.eager.embed(ids))
    np.testing.assert_array_equal(tiny.onnx.markers, tiny.eager.markers)


def test_features_that_do_not_fit_are_refused(small) -> None:
    for backend in small.backends:
        for shape in ((80, 301), (80, 0), (79, 10)):
            with pytest.raises(ValueError, match=r"takes \[80, 1 to 300\]"):
                backend.encode([np.zeros(shape, np.float32)])
        assert backend.encode([]) == []


@settings(max_examples=12)
@given(calls=st.lists(st.lists(st.integers(0, 70), min_size=3, max_size=3), min_size=1, max_size=2), data=st.data())
def test_ragged_calls_equal_single_tokens(make, calls, data) -> None:
    """Logits of rows that grow by different counts = logits of each row alone, added in calls cut elsewhere."""
    tiny = make(data.draw(st.sampled_from(["qwen2", "qwen3", "pangu"])))
    calls = [[*counts[:2], max(1, counts[2])] for counts in calls]
    generator = np.random.default_rng(0)
    added = [[generator.standard_normal((n, 64)).astype(np.float32) * 0.2 for n in counts] for counts in calls]
    for backend in tiny.backends:
        session = backend.start(3)
        for done, embeds in enumerate(added):
            logits_BV = session.extend(embeds)
            for row, rows in enumerate(embeds):
                if len(rows):
                    alone = tiny.eager.start(1)
                    whole = np.concatenate([earlier[row] for earlier in added[: done + 1]])
                    for part in np.array_split(whole, 3):
                        if len(part):
                            expected_BV = alone.extend([part])
                    np.testing.assert_allclose(logits_BV[row], expected_BV[0], atol=NEAR)


def test_session_refuses_what_does_not_fit(small) -> None:
    for backend in small.backends:
        session = backend.start(2)
        row = np.zeros((100, 64), np.float32)
        session.extend([row, row[:1]])
        for wrong in ([row, row[:0]], [row[:0], row[:0]], [row]):
            with pytest.raises(ValueError):
                session.extend(wrong)


def test_kept_rows_go_on_as_if_alone(tiny) -> None:
    embeds = [tiny.eager.embed(range(start, start + size)) for start, size in ((1, 5), (20, 70), (40, 2))]
    extra = tiny.eager.embed([50])
    for backend in tiny.backends:
        session = backend.start(3)
        session.extend(embeds)
        session.keep([2, 0])
        after_BV = session.extend([extra, extra])
        for logits_V, row in zip(after_BV, (2, 0), strict=True):
            expected = tiny.eager.start(1).extend([np.concatenate([embeds[row], extra])])[0]
            np.testing.assert_allclose(logits_V, expected, atol=NEAR)


@pytest.mark.parametrize("name", ["eager", "onnx"])
def test_greedy_replies_are_those_of_the_whole_sequence(tiny, name, monkeypatch) -> None:
    """Same tokens, ends and confidence as `Decoder.forward` without a cache, in one batch and one by one."""
    backend = getattr(tiny, name)
    prompts = tiny.prompts()
    free = [tiny.oracle(prompt, 24, eos_id=-1) for prompt in prompts]
    assert len({reply.ids for reply in free}) == len(prompts) and len(set(free[0].ids)) > 5, "the models say something"
    eos_id = free[0].ids[7]  # so that rows end at different times
    monkeypatch.setattr(backend, "spec", dataclasses.replace(backend.spec, eos_id=eos_id))
    expected = [tiny.oracle(prompt, 24, eos_id) for prompt in prompts]
    assert expected[0].ended and len({len(reply.ids) for reply in expected}) > 1
    for replies in (
        decode(backend, prompts, max_new_tokens=24),
        [decode(backend, [prompt], max_new_tokens=24)[0] for prompt in prompts],
    ):
        assert [(reply.ids, reply.ended) for reply in replies] == [(reply.ids, reply.ended) for reply in expected]
        np.testing.assert_allclose([r.mean_logprob for r in replies], [r.mean_logprob for r in expected], atol=NEAR)


def test_a_bundle_too_large_for_the_memory_is_refused_unopened(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "free_bytes", lambda place: 1000)
    with pytest.raises(UserError, match=r"bundle .* needs .*GB on cpu, where .* are free"):
        OnnxBackend(tiny.bundle)
