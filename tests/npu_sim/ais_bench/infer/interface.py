"""A double of `ais_bench.infer.interface.InferSession` on top of the double of pyACL; static models only."""

from collections.abc import Sequence
from dataclasses import dataclass

import acl
import numpy as np


@dataclass
class Port:
    """An input or output as ais_bench describes it."""

    name: str
    shape: list[int]
    datatype: str
    size: int


class InferSession:
    """One model on one device."""

    def __init__(
        self, device_id: int, model_path: str, acl_json_path: str | None = None, debug: bool = False, loop: int = 1
    ):
        code = acl.init()
        if code not in (0, acl.REPEAT_INITIALIZE):
            _check(code)
        self.device_id = device_id
        _check(acl.rt.set_device(device_id))
        self.context, code = acl.rt.create_context(device_id)
        _check(code)
        self.model, code = acl.mdl.load_from_file(model_path)
        _check(code)
        self.desc = acl.mdl.create_desc()
        _check(acl.mdl.get_desc(self.desc, self.model))

    def get_inputs(self) -> list[Port]:
        """In the model's order."""
        return self._ports("input")

    def get_outputs(self) -> list[Port]:
        """In the model's order."""
        return self._ports("output")

    def infer(self, feeds: Sequence[np.ndarray], mode: str = "static", custom_sizes: int = 100000) -> list[np.ndarray]:
        """Copies everything in, runs, copies everything out."""
        ports = self.get_inputs()
        if mode != "static" or len(feeds) != len(ports):
            raise RuntimeError(f"mode {mode}, {len(feeds)} feeds for {len(ports)} inputs")
        for feed, port in zip(feeds, ports, strict=True):
            if feed.nbytes != port.size:
                raise RuntimeError(f"[{port.name}] input size {feed.nbytes} is not equal to model size {port.size}")
        _check(acl.rt.set_context(self.context))
        datasets, owned = [acl.mdl.create_dataset() for _ in range(2)], []
        try:
            arrays = [np.ascontiguousarray(feed) for feed in feeds]
            outputs = [np.empty(port.shape, port.datatype) for port in self.get_outputs()]
            for dataset, some in zip(datasets, (arrays, outputs), strict=True):
                for array in some:
                    address, code = acl.rt.malloc(array.nbytes, 0)
                    _check(code)
                    buffer = acl.create_data_buffer(address, array.nbytes)
                    owned.append((address, buffer))
                    _check(acl.mdl.add_dataset_buffer(dataset, buffer)[1])
            for array, (address, _) in zip(arrays, owned, strict=False):
                _check(acl.rt.memcpy(address, array.nbytes, acl.util.numpy_to_ptr(array), array.nbytes, 1))
            _check(acl.mdl.execute(self.model, *datasets))
            for array, (address, _) in zip(outputs, owned[len(arrays) :], strict=True):
                _check(acl.rt.memcpy(acl.util.numpy_to_ptr(array), array.nbytes, address, array.nbytes, 2))
            return outputs
        finally:
            for address, buffer in owned:
                acl.destroy_data_buffer(buffer)
                acl.rt.free(address)
            for dataset in datasets:
                acl.mdl.destroy_dataset(dataset)

    def free_resource(self) -> None:
        """Give everything back."""
        acl.rt.set_context(self.context)
        acl.mdl.destroy_desc(self.desc)
        acl.mdl.unload(self.model)
        acl.rt.destroy_context(self.context)
        acl.rt.reset_device(self.device_id)

    def _ports(self, kind: str) -> list[Port]:
        def read(what: str, index: int) -> object:
            return getattr(acl.mdl, f"get_{kind}_{what}")(self.desc, index)

        count = getattr(acl.mdl, f"get_num_{kind}s")(self.desc)
        out = []
        for i in range(count):
            dims = read("dims", i)[0]  # type: ignore[index]
            dtype = acl.TYPES[read("data_type", i)]
            out.append(Port(dims["name"], dims["dims"], dtype, read("size_by_index", i)))
        return out


def _check(code: int) -> None:
    if code:
        raise RuntimeError(f"acl failed, ret={code}: {acl.get_recent_err_msg()}")
