"""OM bundles through the double of pyACL: the same numbers as PyTorch, the copies that must be, and nothing left."""

import gc
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime.ascend.conftest import Open
from tests.runtime.conftest import Tiny
from zhiyin.errors import UserError
from zhiyin.runtime import bundle
from zhiyin.runtime.ascend import AscendBackend
from zhiyin.runtime.ascend_load import Table
from zhiyin.runtime.generate import Prompt, decode

H2D, D2H = 1, 2


def test_encoded_as_in_pytorch(small: Tiny, opened: Open, sim: Any) -> None:
    """Lengths around and between the buckets of 100, 200 and 300 frames."""
    backend = opened()
    mels = small.mels(1, 40, 99, 100, 101, 200, 233, 300)
    for got, want in zip(backend.encode(mels), small.eager.encode(mels), strict=True):
        assert got.vectors_SD.dtype == np.float32
        np.testing.assert_allclose(got.vectors_SD, want.vectors_SD, atol=2e-4)
        assert got.ctc_TV is not None and want.ctc_TV is not None
        np.testing.assert_allclose(got.ctc_TV, want.ctc_TV, atol=2e-4)
    ran = [name for name in sim.executed if name.startswith("encoder")]
    assert [ran.count(f"encoder_{size}.om") for size in (100, 200, 300)] == [4, 2, 2]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_replies_as_in_pytorch(small: Tiny, opened: Open, count: int) -> None:
    """One to four rows on decoder graphs for one and for two rows; rows end at different times."""
    backend = opened()
    prompts = small.prompts()[:count]
    got = decode(backend, prompts, max_new_tokens=12)
    want = [small.oracle(prompt, 12, backend.spec.eos_id) for prompt in prompts]
    assert [reply.ids for reply in got] == [reply.ids for reply in want]
    np.testing.assert_allclose([r.mean_logprob for r in got], [r.mean_logprob for r in want], atol=1e-4)


@pytest.mark.parametrize(
    ("batches", "count", "expected"),
    [
        ((1, 4), 7, [(4, 4), (4, 3)]),
        ((1, 4), 2, [(1, 1), (1, 1)]),
        ((1, 2), 5, [(2, 2), (2, 2), (1, 1)]),
        ((4,), 1, [(4, 1)]),
        ((1, 8), 5, [(8, 5)]),
        ((1,), 3, [(1, 1)] * 3),
    ],
)
def test_rows_are_dealt_to_batches(
    om_bundle: Path, batches: tuple[int, ...], count: int, expected: list[tuple[int, int]]
) -> None:
    table = Table(om_bundle, bundle.read_graphs(om_bundle), bundle.read(om_bundle))
    some = next(graph for graph in table.graphs.values() if graph.component == "decoder")
    table.graphs = {("decoder", 1, batch): some for batch in batches}
    assert list(table.split(count, "decoder")) == expected


def test_a_step_copies_what_it_must_and_no_cache(small: Tiny, opened: Open, sim: Any) -> None:
    backend = opened()
    session = backend.start(1)
    session.extend([backend.embed(range(10, 20))])
    del sim.copies[:], sim.calls[:], sim.executed[:]
    logits_BV = session.extend([backend.embed([3])])
    step = next(graph for graph in bundle.read_graphs(backend.table.folder) if graph.file == "decoder_1.om")
    ports = {port.name: np.dtype(port.dtype).itemsize * int(np.prod(port.shape)) for port in step.inputs}
    inputs = sorted(ports[name] for name in ("embeds", "positions", "last"))
    assert sorted(size for way, size, _ in sim.copies if way == H2D) == inputs
    assert [size for way, size, _ in sim.copies if way == D2H] == [logits_BV.nbytes]
    assert all(is_pinned for _, _, is_pinned in sim.copies)
    assert sim.executed == ["decoder_1.om"]
    assert not {"rt.malloc", "rt.malloc_host", "rt.memset", "mdl.load_from_file"} & set(sim.calls)


def test_an_utterance_copies_only_what_is_real_of_its_outputs(small: Tiny, opened: Open, sim: Any) -> None:
    backend = opened()
    del sim.copies[:]
    [heard] = backend.encode(small.mels(130))
    assert heard.ctc_TV is not None
    counts_bytes = 2 * 4  # counts and ctc_frames, one int32 each
    assert sum(size for way, size, _ in sim.copies if way == D2H) == (
        heard.vectors_SD.nbytes + heard.ctc_TV.nbytes + counts_bytes
    )
    assert sum(size for way, size, _ in sim.copies if way == H2D) == 80 * 200 * 4 + 4
    assert len(sim.copies) == 6 and all(is_pinned for _, _, is_pinned in sim.copies)


def test_caches_are_made_once_and_begin_empty(small: Tiny, opened: Open, sim: Any) -> None:
    """A session that left infinities behind must not spoil the next one."""
    backend = opened()
    prompts = small.prompts()[:2]
    first = decode(backend, prompts, max_new_tokens=5)
    used = sim.used_bytes(0)
    for block in sim.blocks.values():
        block["data"][:] = b"\xff" * block["bytes"]
    assert decode(backend, prompts, max_new_tokens=5) == first
    assert sim.used_bytes(0) == used


def test_threads_and_devices_side_by_side(small: Tiny, opened: Open, sim: Any) -> None:
    """Two devices, four threads on each: every thread needs its context, and none sees another's cache."""
    backends = [opened(device="npu:0"), opened(device="npu:1")]
    prompts = small.prompts()
    want = decode(small.onnx, prompts, max_new_tokens=6)
    got: dict[int, Any] = {}

    def work(number: int) -> None:
        order = [(i + number) % len(prompts) for i in range(len(prompts))]
        replies = decode(backends[number % 2], [prompts[i] for i in order], max_new_tokens=6)
        got[number] = [replies[order.index(i)].ids for i in range(len(prompts))]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {number: [reply.ids for reply in want] for number in range(8)}
    assert [backend.device.name for backend in backends] == ["npu:0", "npu:1"]
    assert sim.users == {0: 1, 1: 1} and sim.inits == 1


def test_one_device_shared_and_begun_once(small: Tiny, opened: Open, sim: Any) -> None:
    first, second = opened(), opened()
    [mel] = small.mels(50)
    heard = first.encode([mel])[0].vectors_SD
    assert sim.inits == 1 and sim.users == {0: 1} and len(sim.contexts) == 1
    models = len(sim.models)
    first.close()
    first.close()
    assert len(sim.models) == models // 2 and sim.users == {0: 1}
    np.testing.assert_array_equal(second.encode([mel])[0].vectors_SD, heard)
    second.close()
    assert not sim.leaks() and sim.finalizes == 0
    for use in (second.reset, second.free_bytes, lambda: second.encode([mel]), lambda: second.start(1)):
        with pytest.raises(ValueError, match="is closed"):
            use()
    third = opened()
    np.testing.assert_array_equal(third.encode([mel])[0].vectors_SD, heard)
    assert sim.inits == 1


def test_a_backend_that_is_forgotten_is_released(small: Tiny, opened: Open, sim: Any, om_bundle: Path) -> None:
    forgotten = AscendBackend(om_bundle)
    used = sim.used_bytes(0)
    del forgotten
    gc.collect()
    backend = opened()
    backend.encode(small.mels(50))
    assert sim.used_bytes(0) == used


def test_reset_and_reload(small: Tiny, opened: Open, sim: Any) -> None:
    """The device is really reset, though two backends use it, and both go on."""
    backends = [opened(), opened()]
    [mel] = small.mels(120)
    before = [backend.encode([mel])[0].vectors_SD for backend in backends]
    backends[0].reset()
    assert sim.resets == 1
    for backend, want in zip(backends, before, strict=True):
        np.testing.assert_array_equal(backend.encode([mel])[0].vectors_SD, want)
    free = backends[0].free_bytes()
    assert free is not None and free == sim.memory_bytes - sim.used_bytes(0)


def test_through_ais_bench(small: Tiny, opened: Open, monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    monkeypatch.syspath_prepend(str(repository / "tests" / "npu_sim"))
    backend = opened(session="ais_bench")
    prompts = small.prompts()[:3]
    assert [r.ids for r in decode(backend, prompts, max_new_tokens=6)] == [
        r.ids for r in decode(small.onnx, prompts, max_new_tokens=6)
    ]
    [mel] = small.mels(77)
    np.testing.assert_allclose(backend.encode([mel])[0].vectors_SD, small.eager.encode([mel])[0].vectors_SD, atol=2e-4)
    backend.close()
    for name in [name for name in sys.modules if name.split(".")[0] == "ais_bench"]:
        monkeypatch.delitem(sys.modules, name)


def test_sessions_and_their_limits(small: Tiny, opened: Open) -> None:
    with pytest.raises(UserError, match="session 'mindie' is not known; known: acl ais_bench"):
        opened(session="mindie")
    backend = opened()
    with pytest.raises(ValueError, match="do not fit a cache of 160"):
        backend.start(1).extend([np.zeros((161, 64), np.float32)])
    with pytest.raises(ValueError, match=r"takes \[80, 1 to 300\]"):
        backend.encode(small.mels(301))


AT_EXIT = """
import sys
import tests.npu_sim.acl as acl
sys.modules["acl"] = acl
import atexit
atexit.register(lambda: print(acl.sim.leaks(), acl.sim.violations, acl.sim.inits, acl.sim.finalizes))
import numpy as np
from pathlib import Path
from zhiyin.runtime.ascend import AscendBackend
backend = AscendBackend(Path(sys.argv[1]))
session = backend.start(2)
session.extend([backend.embed([1, 2])] * 2)
if sys.argv[2] == "raise":
    raise RuntimeError("boom")
"""


@pytest.mark.parametrize("how", ["end", "raise"])
def test_the_interpreter_leaves_a_clean_device(om_bundle: Path, repository: Path, how: str) -> None:
    """Without any `close`, at the end of a program and at an exception nobody catches."""
    command = [sys.executable, "-c", AT_EXIT, str(om_bundle), how]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=60)
    assert done.stdout == "{} [] 1 1\n", done.stderr
    assert done.returncode == (how == "raise")


def test_prompts_of_text_alone(small: Tiny, opened: Open) -> None:
    backend = opened()
    [reply] = decode(backend, [Prompt(before_ids=range(10, 90))], max_new_tokens=4)
    assert reply.ids == small.oracle(Prompt(before_ids=range(10, 90)), 4, backend.spec.eos_id).ids
