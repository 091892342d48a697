"""What can be wrong with a machine, and the command that mends it. A rule is a function of the facts."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from zhiyin.deploy.doctor_ascend import GROUP, HOME_VARIABLES, MANAGERS, Ascend
from zhiyin.deploy.doctor_host import Host
from zhiyin.deploy.doctor_probe import Probe
from zhiyin.deploy.doctor_versions import Match

_BUSY = 0.1  # a device with less of its memory free is used by someone else
_LOW_BYTES = 500 * 2**20  # the pocket model and its process need about 300 MiB
_AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"
_VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"
# What a container needs of the host (vllm-ascend, installation).
_DOCKER = (
    "docker run --device /dev/davinci0 "
    + " ".join(f"--device /dev/{name}" for name in MANAGERS)
    + " -v /usr/local/dcmi:/usr/local/dcmi:ro -v /usr/local/bin/npu-smi:/usr/local/bin/npu-smi:ro"
    " -v /usr/local/Ascend/driver:/usr/local/Ascend/driver:ro -v /etc/ascend_install.info:/etc/ascend_install.info:ro"
)


@dataclass(frozen=True)
class Problem:
    """Something to mend, or to know.

    Attributes:
        id: stays the same from version to version, e.g. ``cann-not-sourced``.
        level: ``problem`` or ``note``.
        what: what was seen.
        fix: a command, or what to do.
    """

    id: str
    level: str
    what: str
    fix: str


@dataclass(frozen=True)
class Facts:
    """What the rules look at; `memory` is (free, total) bytes by device."""

    host: Host
    ascend: Ascend
    probes: Mapping[str, Probe]
    versions: Mapping[str, str]
    matches: tuple[Match, ...]
    has_gpu: bool
    memory: Mapping[str, tuple[int, int]]

    @property
    def has_npu(self) -> bool:
        """Whether an NPU is there, usable or not."""
        chips = self.ascend.smi.chips if self.ascend.smi else ()
        return bool(self.ascend.cards or self.ascend.npu_files or chips)


def find(facts: Facts) -> tuple[Problem, ...]:
    """All problems, then all notes."""
    found = [problem for rule in RULES for problem in rule(facts)]
    return tuple(sorted(found, key=lambda problem: problem.level != "problem"))


def _cann(facts: Facts) -> Iterator[Problem]:
    ascend = facts.ascend
    if ascend.cann_folder and not ascend.sourced:
        script = ascend.set_env or f"{ascend.cann_folder}/set_env.sh"
        what = f"CANN {ascend.cann_version} in {ascend.cann_folder} is not usable here: {HOME_VARIABLES[0]} is not set"
        yield Problem("cann-not-sourced", "problem", what, f"source {script}")
    acl = facts.probes["acl"]
    if acl.fault:
        fix = "npu-smi info" if ascend.sourced else "source set_env.sh of CANN first"
        yield Problem("acl-broken", "problem", f"pyACL does not work: {acl.fault}", fix)
    if facts.has_npu and not ascend.cann_folder:
        what = "an NPU is here, but no CANN: nothing can use it"
        yield Problem("cann-missing", "problem", what, "install the CANN toolkit and source its set_env.sh")


def _device_files(facts: Facts) -> Iterator[Problem]:
    ascend = facts.ascend
    smi_sees = bool(ascend.smi and ascend.smi.chips)
    if not ascend.npu_files and (ascend.cards or smi_sees or (ascend.driver_version and facts.host.container)):
        if facts.host.container:
            what = f"no /dev/davinci* in this container ({facts.host.container})"
            yield Problem("npu-not-visible", "problem", what, _DOCKER)
        else:
            what = f"{ascend.cards} NPU on the PCI bus, but no /dev/davinci*: the driver is not loaded"
            yield Problem("npu-not-visible", "problem", what, "install the Ascend driver and firmware, then reboot")
    missing = [name for name in MANAGERS if name not in ascend.device_files]
    if ascend.npu_files and missing:
        devices = " ".join(f"--device /dev/{name}" for name in missing)
        what = f"/dev/{', /dev/'.join(missing)} missing beside /dev/{ascend.npu_files[0]}"
        yield Problem("npu-managers-missing", "problem", what, f"docker run ... {devices}")
    if ascend.not_allowed:
        what = f"this user may not open /dev/{', /dev/'.join(ascend.not_allowed)}"
        fix = f"sudo usermod -aG {GROUP} $USER, then log in again"
        yield Problem("npu-not-allowed", "problem", what, fix)


def _smi(facts: Facts) -> Iterator[Problem]:
    smi = facts.ascend.smi
    if smi and smi.fault:
        fix = "dmesg | grep -i -e davinci -e devdrv; then reboot, or install the driver again"
        yield Problem("npu-smi-fails", "problem", f"npu-smi info fails: {smi.fault}", fix)
    for chip in smi.chips if smi else ():
        if chip.health != "OK":
            what = f"npu:{chip.index} ({chip.name}, card {chip.npu}): health {chip.health}"
            yield Problem("npu-unhealthy", "problem", what, f"npu-smi info -t health -i {chip.npu}")
    for node in facts.host.cpu.numa_nodes if len(facts.host.cpu.numa_nodes) > 1 else ():
        near = [f"npu:{chip.index}" for chip in (smi.chips if smi else ()) if chip.numa_node == node.node]
        if near:
            what = f"{' '.join(near)} on NUMA node {node.node}; from another node's cores times wander"
            fix = f"numactl --cpunodebind={node.node} --membind={node.node} zhiyin ..."
            yield Problem("numa", "note", what, fix)


def _torch(facts: Facts) -> Iterator[Problem]:
    torch, plug_in, plain = (facts.probes[name] for name in ("torch", "torch_npu", "autoload"))
    if torch.fault:
        fix = "pip install --force-reinstall 'zhiyin[train]'"
        yield Problem("torch-broken", "problem", f"import torch fails: {torch.fault}", fix)
        return
    if plain.fault or plug_in.fault:
        script = facts.ascend.set_env
        without = f"pip uninstall torch-npu, or export {_AUTOLOAD}=0 where there is no NPU"
        fix = f"source {script}" if script and not facts.ascend.sourced else without
        breaks = "and makes import torch fail" if plain.fault else "though import torch works"
        what = f"torch_npu is installed but does not load, {breaks}: {plug_in.fault or plain.fault}"
        yield Problem("torch-npu-broken", "problem", what, fix)
    elif plug_in.works and facts.host.environment.get(_AUTOLOAD) == "0":
        yield Problem("autoload-off", "problem", f"{_AUTOLOAD}=0 keeps torch_npu out", f"unset {_AUTOLOAD}")
    if plug_in.works and not plug_in.facts.get("devices") and facts.has_npu:
        what = "torch_npu loads, but has no device though an NPU is here"
        yield Problem("torch-npu-blind", "problem", what, f"npu-smi info; check /dev/davinci* and {_VISIBLE}")
    if torch.works and facts.has_npu and not plug_in.installed:
        version = str(torch.facts["version"]).split("+")[0]
        what = f"torch {torch.facts['version']} runs on the CPU though an NPU is here: torch_npu is missing"
        yield Problem("torch-without-npu", "problem", what, f"pip install torch-npu=={version}")
    if torch.works and facts.has_gpu and not torch.facts.get("devices"):
        built = torch.facts.get("built_for")
        what = f"torch {torch.facts['version']} does not see the GPU" if built else "a CPU build of torch beside a GPU"
        fix = "nvidia-smi; the driver may be too old for this build" if built else "install a CUDA build of torch"
        yield Problem("torch-without-gpu", "problem", what, fix)


def _onnxruntime(facts: Facts) -> Iterator[Problem]:
    probe = facts.probes["onnxruntime"]
    several = sorted(name for name in facts.versions if name.startswith("onnxruntime"))
    if len(several) > 1:
        wanted = "onnxruntime-cann" if facts.has_npu else "onnxruntime-gpu" if facts.has_gpu else "onnxruntime"
        fix = f"pip uninstall -y {' '.join(several)} && pip install {wanted}"
        what = f"{' and '.join(several)} overwrite each other"
        yield Problem("onnxruntime-twice", "problem", what, fix)
    if probe.fault:
        fix = "pip install --force-reinstall onnxruntime"
        if "onnxruntime-cann" in several:
            fix = "pip install 'numpy<2'; onnxruntime-cann is built for numpy 1"
        yield Problem("onnxruntime-broken", "problem", f"import onnxruntime fails: {probe.fault}", fix)
    for name, why in probe.facts.get("opens", {}).items():
        is_cann = name.startswith("CANN")
        if why:
            fix = (
                "source set_env.sh of CANN" if is_cann else "install the CUDA and cuDNN this onnxruntime was built for"
            )
            level = "problem" if (facts.has_npu if is_cann else facts.has_gpu) else "note"
            what = f"onnxruntime lists {name}, but it does not open: {why}"
            yield Problem("provider-does-not-open", level, what, fix)


def _versions(facts: Facts) -> Iterator[Problem]:
    for match in facts.matches:
        if match.fits is False:
            what = f"{match.pair} do not belong together"
            yield Problem("versions", "problem", what, f"use {match.wanted} ({match.source})")


def _environment(facts: Facts) -> Iterator[Problem]:
    known, usable = facts.host.environment, facts.host.cpu.usable
    threads = known.get("OMP_NUM_THREADS")
    if threads is not None and (not threads.isdigit() or not 0 < int(threads) <= usable):
        what = f"OMP_NUM_THREADS={threads}, but {usable} cores may be used"
        yield Problem("threads", "problem", what, f"export OMP_NUM_THREADS={usable}, or unset it")
    if known.get("ASCEND_LAUNCH_BLOCKING") == "1":
        what = "ASCEND_LAUNCH_BLOCKING=1 waits for every operator: for debugging only"
        yield Problem("launch-blocking", "note", what, "unset ASCEND_LAUNCH_BLOCKING")
    visible, count = known.get(_VISIBLE), len(facts.ascend.npu_files)
    if visible is not None and facts.has_npu:
        wrong = [word for word in visible.split(",") if not word.strip().isdigit()]
        if wrong:
            yield Problem("visible", "problem", f"{_VISIBLE}={visible} is no list of numbers", f"unset {_VISIBLE}")
        elif count and max(int(word) for word in visible.split(",")) >= count:
            what = f"{_VISIBLE}={visible}, but there are {count} NPUs, counted from 0"
            yield Problem("visible", "problem", what, f"export {_VISIBLE}=0")


def _memory(facts: Facts) -> Iterator[Problem]:
    for name, (free, total) in facts.memory.items():
        if name == "cpu" and free < _LOW_BYTES:
            what = f"{free / 2**20:.0f} MiB of memory are free; the smallest model needs about 300"
            yield Problem("memory", "problem", what, "end other programs, or give the container more")
        elif name != "cpu" and free < _BUSY * total:
            what = f"{name}: {free / 2**30:.1f} of {total / 2**30:.1f} GiB free; someone else uses it"
            yield Problem("device-busy", "note", what, "choose another with --device, or end what holds it")


RULES: tuple[Callable[[Facts], Iterator[Problem]], ...] = (
    _cann,
    _device_files,
    _smi,
    _torch,
    _onnxruntime,
    _versions,
    _environment,
    _memory,
)
