"""`llmforge doctor`: what this machine has, and what llmforge misses on it.

In: nothing. Out: a text and whether everything a run needs is there. Nothing heavy is imported:
versions are read from package metadata, hardware from the driver.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
from pathlib import Path

from llmforge.compiler.facts.hardware import driver_version, probe_hardware
from llmforge.compiler.facts.versions import PACKAGES, installed_versions
from llmforge.compose import config_root
from llmforge.installed import installed_version
from llmforge.render import table
from llmforge.version import __version__

_NEEDED = {
    "torch": (2, 11),
    "transformers": (5, 17),
    "peft": (0, 21),
    "accelerate": (1, 15),
    "datasets": (5, 0),
}
_EXTRAS = {"bitsandbytes": "quantize", "deepspeed": "deepspeed"}
_FREE_GIB = 5.0


def examine() -> tuple[str, bool]:
    """The report, and whether a run can start here."""
    rows: list[tuple[str, str, str]] = []
    rows.append(("llmforge", __version__, f"conf in {config_root()}"))
    rows.append(("python", platform.python_version(), platform.platform()))
    machine = probe_hardware()
    rows.append(
        (
            "hardware",
            f"{machine['count']} x {machine['name']}",
            f"{machine['memory_gib']} GiB, {machine['cores']} cores"
            + (", bfloat16" if machine["bf16"] else ", no bfloat16"),
        )
    )
    healthy = True
    versions = installed_versions()
    for name in PACKAGES:
        found = versions.get(name)
        note = ""
        if name in _NEEDED and (found is None or _parsed(found) < _NEEDED[name]):
            healthy = False
            note = f"MISSING: needs {name} >= {'.'.join(map(str, _NEEDED[name]))}"
        elif found is None:
            if name not in _EXTRAS:
                continue
            note = f"optional: pip install 'llmforge[{_EXTRAS[name]}]'"
        rows.append((name, found or "-", note))
    if "mlflow" not in versions and "mlflow-skinny" not in versions:
        rows.append(("mlflow", "-", "runs are not recorded: use tracking=none"))
    rows += _scale(machine["device"] == "cuda", "deepspeed" in versions)
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    low = "LOW: checkpoints may not fit" if free < _FREE_GIB else ""
    rows.append(("disk", f"{free:.0f} GiB free", low))
    if not os.access(Path.cwd(), os.W_OK):
        healthy = False
        rows.append(("folder", "not writable", "runs are written below the working folder"))
    verdict = "ready" if healthy else "not ready: see MISSING above"
    return f"{table(rows, ('what', 'found', 'note'))}\n\n{verdict}", healthy


def _scale(cuda: bool, deepspeed: bool) -> list[tuple[str, str, str]]:
    """What several processes need: communication, a port to meet at, DeepSpeed's compiler."""
    rows = []
    if cuda:
        rows.append(("driver", driver_version() or "-", "of the GPUs"))
        nccl = next(filter(None, map(installed_version, _NCCL)), None)
        rows.append(("nccl", nccl or "-", "" if nccl else "within torch, or missing"))
    rows.append(("gloo", "within torch", "communication over the CPU"))
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 0))
            rows.append(("port", str(probe.getsockname()[1]), "free, for processes to meet at"))
        except OSError as error:
            rows.append(("port", "-", f"none to be had: {error.strerror}"))
    if deepspeed:
        needed = ("c++", "ninja", *(("nvcc",) if cuda else ()))
        tools = [tool for tool in needed if shutil.which(tool)]
        missing = set(needed) - set(tools)
        note = "builds its kernels at first use"
        if missing:
            note = f"cannot build its kernels (offload): no {', '.join(sorted(missing))}"
        rows.append(("deepspeed build", ", ".join(tools) or "-", note))
    return rows


_NCCL = ("nvidia-nccl-cu13", "nvidia-nccl-cu12")


def _parsed(version: str) -> tuple[int, ...]:
    """Leading numbers of a version, enough to compare major and minor."""
    numbers = []
    for part in version.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
