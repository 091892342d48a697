"""`zhiyin doctor`: the report as tables on a terminal, as plain lines elsewhere, or as JSON."""

import io
import json
import shutil
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

import zhiyin
from zhiyin.deploy.doctor import Report, examine

Rows = list[tuple[str, ...]]
_MEND = "mend: "


def run(*, as_json: bool, terminal: bool) -> tuple[str, int]:
    """Examine this machine.

    Returns:
        What to print, and the exit code: 1 if something has to be mended.
    """
    report = examine()
    code = 0 if report.is_fine else 1
    if as_json:
        record = {"zhiyin": zhiyin.__version__, **report.to_record()}
        return json.dumps(record, ensure_ascii=False, indent=1) + "\n", code
    return (tables(report, shutil.get_terminal_size().columns) if terminal else plain(report)), code


def plain(report: Report) -> str:
    """One block of lines per section, for logs and pipes."""
    blocks = []
    for title, _, rows in _sections(report):
        blocks.append("\n".join([title, *(f"  {_line(row)}" for row in rows)]))
    return "\n\n".join(blocks) + "\n"


def tables(report: Report, width: int) -> str:
    """The same with colours, as wide as the terminal."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, highlight=False)
    for title, columns, rows in _sections(report):
        table = Table(title=title, title_justify="left", title_style="bold", show_header=bool(columns), expand=False)
        for i, column in enumerate(columns or [""] * max(len(row) for row in rows)):
            table.add_column(column, overflow="fold", style="bold" if i == 0 else None)
        for row in rows:
            table.add_row(*row, style={"problem": "red", "note": "yellow"}.get(row[0]))
        console.print(table)
    return out.getvalue()


def _line(row: Sequence[str]) -> str:
    return "  ".join(part for part in row if part).replace(f"  {_MEND}", f"\n    {_MEND}")


def _sections(report: Report) -> Iterator[tuple[str, list[str], Rows]]:
    yield "machine", [], _machine(report)
    yield "software", [], _software(report)
    yield "environment", [], list(report.host.environment.items()) or [("nothing that matters is set",)]
    devices: Rows = [
        (d.name, d.title, f"{_gib(d.free_bytes)} of {_gib(d.total_bytes)} GiB free", d.health, ", ".join(d.seen_by))
        for d in report.devices
    ]
    yield "devices", ["device", "name", "memory", "health", "seen by"], devices
    choices: Rows = [(c.backend, c.device or "cannot run", c.reason) for c in report.choices]
    yield "with --device auto", ["backend", "device", "why"], choices
    if report.problems:
        rows: Rows = [(p.level, p.what, f"{_MEND}{p.fix}") for p in report.problems]
        yield "to mend" if not report.is_fine else "to know", ["", "what", "how"], rows
    else:
        yield "result", [], [("fine", "nothing to mend")]


def _machine(report: Report) -> Rows:
    host, cpu = report.host, report.host.cpu
    cores = f"{cpu.logical} threads, {cpu.physical or '?'} cores, {cpu.usable} usable here"
    rows: Rows = [
        ("system", host.system + (f" in a container ({host.container})" if host.container else "")),
        ("processor", f"{cpu.model} ({cpu.arch}); {cores}"),
        ("instruction sets", " ".join(cpu.isa) or "none that matter"),
        ("memory", f"{_gib(host.memory.free_bytes)} of {_gib(host.memory.total_bytes)} GiB free"),
    ]
    rows += [(f"NUMA node {n.node}", f"cores {n.cpus}, {_gib(n.memory_bytes)} GiB") for n in cpu.numa_nodes]
    return rows


def _software(report: Report) -> Rows:
    rows: Rows = [(name, version) for name, version in report.versions.items()]
    probe = report.probes["onnxruntime"]
    rows.append(("onnxruntime has", " ".join(probe.facts.get("providers", ())) or probe.fault or "not installed"))
    for name in ("torch", "torch_npu", "acl"):
        probe = report.probes[name]
        rows.append((f"import {name}", probe.fault or ("works" if probe.installed else "not installed")))
    ascend = report.ascend
    if ascend.cann_folder:
        state = "in use" if ascend.sourced else "not sourced"
        rows.append(("CANN", f"{ascend.cann_version or 'version not said'} in {ascend.cann_folder} ({state})"))
    if ascend.driver_version:
        rows.append(("Ascend driver", f"{ascend.driver_version}, firmware {ascend.firmware_version or 'not said'}"))
    if ascend.device_files:
        rows.append(("device files", " ".join(ascend.device_files)))
    for match in report.matches:
        fits = {True: "fits", False: "does not fit", None: "not known to fit"}[match.fits]
        rows.append((match.pair, f"{fits}; wanted: {match.wanted} ({match.source})"))
    return rows


def _gib(count: int | None) -> str:
    return "?" if count is None else f"{count / 2**30:.1f}"
