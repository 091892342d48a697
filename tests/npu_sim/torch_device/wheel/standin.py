"""The real torch_npu wheel without CANN: its libraries by stand-ins, its kernels by those torch has for the CPU.

`cann.cpp` and `hccl.cpp` are the C symbols that torch_npu is linked against; memory of the device cannot be read from
the host. `kernels.cpp` runs every operator that torch_npu registers on the host's side of that memory. What stays
torch_npu's own: allocator, streams, copies, random generator, autocast lists, autograd formulas, serialization,
ProcessGroupHCCL and its Python. What comes out is "torch_npu over a stand-in of CANN", never "Ascend".

Tied to torch_npu 2.13. Environment: NPUSIM_BUILD (folder of what is compiled), FAKECANN_DEVICES, FAKECANN_MEM_MB,
FAKECANN_SOC.
"""

import ctypes
import fcntl
import hashlib
import importlib.util
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LINKED = ("acl_op_compiler", "ge_runner", "graph", "acl_tdt_channel")  # torch_npu wants them, and calls none here
# What must stay torch_npu's own: it makes, copies or looks at memory of the device.
KEPT = {
    *("_local_scalar_dense", "copy_", "_to_copy", "empty_like", "new_empty_strided", "empty.memory_format"),
    *("empty_strided", "empty_with_format", "unsafe_empty_with_format", "empty_with_swapped_memory", "resize_"),
    *("resize_as_", "set_", "set_.source_Storage", "set_.source_Tensor", "set_.source_Storage_storage_offset"),
    *("is_set_to", "_copy_from_and_resize", "record_stream", "_pin_memory", "is_pinned", "flatten_dense_tensors"),
    *("view", "as_strided", "as_strided_", "_reshape_alias", "unfold", "view_as_real", "view_as_complex"),
    *("_has_compatible_shallow_copy_type", "get_storage_size", "copy_memory_"),
}
BY_HAND = ("convolution_overrideable", "convolution_backward_overrideable")  # in kernels.cpp
_libraries: list[Any] = []  # torch forgets kernels whose library is collected


def load_libraries() -> None:
    """Put the stand-ins where torch_npu's libraries find their symbols: under their own names, in this process."""
    folder = _folder("cann", HERE / "cann.cpp", HERE / "hccl.cpp")
    with _once(folder) as is_new:
        if is_new:
            _library(folder, "ascendcl", HERE / "cann.cpp", "-lpthread")
            _library(folder, "hccl", HERE / "hccl.cpp", "-lascendcl", "-lrt")
            empty = folder / "empty.cpp"
            empty.write_text("\n")
            for name in LINKED:
                _library(folder, name, empty, "-Wl,--no-as-needed", "-lascendcl")
    for name in ("runtime", "compiler", "opp"):  # torch_npu looks whether they are there
        (folder / name).mkdir(exist_ok=True)
    os.environ["ASCEND_HOME_PATH"] = str(folder)  # as CANN's set_env.sh does; without, torch_npu prints a warning
    os.environ["ASCEND_OPP_PATH"] = str(folder / "opp")
    for name in ("ascendcl", "hccl", *LINKED):
        ctypes.CDLL(str(folder / f"lib{name}.so"), mode=ctypes.RTLD_GLOBAL)


def replace_kernels() -> None:
    """Every operator that torch_npu registered and the CPU knows runs on the host from now on."""
    native = _kernels()
    names = [name[len("aten::") :] for name in sorted(native.native_ops()) if name.startswith("aten::")]
    wanted = [
        n
        for n in names
        if n not in KEPT and (n in BY_HAND or native.has_cpu(f"aten::{n.partition('.')[0]}", n.partition(".")[2]))
    ]
    with _quiet():  # torch warns of every kernel that is replaced
        native.override_ops([f"aten::{name}" for name in wanted])
        _implement(native)


def _kernels() -> Any:
    import torch
    from torch.utils import cpp_extension

    name = "_npu_kernels"
    cann = _folder("cann", HERE / "cann.cpp", HERE / "hccl.cpp")
    folder = _folder("kernels", HERE / "kernels.cpp", key=torch.__version__)
    with _once(folder) as is_new:
        if is_new:
            paths = [*cpp_extension.include_paths(), sysconfig.get_paths()["include"]]
            command = [
                *(_compiler(), "-O1", "-std=c++20", "-fPIC", "-shared", "-w", str(HERE / "kernels.cpp")),
                *(
                    "-o",
                    str(folder / f"{name}.so"),
                    f"-DTORCH_EXTENSION_NAME={name}",
                    "-DTORCH_API_INCLUDE_EXTENSION_H",
                ),
                *(f"-I{path}" for path in paths),
                f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}",
                *(f"-L{path}" for path in (*cpp_extension.library_paths(), cann)),
                *("-lc10", "-ltorch", "-ltorch_cpu", "-ltorch_python", "-lascendcl"),
            ]
            _run(command)
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.so")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _implement(native: Any) -> None:
    """Operators of torch_npu's own that attention and autograd reach, with the meaning its documents give them."""
    import torch

    host = native.host_alias

    def back(value: Any, like: Any) -> Any:
        return torch.empty(value.shape, dtype=value.dtype, device=like.device).copy_(value)

    def derivatives(function: Callable[..., Any], grad: Any, inputs: Any, mask: Any = None) -> list[Any]:
        with torch.inference_mode(False), torch.enable_grad():
            leaves = [host(value).detach().clone() for value in inputs]
            wanted = [i for i in range(len(leaves)) if mask is None or mask[i]]
            for i in wanted:
                leaves[i].requires_grad_()
            found = torch.autograd.grad(function(*leaves), [leaves[i] for i in wanted], host(grad))
        by_place = dict(zip(wanted, found, strict=True))
        return [back(by_place[i], grad) if i in by_place else None for i in range(len(leaves))]

    def matmul_backward(grad: Any, left: Any, right: Any, mask: Any) -> Any:
        return tuple(derivatives(torch.matmul, grad, (left, right), mask))

    def unseen(q: Any, k: Any, mask: Any, sparse_mode: int) -> Any:
        """Where nothing is seen; modes 2 and 3 are causal from the upper left and the lower right corner."""
        if sparse_mode not in (2, 3):
            return None if mask is None else host(mask).bool()
        queries, keys = q.shape[-2], k.shape[-2]
        offset = keys - queries if sparse_mode == 3 else 0
        return torch.arange(keys)[None] > torch.arange(queries)[:, None] + offset

    def attention(q: Any, k: Any, v: Any, heads: int, hidden: Any, scale: float, keep: float, seed: int) -> Any:
        """softmax(scale QKᵀ) V over [B, N, S, D]; what is not dropped counts 1 / keep times."""
        if k.shape[1] != heads:
            k, v = (value.repeat_interleave(heads // value.shape[1], 1) for value in (k, v))
        scores = (q.float() @ k.float().transpose(-1, -2)) * scale
        if hidden is not None:
            scores = scores.masked_fill(hidden, torch.finfo(torch.float32).min)
        weights = torch.softmax(scores, -1)
        if keep < 1.0:
            weights = weights * (torch.rand(weights.shape, generator=torch.Generator().manual_seed(seed)) < keep) / keep
        return (weights @ v.float()).to(q.dtype)

    def only_bnsd(layout: str) -> None:
        if layout != "BNSD":
            raise NotImplementedError(f"the stand-in computes fused attention of layout BNSD, not {layout}")

    def fused(
        query: Any, key: Any, value: Any, head_num: int, input_layout: str, pse: Any = None, padding_mask: Any = None,
        atten_mask: Any = None, scale: float = 1.0, keep_prob: float = 1.0, pre_tockens: int = 0, next_tockens: int = 0,
        inner_precise: int = 0, prefix: Any = None, actual_seq_qlen: Any = None, actual_seq_kvlen: Any = None,
        sparse_mode: int = 0, *rest: Any, **more: Any,
    ) -> Any:  # fmt: skip
        only_bnsd(input_layout)
        seed = int(host(torch.randint(2**31, (1,), device=query.device)).item()) if keep_prob < 1.0 else 0
        hidden = unseen(query, key, atten_mask, sparse_mode)
        out = attention(host(query), host(key), host(value), head_num, hidden, scale, keep_prob, seed)
        nothing = torch.empty(0, device=query.device)
        return back(out, query), nothing, nothing, nothing, seed

    def fused_v1(*given: Any, **named: Any) -> Any:
        *made, seed = fused(*given, **named)
        return (*made, seed, 0, 0)

    def fused_v3(*given: Any, **named: Any) -> Any:
        *made, seed = fused(*given, **named)
        return (*made, torch.tensor([seed]), torch.zeros(1, dtype=torch.int64))

    def fused_backward(
        query: Any, key: Any, value: Any, dy: Any, head_num: int, input_layout: str, *, atten_mask: Any = None,
        scale_value: float = 1.0, keep_prob: float = 1.0, sparse_mode: int = 0, seed: Any = 0, **more: Any,
    ) -> Any:  # fmt: skip
        only_bnsd(input_layout)
        hidden, start = unseen(query, key, atten_mask, sparse_mode), int(seed)

        def forward(q: Any, k: Any, v: Any) -> Any:
            return attention(q, k, v, head_num, hidden, scale_value, keep_prob, start)

        nothing = torch.empty(0, device=query.device)
        return (*derivatives(forward, dy.to(query.dtype), (query, key, value)), nothing, nothing)

    def rms_norm(x: Any, gamma: Any, epsilon: float = 1e-6) -> Any:
        scale = torch.rsqrt(host(x).float().pow(2).mean(-1, keepdim=True) + epsilon)
        return back((host(x).float() * scale * host(gamma).float()).to(x.dtype), x), back(scale, x)

    table = {
        "npu_fusion_attention": fused_v1,
        "npu_fusion_attention_v3": fused_v3,
        "npu_fusion_attention_grad": fused_backward,
        "npu_fusion_attention_grad_v3": fused_backward,
        "npu_rms_norm": rms_norm,
        "matmul_backward": matmul_backward,
    }
    for namespace in ("npu", "aten"):
        library = torch.library.Library(namespace, "IMPL", "PrivateUse1")
        _libraries.append(library)
        for name, function in table.items():
            if hasattr(getattr(torch.ops, namespace), name):
                library.impl(name, function, allow_override=True)


def _folder(name: str, *sources: Path, key: str = "") -> Path:
    """One folder for each text of the sources, Python and torch, so that a stale build is never loaded."""
    text = b"".join(source.read_bytes() for source in sources) + f"{sys.version}|{key}|{_compiler()}".encode()
    root = os.environ.get("NPUSIM_BUILD") or HERE.parents[3] / ".pytest_cache" / "d" / "npusim"
    folder = Path(root).resolve() / f"{name}-{hashlib.sha256(text).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _once(folder: Path) -> Any:
    """Processes that start together compile once; yields whether this one has to."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        is_new = not (folder / "done").exists()
        yield is_new
        (folder / "done").touch()


def _library(folder: Path, name: str, source: Path, *options: str) -> None:
    target = folder / f"lib{name}.so"
    command = [_compiler(), "-std=c++17", "-O1", "-fPIC", "-shared", "-w", "-o", str(target), str(source)]
    _run([*command, f"-Wl,-soname,lib{name}.so", f"-L{folder}", *options])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the stand-in of CANN does not compile:\n{done.stderr[-3000:]}")


def _compiler() -> str:
    return os.environ.get("CXX") or "g++"


@contextmanager
def _quiet() -> Any:
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
