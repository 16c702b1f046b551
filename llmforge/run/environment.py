"""The surroundings of a run: what a worker's environment is set to, and what it found.

In: a plan and this process's environment. Out: environment variables for worker processes, and
the content of `environment.json`. Values of variables are recorded from a short list of harmless
ones only; everything else, secrets first of all, never leaves the process.

Imports no library whose version it reports.
"""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import llmforge
from llmforge.origins import leaves
from llmforge.plan import Plan

DRIVER_PID = "LLMFORGE_DRIVER_PID"
ATTEMPT = "LLMFORGE_ATTEMPT"
QUIET = "LLMFORGE_QUIET"
PREVIEW = "LLMFORGE_PREVIEW"
APART = "LLMFORGE_APART"
"""Set where nodes have run folders of their own, which the launcher keeps alike."""

_ALWAYS = {
    "PYTHONHASHSEED": "0",  # the order of sets must not differ between attempts
    "PYTHONUNBUFFERED": "1",  # a killed process loses none of its output
    "PYTHONSAFEPATH": "1",  # a `random.py` in the user's folder is not Python's
    "TOKENIZERS_PARALLELISM": "false",  # warns, and deadlocks after a fork, otherwise
    # bars of libraries would fill the log with carriage returns; ours is drawn elsewhere
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "MPLBACKEND": "Agg",
    # nothing phones home, and nothing records by itself
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
_UNLESS_SET = {
    # a tracking server that is down must be noticed soon: our own thread tries again, for ever
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # Threads that wait by spinning starve the one they wait for when cores are shared. A small
    # model on two cores, milliseconds a step: 79 with this and 69 to 95 without on free cores;
    # 163 with and 4,500 without when another process keeps one of them busy.
    "GOMP_SPINCOUNT": "1000",
}
_ALLOCATOR = "PYTORCH_ALLOC_CONF"
_OLD_ALLOCATOR = "PYTORCH_CUDA_ALLOC_CONF"
_PACKAGES = (
    *("llmforge", "torch", "transformers", "peft", "accelerate", "datasets", "tokenizers"),
    *("safetensors", "huggingface-hub", "numpy", "mlflow", "bitsandbytes", "deepspeed", "ray"),
)
_HARMLESS = (
    *("CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "OMP_NUM_THREADS", "PYTHONHASHSEED"),
    *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "NCCL_DEBUG", "NCCL_P2P_DISABLE"),
    *(
        "HF_HOME",
        "HF_HUB_OFFLINE",
        "GOMP_SPINCOUNT",
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "SLURM_JOB_ID",
    ),
    *("TOKENIZERS_PARALLELISM", "TORCHELASTIC_RESTART_COUNT"),
)
_SECRET = re.compile(r"^env:([A-Za-z_][A-Za-z0-9_]*)$")


def worker_environment(plan: Plan, attempt: int, quiet: bool = False) -> dict[str, str]:
    """Environment variables of the worker processes."""
    found = {key: value for key, value in os.environ.items() if not key.startswith("HYDRA_")}
    found |= _ALWAYS
    found |= {key: value for key, value in _UNLESS_SET.items() if key not in found}
    if not {_ALLOCATOR, _OLD_ALLOCATOR}.intersection(found):
        # blocks that grow in place: logits of another length leave no holes behind, so that what
        # the memory sheet foretells is nearly all that the device must have
        found[_ALLOCATOR] = "expandable_segments:True"
    found |= {DRIVER_PID: str(os.getpid()), ATTEMPT: str(attempt), QUIET: "1" if quiet else ""}
    found |= _threads(plan)
    found |= {name: value for name, value in _from_file(plan).items() if not found.get(name)}
    if plan.settings["deterministic"]:
        found.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if plan.settings["launch"]["kind"] == "local":
        # one process on one device: seeing several, the Trainer would spread over them by threads
        found["CUDA_VISIBLE_DEVICES"] = found.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        if plan.settings["deepspeed"]["kind"] != "none":
            found |= _group_of_one()
    root = Path(llmforge.__file__).resolve().parent.parent
    if root.name not in ("site-packages", "dist-packages"):
        # a plain checkout: the worker finds the package where the driver did
        found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), found.get("PYTHONPATH")]))
    return found


def forwarded(plan: Plan) -> list[str]:
    """Variables of a worker's environment that go along to other machines.

    Not the path of programs, nor anything else that is true of one machine only.
    """
    own = (*_ALWAYS, *_UNLESS_SET, ATTEMPT, QUIET, PREVIEW, _ALLOCATOR, "CUBLAS_WORKSPACE_CONFIG")
    return [*own, "OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HUB_OFFLINE", *secret_names(plan)]


def _group_of_one() -> dict[str, str]:
    """What a launcher would set for a single process: DeepSpeed joins a process group even alone,
    and asks MPI for one when nobody named it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _threads(plan: Plan) -> dict[str, str]:
    """Threads per process: as the plan says; else what the user's environment says; else even."""
    launch = plan.settings["launch"]
    wanted = int(launch["threads"])
    if not wanted and os.environ.get("OMP_NUM_THREADS"):
        return {}
    per_node = max(1, int(launch["processes"]) // int(launch.get("nodes") or 1))
    # on other machines the cores are those that were claimed there
    there = {"ray": launch.get("cpus"), "slurm": int(launch.get("cpus") or 1) // per_node}
    each = wanted or max(1, int(there.get(launch["kind"]) or cores() // per_node))
    return {"OMP_NUM_THREADS": str(each), "MKL_NUM_THREADS": str(each)}


def cores() -> int:
    """CPU cores this process may use: affinity, and the control group's quota when there is one."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return found or 1
    limit = found if quota == "max" else int(quota) // int(period)
    return max(1, min(found or 1, limit or 1))


def secret_names(plan: Plan) -> list[str]:
    """Environment variables that the plan names as holders of secrets."""
    texts = [value for _, value in leaves(plan.settings) if isinstance(value, str)]
    return sorted({match[1] for text in texts if (match := _SECRET.match(text))})


def secret(reference: str | None, plan: Plan | None = None) -> str | None:
    """The value behind `env:NAME`; None when the reference or the variable is missing.

    With a plan, its file `paths.env_file` is looked into when the environment has no such variable.
    """
    match = _SECRET.match(reference or "")
    if match is None:
        return None
    return os.environ.get(match[1]) or (_from_file(plan).get(match[1]) if plan else None)


def _from_file(plan: Plan) -> dict[str, str]:
    """Variables of `paths.env_file` that the plan names as secrets; no others leave the file.

    A file that is missing or cannot be read holds none. Nothing in it is expanded or run.
    """
    place = plan.settings["paths"].get("env_file")
    names = secret_names(plan)
    if not place or not names or not Path(place).is_file():
        return {}
    from dotenv import dotenv_values

    try:
        found = dotenv_values(place, interpolate=False, encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}  # whoever needs the variable says that it is not set
    return {name: value for name in names if (value := found.get(name))}


def scrub(text: str, plan: Plan) -> str:
    """The text with the values of the plan's secrets blotted out."""
    return blotted(text, secret_values(plan))


def secret_values(plan: Plan) -> dict[str, str]:
    """Name -> value of the plan's secrets that are known here and long enough to be told apart."""
    filed = _from_file(plan)
    found = {name: os.environ.get(name) or filed.get(name) for name in secret_names(plan)}
    return {name: value for name, value in found.items() if value and len(value) >= 4}


def blotted(text: str, secrets: Mapping[str, str]) -> str:
    """The text with a name in the place of each value."""
    for name, value in secrets.items():
        text = text.replace(value, f"<{name}>")
    return text


def describe(plan: Plan, hardware: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Content of `environment.json`.

    Args:
        plan: what runs.
        hardware: what the worker found on the machine (device names, memory).
    """
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "host": platform.node(),
        "packages": versions(),
        "git": git(Path.cwd()),
        "hardware": {
            "plan": plan.settings["hardware"],
            "found": {"cores": cores()} | dict(hardware or {}),
        },
        "working_folder": str(Path.cwd()),
        "argv": sys.argv,
        "overrides": plan.overrides,
        "environment": {key: os.environ[key] for key in _HARMLESS if key in os.environ},
        "secrets": {name: name in os.environ for name in secret_names(plan)},
    }


def versions() -> dict[str, str]:
    """Installed versions of the packages that decide what a run does."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"llmforge": llmforge_version(), **found}


def llmforge_version() -> str:
    """This package's version, also in a checkout that was never installed."""
    from llmforge.version import __version__

    return __version__


def git(folder: Path) -> dict[str, Any] | None:
    """Commit of a working copy and whether it holds changes; None outside one."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *arguments],  # noqa: S607 - the user's own git
            capture_output=True,
            text=True,
            timeout=5,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
