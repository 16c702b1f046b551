"""The machine at hand, looked up without torch.

In: nothing but the machine. Out: the fields of a `hardware` section. GPUs are asked of the
driver's own tool; a machine without it is a CPU. What a GPU of a generation can do is read off its
compute capability. Describing another machine is the business of `conf/hardware/`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

_QUERY = ("--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits")
_TIMEOUT_S = 10.0


def probe_hardware() -> dict[str, Any]:
    """Fields of the `device` kind of the `hardware` section, for this machine."""
    return _gpus() or _cpu()


def _gpus() -> dict[str, Any] | None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        told = subprocess.run(
            [tool, *_QUERY], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        ).stdout
    except (subprocess.SubprocessError, OSError):
        return None  # a driver that does not answer cannot train either
    rows = [[cell.strip() for cell in line.split(",")] for line in told.splitlines() if line]
    visible = _visible(len(rows))
    rows = [row for index, row in enumerate(rows) if index in visible and len(row) == 3]
    if not rows:
        return None
    name, memory_mib, capability = rows[0]
    return {
        "device": "cuda",
        "name": name,
        "count": len(rows),
        "memory_gib": round(float(memory_mib) / 1024, 1),
        "compute_capability": capability,
        "bf16": has_bf16(capability),
        "cores": _cores(),
    }


def _visible(count: int) -> set[int]:
    """Indices left over by CUDA_VISIBLE_DEVICES (device numbers only; UUIDs count as all)."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return set(range(count))
    parts = [part.strip() for part in chosen.split(",") if part.strip()]
    if not all(part.isdigit() for part in parts):
        return set(range(count)) if any(not part.startswith("-") for part in parts) else set()
    return {int(part) for part in parts}


def has_bf16(compute_capability: str) -> bool:
    """bfloat16 tensor cores came with compute capability 8.0 (Ampere)."""
    return int(compute_capability.partition(".")[0]) >= 8


def _cpu() -> dict[str, Any]:
    return {
        "device": "cpu",
        "name": "cpu",
        "count": 1,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "compute_capability": None,
        "bf16": True,
        "cores": _cores(),
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def driver_version() -> str | None:
    """Version of the GPU driver; None where it does not answer, or there is none."""
    try:
        told = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],  # noqa: S607 - the driver's own tool
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return told.splitlines()[0].strip() if told.strip() else None
