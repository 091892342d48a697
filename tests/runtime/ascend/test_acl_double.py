"""The double of pyACL refuses what CANN refuses; a double that forgives would prove nothing."""

import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from zhiyin.runtime import bundle

H2D, D2H = 1, 2


@pytest.fixture
def acl(sim: Any) -> ModuleType:
    """Begun, on device 0."""
    import acl

    assert acl.rt.set_device(0) == 100001, "before init"
    assert (acl.init(), acl.init()) == (0, 100002)
    assert acl.rt.set_device(5) == 107001
    assert acl.rt.set_device(0) == 0
    yield acl
    acl.rt.reset_device(0)
    acl.finalize()


def test_order_and_contexts(acl: ModuleType, sim: Any) -> None:
    context, code = acl.rt.create_context(0)
    assert code == 0
    codes: list[int] = []

    def other() -> None:
        codes.append(acl.rt.malloc(16, 0)[1])
        codes.append(acl.rt.set_context(context))
        address, code = acl.rt.malloc(16, 0)
        codes.extend([code, acl.rt.free(address), acl.rt.free(address)])

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert codes == [107002, 0, 0, 0, 100000]
    assert acl.rt.destroy_context(context) == 0 and acl.rt.set_context(context) == 107000
    assert acl.rt.malloc(16, 0)[1] == 107002, "the context of this thread is gone"
    assert acl.rt.set_device(0) == 0 and acl.rt.reset_device(0) == 0
    assert sim.resets == 0, "counted: one user is left"


def test_memory(acl: ModuleType, sim: Any) -> None:
    address, _ = acl.rt.malloc(64, 0)
    host, _ = acl.rt.malloc_host(64)
    assert acl.rt.memcpy(address, 64, host, 64, D2H) == 100000, "the wrong direction"
    assert acl.rt.memcpy(address, 32, host, 64, H2D) == 100000, "more than the target takes"
    assert acl.rt.memcpy(address, 128, host, 65, H2D) == 507015, "past the end of a block"
    assert acl.rt.memcpy(address + 8, 64, host, 64, H2D) == 507015
    assert acl.rt.memcpy(address, 64, host, 64, H2D) == 0
    with pytest.raises(TypeError):
        acl.rt.malloc(np.int64(3), 0)
    with pytest.raises(AttributeError):
        acl.rt.malloc_everything(3)
    assert acl.rt.malloc(sim.memory_bytes, 0)[1] == 207001
    assert sim.leaks()["device blocks"] == sim.leaks()["pinned blocks"] == 1
    assert acl.rt.free(address) == acl.rt.free_host(host) == 0


def test_models(acl: ModuleType, sim: Any, om_bundle: Path) -> None:
    path = om_bundle / "decoder_1.om"
    graph = next(graph for graph in bundle.read_graphs(om_bundle) if graph.file == path.name)
    assert acl.mdl.load_from_file("/nowhere.om")[1] == 145002
    sim.soc = "Ascend910B3"
    assert acl.mdl.load_from_file(str(path))[1] == 545001
    sim.soc = "Ascend310P3"
    model, code = acl.mdl.load_from_file(str(path))
    assert code == 0
    sizes = {port.name: np.dtype(port.dtype).itemsize * int(np.prod(port.shape)) for port in graph.inputs}
    blocks, buffers = [], []
    datasets = [acl.mdl.create_dataset(), acl.mdl.create_dataset()]
    for dataset, ports in zip(datasets, (graph.inputs, graph.outputs), strict=True):
        for port in ports:
            size = np.dtype(port.dtype).itemsize * int(np.prod(port.shape))
            blocks.append(acl.rt.malloc(size, 0)[0])
            acl.rt.memset(blocks[-1], size, 0, size)
            buffers.append(acl.create_data_buffer(blocks[-1], size))
            acl.mdl.add_dataset_buffer(dataset, buffers[-1])
    assert acl.mdl.execute(model, *datasets) == 0
    assert acl.mdl.execute(model, datasets[1], datasets[0]) == 145000, "the wrong number of buffers"
    keys = [port.name for port in graph.inputs].index("keys")
    acl.update_data_buffer(buffers[keys], blocks[keys], sizes["keys"] - 65)
    assert acl.mdl.execute(model, *datasets) == 500002, "too small"
    acl.update_data_buffer(buffers[keys], blocks[0], sizes["keys"])
    assert acl.mdl.execute(model, *datasets) == 507015, "past the end of a block"
    acl.update_data_buffer(buffers[keys], blocks[-1], sizes["keys"])
    assert acl.mdl.execute(model, *datasets) == 0 and "an output lies on an input" in sim.violations.pop()
    sim.lose(0)
    assert acl.mdl.execute(model, *datasets) == acl.rt.malloc(4, 0)[1] == 507010
    for buffer in buffers:
        assert acl.destroy_data_buffer(buffer) == 0
    for dataset in datasets:
        assert acl.mdl.destroy_dataset(dataset) == 0
    assert sim.leaks()["models"] == 1
    assert acl.rt.reset_device(0) == 0 and not sim.leaks()
    assert acl.mdl.execute(model, *datasets) == 107002
    assert acl.rt.set_device(0) == 0
    assert acl.mdl.execute(model, *datasets) == 145003, "a reset takes the models too"
