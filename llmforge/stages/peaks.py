"""The most memory that each process took, beside what the plan foretold.

In: a plan, at the end of a stage, in every process. Out: `Peak` of this process; of all of them,
in the order of ranks, the rows of `memory_by_rank` in `result.json`. On a GPU it is what PyTorch
had allocated on the device, which the plan foretells; on a CPU what was resident in main memory,
libraries and data among it, so that no error is told.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmforge.plan import Plan
from llmforge.run import outcome
from llmforge.run.starting.agreement import gather
from llmforge.run.starting.ranks import world_size

ALLOCATED, RESIDENT = "allocated", "resident"


@dataclass(frozen=True)
class Peak:
    """Of one process, since it was started."""

    rank: int
    host: str
    kind: str
    """`allocated` on a GPU, or `resident` in main memory."""
    measured_bytes: int


def own_peak() -> Peak:
    """Of this process."""
    device = peak_memory()
    kind, amount = (RESIDENT, _resident()) if device is None else (ALLOCATED, device)
    return Peak(int(os.environ.get("RANK", "0")), platform.node(), kind, amount)


def peaks() -> list[Peak]:
    """Of every process; all of them must ask together."""
    own = asdict(own_peak())
    return [Peak(**told) for told in (gather(own) if world_size() > 1 else [own])]


def beside(plan: Plan, found: list[Peak]) -> list[dict[str, Any]]:
    """A row for each rank: what was foretold too, and on a GPU the error of that."""
    rows = []
    for peak in found:
        told = outcome.memory(plan, peak.measured_bytes)
        if peak.kind == RESIDENT:
            told.pop("error", None)
        rows.append({**asdict(peak), **told})
    return rows


def peak_memory() -> int | None:
    """Highest memory allocated on the GPU; None on a CPU."""
    import torch

    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else None


def _resident() -> int:
    """Highest resident memory, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        found = next(line for line in lines if line.startswith("VmHWM:"))
        return int(found.split()[1]) * 1024
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
