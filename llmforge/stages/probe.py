"""Probe: what each process of a plan finds where it is started, and how fast they talk.

In: a plan and a run folder. Out: `probe.json` in it, by rank 0: for each rank its host, versions,
GPUs, driver, device, room on the disks, whether it sees the run folder of rank 0, clock, and the
bandwidth of an all-reduce. Nothing is loaded or trained.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from pathlib import Path
from typing import Any

from llmforge.plan import Plan
from llmforge.run.folder import RunFolder
from llmforge.run.starting.agreement import compare, gather, join, own_facts, sees
from llmforge.run.starting.ranks import world_size

RECORD = "probe.json"
ALIKE = ("driver", "nccl", "gpus")
"""What nodes must have alike, besides plan and versions."""

_ELEMENTS = 2**22
"""Numbers of four bytes in the tensor that is summed: 16 MiB, a usual bucket of gradients."""

_ROUNDS = 5

_PATIENCE = 180
"""Seconds that processes wait for one another here: a network that lets nothing through should not
take the half hour that training allows."""


def probe(plan: Plan, run: RunFolder) -> None:
    """Look around, sum a tensor over all ranks, and let rank 0 write down what all found."""
    many = world_size()
    if many > 1:
        join(plan, _PATIENCE)
    own = own_facts(plan) | _machine(plan, run) | _sum(many)
    own["shared"] = sees(run) if many > 1 else True
    found = gather(own) if many > 1 else [own]
    if int(os.environ.get("RANK", "0")) == 0:
        clock = found[0]["clock"]
        for told in found:
            told["clock_offset"] = round(told.pop("clock") - clock, 3)
        report = {"ranks": found, "differences": list(compare(found, ALIKE))}
        run.write_json(RECORD, report)


def _machine(plan: Plan, run: RunFolder) -> dict[str, Any]:
    import torch

    from llmforge.compiler.facts.hardware import driver_version

    here = Path(plan.settings["paths"]["cache"])
    while not here.exists() and here != here.parent:
        here = here.parent
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available() and plan.settings["hardware"]["device"] == "cuda"
    return {
        "device": torch.cuda.get_device_name(local) if cuda else "cpu",
        "memory_bytes": torch.cuda.get_device_properties(local).total_memory if cuda else None,
        "gpus": torch.cuda.device_count() if cuda else 0,
        "driver": driver_version() if cuda else None,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if cuda else None,
        "platform": platform.platform(),
        "free_runs_bytes": shutil.disk_usage(run.path).free,
        "free_cache_bytes": shutil.disk_usage(here).free,
    }


def _sum(many: int) -> dict[str, Any]:
    """An all-reduce, timed; bytes per second that each rank sends and receives in a ring."""
    if many == 1:
        return {"clock": time.time(), "bandwidth": None}
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if "nccl" not in str(torch.distributed.get_backend()) and device == "cuda":
        device = "cpu"
    numbers = torch.ones(_ELEMENTS, device=device)
    torch.distributed.all_reduce(numbers)
    if not bool((numbers == many).all()):
        raise RuntimeError(f"an all-reduce of ones over {many} ranks gave {numbers[0].item()}")
    torch.distributed.barrier()
    clock, began = time.time(), time.perf_counter()
    for _ in range(_ROUNDS):
        torch.distributed.all_reduce(numbers)
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - began) / _ROUNDS
    moved = 2 * (many - 1) / many * numbers.numel() * numbers.element_size()
    return {"clock": clock, "bandwidth": moved / seconds}
