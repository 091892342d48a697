"""Python runs this at its start wherever this folder is on PYTHONPATH: torch_npu gets CANN's stand-in beneath it.

The libraries are loaded before anything else, as `set_env.sh` would make them findable; once torch_npu is imported, its
kernels are replaced (`standin.py`). Child processes inherit PYTHONPATH, so they run alike.
"""

import importlib.machinery
import os
import sys
from collections.abc import Sequence
from types import ModuleType

import standin


class _AfterTorchNpu:
    """Finds torch_npu as usual, and has its kernels replaced when it has been imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "torch_npu":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            standin.replace_kernels()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


os.environ["TASK_QUEUE_ENABLE"] = "0"  # kernels on the host would race with torch_npu's asynchronous queue
os.environ.setdefault("HCCL_CONNECT_TIMEOUT", "60")
standin.load_libraries()
sys.meta_path.insert(0, _AfterTorchNpu())
