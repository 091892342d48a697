"""What goes wrong on a device: refused with its cause, tried once more where that may help, and nothing left behind."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.npu_sim import om
from tests.runtime.ascend.conftest import Open
from tests.runtime.conftest import Tiny
from zhiyin.errors import UserError
from zhiyin.runtime import ascend_acl, ascend_graph, bundle
from zhiyin.runtime.ascend import AscendBackend
from zhiyin.runtime.ascend_acl import PROCESS, DeviceBusy, DeviceError, DeviceFull, DeviceLost, failed
from zhiyin.runtime.generate import decode

Change = Callable[[list[dict[str, Any]]], object]


@pytest.fixture
def copy(om_bundle: Path, tmp_path: Path) -> Path:
    """A bundle to spoil."""
    return shutil.copytree(om_bundle, tmp_path / "bundle")


def edit(folder: Path, change: Change) -> None:
    record = json.loads((folder / bundle.RECORD).read_text())
    change(record["graphs"])
    (folder / bundle.RECORD).write_text(json.dumps(record))


def named(graphs: list[dict[str, Any]], file: str) -> dict[str, Any]:
    return next(graph for graph in graphs if graph["file"] == file)


def test_without_pyacl(om_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "acl", None)
    with pytest.raises(UserError, match=r"needs pyACL, .* install CANN and source .*set_env.sh; zhiyin doctor"):
        AscendBackend(om_bundle)


def test_another_chip(opened: Open, sim: Any) -> None:
    sim.soc = "Ascend910B3"
    with pytest.raises(
        UserError, match=r"for Ascend310P3, device npu:0 is Ascend910B3; run zhiyin atc .*--soc Ascend9"
    ):
        opened()


def test_devices_that_are_not_there(opened: Open, sim: Any) -> None:
    with pytest.raises(UserError, match="device 'npu:7': pyACL has only npu:0, npu:1 here"):
        opened(device="npu:7")
    with pytest.raises(UserError, match="device 'cpu': pyACL has only npu:0"):
        opened(device="cpu")
    backend = opened(device="npu:7", allow_fallback=True)
    assert backend.device.name == "npu:0"
    assert "npu:7 was asked for: pyACL has only npu:0, npu:1 here; fallback allowed" in backend.device.reason
    with pytest.raises(UserError, match="device 'abacus' is not known"):
        opened(device="abacus", allow_fallback=True)
    sim.devices = 0
    with pytest.raises(UserError, match="device 'auto': pyACL sees none; zhiyin doctor says why"):
        opened()


def _rename(graphs: list[dict[str, Any]]) -> None:
    named(graphs, "encoder_200.om")["inputs"][0]["name"] = "fbank"


def _resize(graphs: list[dict[str, Any]]) -> None:
    named(graphs, "encoder_200.om")["inputs"][0]["shape"][2] = 100


def _retype(graphs: list[dict[str, Any]]) -> None:
    named(graphs, "encoder_300.om")["outputs"][0]["dtype"] = "float16"


def _shorten(graphs: list[dict[str, Any]]) -> None:
    del named(graphs, "encoder_100.om")["outputs"][3]


def _swap(graphs: list[dict[str, Any]]) -> None:
    outputs = named(graphs, "decoder_1.om")["outputs"]
    outputs[1], outputs[2] = outputs[2], outputs[1]


def _lose_a_decoder(graphs: list[dict[str, Any]]) -> None:
    graphs.remove(next(graph for graph in graphs if (graph["size"], graph["batch"]) == (64, 2)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_rename, r"encoder_200.om: input 0: the model has 'mel', bundle.json says 'fbank'; .* zhiyin atc again"),
        (_resize, r"input mel: the model has float32 \[1, 80, 200\], bundle.json says float32 \[1, 80, 100\]"),
        (_retype, r"encoder_300.om: output vectors: the model has float32 \[.*says float16"),
        (_shorten, r"encoder_100.om: outputs: the model has 4, bundle.json says 3"),
        (_swap, r"decoder_1.om: output 1: the model has '\w+:0:new_keys', bundle.json says 'new_values'"),
        (_lose_a_decoder, r"a decoder graph is missing: 64 tokens for 2 rows"),
        (
            lambda graphs: graphs.remove(named(graphs, "encoder_300.om")),
            r"largest encoder bucket is 200 frames, but wi",
        ),
    ],
)
def test_graphs_that_are_not_the_records(opened: Open, copy: Path, change: Change, message: str) -> None:
    edit(copy, change)
    with pytest.raises(UserError, match=message) as caught:
        opened(copy)
    assert "\n" not in str(caught.value)


def test_damaged_graphs(opened: Open, copy: Path) -> None:
    spec, graphs, target = bundle.read(copy), bundle.read_graphs(copy), bundle.read_target(copy)
    (copy / "decoder_64.om").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"decoder_64.om is damaged \(8 bytes instead of"):
        opened(copy)
    bundle.seal(copy, spec, target, graphs)
    with pytest.raises(
        DeviceError, match=r"load decoder_64.om: the model does not load \(acl code 545001, .*atc again"
    ):
        opened(copy)
    (copy / "decoder_64.om").unlink()
    with pytest.raises(UserError, match=r"decoder_64.om is missing"):
        opened(copy)


def test_a_bundle_without_a_decoder(small: Tiny, opened: Open, copy: Path) -> None:
    """For comparing and timing encoder and projector."""
    bundle.seal(
        copy,
        bundle.read(copy),
        bundle.read_target(copy),
        [graph for graph in bundle.read_graphs(copy) if graph.component == "encoder"],
    )
    backend = opened(copy)
    assert backend.encode(small.mels(50))[0].vectors_SD.shape[1] == 64
    for use in (lambda: backend.start(1), lambda: backend.embed([1]), lambda: backend.markers):
        with pytest.raises(UserError, match="holds encoder and projector only"):
            use()


def test_a_bundle_of_onnx_graphs(opened: Open, static: Path) -> None:
    with pytest.raises(UserError, match=r"its graphs are ONNX; run zhiyin atc .* --soc NAME first"):
        opened(static)


def test_too_large_for_the_device_says_which_buckets_fit(opened: Open, sim: Any) -> None:
    needs = opened()
    whole = sim.used_bytes(0)
    needs.close()
    sim.memory_bytes = whole  # but no place for a single row
    with pytest.raises(DeviceFull, match=r"where .* are free; buckets of up to [12] s need .* and fit: export with"):
        opened()
    sim.memory_bytes = 100_000
    with pytest.raises(DeviceFull, match=r"with its smallest bucket alone it needs .*: close other programs on the"):
        opened()


def test_too_many_rows_say_what_one_needs(small: Tiny, opened: Open, sim: Any) -> None:
    backend = opened()
    sim.memory_bytes = sim.used_bytes(0) + 500_000  # two rows need 655 kB
    with pytest.raises(
        DeviceFull, match=r"a batch of 2 needs .* MB of key/value cache for every 2 .* smaller batches fit"
    ):
        backend.start(2)
    [prompt, *_] = small.prompts()
    assert decode(backend, [prompt], max_new_tokens=3)[0].ids


@pytest.mark.parametrize("code", [507010, 507015, 507899])
def test_a_device_lost_for_a_moment(small: Tiny, opened: Open, sim: Any, code: int) -> None:
    """Reset, loaded again, and the same results; the device says that it happened."""
    backend = opened()
    mels = small.mels(60, 150, 280)
    want = [heard.vectors_SD for heard in backend.encode(mels)]
    sim.fail("mdl.execute", code, after=1)
    for got, expected in zip(backend.encode(mels), want, strict=True):
        np.testing.assert_array_equal(got.vectors_SD, expected)
    assert sim.resets == 1 and f"reset after acl code {code}" in backend.device.reason


def test_a_device_lost_while_replies_grow(small: Tiny, opened: Open, sim: Any) -> None:
    """At each of the calls of a generation in turn: rows are added again, and every reply is what it would be."""
    backend = opened()
    prompts = small.prompts()[:3]
    want = decode(small.onnx, prompts, max_new_tokens=5)
    del sim.executed[:]
    decode(backend, prompts, max_new_tokens=5)
    calls = len(sim.executed)
    assert calls >= 10
    for after in range(calls):
        sim.faults.clear()
        sim.fail("mdl.execute", 507015, after=after)
        got = decode(backend, prompts, max_new_tokens=5)
        assert [reply.ids for reply in got] == [reply.ids for reply in want]
    assert sim.resets == calls


def test_sessions_survive_the_trouble_of_others(small: Tiny, opened: Open, sim: Any) -> None:
    backends = [opened(), opened()]
    tokens = [backends[0].embed([7, 8, 9]), backends[0].embed([4])]
    undisturbed = backends[0].start(2)
    want = [undisturbed.extend(tokens), undisturbed.extend(tokens)]
    session = backends[0].start(2)
    first = session.extend(tokens)
    sim.fail("mdl.execute", 507899)
    backends[1].encode(small.mels(30))
    np.testing.assert_allclose([first, session.extend(tokens)], want, atol=1e-5)
    assert sim.resets == 1


def test_a_device_lost_for_good_and_back_again(small: Tiny, opened: Open, sim: Any) -> None:
    """Every recording is reported, none is lost in silence; when the device is back the next one is served."""
    backend = opened()
    mels = small.mels(60)
    want = backend.encode(mels)[0].vectors_SD
    session = backend.start(1)
    sim.lose(0, comes_back=False)
    for _ in range(3):
        with pytest.raises(DeviceLost, match=r"heartbeat is lost \(acl code 507010.*restart the card or the machine"):
            backend.encode(mels)
    with pytest.raises(DeviceLost):
        session.extend([backend.embed([1])])
    sim.lost.clear()
    np.testing.assert_array_equal(backend.encode(mels)[0].vectors_SD, want)
    session.extend([backend.embed([1])])


def test_a_busy_device(small: Tiny, opened: Open, sim: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ascend_graph, "BUSY_WAIT_S", 0.0)
    backend = opened()
    mels = small.mels(60)
    want = backend.encode(mels)[0].vectors_SD
    sim.fail("mdl.execute", 107019)
    np.testing.assert_array_equal(backend.encode(mels)[0].vectors_SD, want)
    sim.fail("mdl.execute", 107019, times=2)
    with pytest.raises(DeviceBusy, match=r"run encoder_100.om: the device is busy \(acl code 107019"):
        backend.encode(mels)
    np.testing.assert_array_equal(backend.encode(mels)[0].vectors_SD, want)
    assert sim.resets == 0


def _everything(small: Tiny, folder: Path) -> None:
    backend = AscendBackend(folder)
    try:
        backend.encode(small.mels(60, 60))
        session = backend.start(3)
        session.extend([backend.embed([1, 2])] * 3)
        session.keep([0, 2])
        session.extend([backend.embed([3])] * 2)
        backend.reset()
    finally:
        backend.close()


CALLS = (
    *("rt.set_device", "rt.create_context", "rt.malloc", "rt.malloc_host", "rt.memcpy", "rt.memset"),
    *("rt.get_mem_info", "mdl.load_from_file", "mdl.execute"),
)


@pytest.mark.parametrize("call", CALLS)
def test_whatever_fails_nothing_is_left(small: Tiny, om_bundle: Path, sim: Any, call: str) -> None:
    """Each kind of call fails at several of its turns, with a code that ends the work."""
    _everything(small, om_bundle)
    times = sim.calls.count(call)
    assert times
    for after in sorted({0, 1, times // 3, times // 2, times - 2, times - 1} & set(range(times))):
        sim.faults.clear()
        sim.fail(call, 100000, after=after)
        try:
            _everything(small, om_bundle)
            assert call == "rt.get_mem_info"  # a chip that does not say how much is free is served all the same
        except DeviceError as error:
            assert error.code == 100000
        assert not sim.leaks() and not PROCESS.cards


def test_device_lost_at_any_call_while_closing(small: Tiny, opened: Open, sim: Any) -> None:
    backend = opened()
    backend.start(2)
    sim.lose(0)
    backend.close()
    assert not sim.leaks()


def test_half_precision_that_overflows(small: Tiny, opened: Open, static: Path, tmp_path: Path) -> None:
    backend = opened(om.compiled(static, tmp_path / "half", precision="fp16"))
    mels = small.mels(90)
    want = small.eager.encode(mels)[0].vectors_SD
    difference = np.abs(backend.encode(mels)[0].vectors_SD - want).max() / np.abs(want).max()
    assert 1e-5 < difference < 3e-2, "half precision is really computed, and is near"
    with pytest.raises(
        UserError, match=r"its vectors are not finite: half precision overflows here; .*--precision mix"
    ):
        backend.encode([mels[0] * 1e6])


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (107001, DeviceError, "no device of this number"),
        (107002, DeviceError, "this thread has no context"),
        (145019, DeviceError, "set_env.sh"),
        (207001, DeviceFull, "memory is full"),
        (207006, DeviceError, "HwHiAiUser"),
        (207008, DeviceBusy, "busy"),
        (500002, DeviceError, "graph engine"),
        (507008, DeviceLost, "driver and CANN do not match"),
        (507018, DeviceLost, "AI CPU"),
        (507777, DeviceLost, "the device failed"),
        (999999, DeviceError, "pyACL refused"),
    ],
)
def test_codes_become_causes(code: int, kind: type, words: str) -> None:
    class Acl:
        @staticmethod
        def get_recent_err_msg() -> str:
            return "EZ9999: inner error\nmore"

    error = failed(Acl, code, "device 0, run encoder.om")
    assert type(error) is kind and words in str(error)
    assert f"acl code {code}, EZ9999: inner error)" in str(error) and "\n" not in str(error)


def test_every_code_is_in_the_documentation(repository: Path) -> None:
    page = (repository / "docs" / "ascend.md").read_text(encoding="utf-8")
    assert not [code for code in ascend_acl._CAUSES if str(code) not in page]
