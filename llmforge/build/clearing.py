"""A process between two runs: what the first one left behind, put back or told.

In: a process that has imported the libraries and run nothing. Out: `Slate`, which after each run
puts the process back to that state, and says what it could not put back; then the process must not
be used again. The weights of the base are the shelf's affair (`bases.py`), and random number
generators are set by every run itself.

This module does not start or end processes.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from llmforge.build.bases import Shelf

GPU_SLACK = 256 * 2**20
"""Bytes that may stay allocated on a GPU beside the base: work space of its libraries."""

MAIN_SLACK = 2 * 2**30
"""Bytes by which main memory may have grown since the first run."""

MORE_THREADS = 16
"""Threads that may be left since the first run."""

PATIENCE = 5.0
"""Seconds that threads of a closed tracker get to end."""


class Slate:
    """The state of this process before its first run."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._environment = dict(os.environ)
        self._folder = Path.cwd()
        self._path = list(sys.path)
        self._argv = list(sys.argv)
        self._filters = list(warnings.filters)
        self._settings = settings()
        self._first: tuple[int, int] | None = None
        # what the libraries hold is there to stay, and need not be looked through after each run
        gc.collect()
        gc.freeze()

    def begin(self) -> None:
        """Before a run: peaks are measured from here."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def clear(self) -> str | None:
        """After a run: put back what can be.

        Returns:
            Why this process must not run another one, or None.
        """
        self._put_back()
        gc.collect()
        return self._threads() or self._children() or self._shelf.fault() or self._memory()

    def _put_back(self) -> None:
        os.environ.clear()
        os.environ.update(self._environment)
        os.chdir(self._folder)
        sys.path[:], sys.argv[:] = self._path, self._argv
        filters: Any = warnings.filters  # a list, typed as any sequence
        filters[:] = self._filters
        for name, (_, change) in _SETTINGS.items():
            if settings()[name] != self._settings[name]:
                change(self._settings[name])
        forget_libraries()

    def _threads(self) -> str | None:
        """The tracker's thread writes to a run; it must be gone before the next one."""
        deadline = time.monotonic() + PATIENCE
        while any(one.name.startswith("mlflow") for one in threading.enumerate()):
            if time.monotonic() > deadline:
                return "the trial's tracker has not ended"
            time.sleep(0.02)
        return None

    def _children(self) -> str | None:
        left = multiprocessing.active_children()
        return f"the trial left {len(left)} processes behind" if left else None

    def _memory(self) -> str | None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            left = torch.cuda.memory_allocated() - self._shelf.held_bytes()
            if left > GPU_SLACK:
                return f"the trial left {left / 2**20:.0f} MiB on the GPU"
        now = _main_memory(), threading.active_count()
        first = self._first = self._first or now
        if now[0] - first[0] > MAIN_SLACK:
            return f"main memory has grown by {(now[0] - first[0]) / 2**20:.0f} MiB"
        if now[1] - first[1] > MORE_THREADS:
            return f"{now[1] - first[1]} threads were left behind"
        return None


def settings() -> dict[str, Any]:
    """What is set for the whole process in torch."""
    return {name: read() for name, (read, _) in _SETTINGS.items()}


def forget_libraries() -> None:
    """Objects that libraries keep once a process, as if no run had been."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)  # noqa: SLF001 - what accelerate's own tests do between runs
    GradientState._reset_state()  # noqa: SLF001 - as above
    if "bitsandbytes" in sys.modules:
        from bitsandbytes.optim import GlobalOptimManager

        # it knows parameters by their `id`, which another run's may have
        GlobalOptimManager._instance = None  # noqa: SLF001 - it has no way to forget


def _main_memory() -> int:
    """Bytes of main memory that this process holds; 0 where the system does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _deterministic() -> tuple[bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


def _attribute(owner: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    return (lambda: getattr(owner, name)), (lambda value: setattr(owner, name, value))


_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "threads": (torch.get_num_threads, torch.set_num_threads),
    "deterministic algorithms": (
        _deterministic,
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
    "gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "filled memory": _attribute(torch.utils.deterministic, "fill_uninitialized_memory"),
    "cudnn": _attribute(torch.backends.cudnn, "enabled"),
    "cudnn benchmark": _attribute(torch.backends.cudnn, "benchmark"),
    "cudnn deterministic": _attribute(torch.backends.cudnn, "deterministic"),
    "format of float32": _attribute(torch.backends, "fp32_precision"),
    "format of products": _attribute(torch.backends.cuda.matmul, "fp32_precision"),
    "format of convolutions": _attribute(torch.backends.cudnn, "fp32_precision"),
    "flash attention": (
        torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp,
    ),
    "lean attention": (
        torch.backends.cuda.mem_efficient_sdp_enabled,
        torch.backends.cuda.enable_mem_efficient_sdp,
    ),
    "plain attention": (
        torch.backends.cuda.math_sdp_enabled, torch.backends.cuda.enable_math_sdp,
    ),
    "cudnn attention": (
        torch.backends.cuda.cudnn_sdp_enabled, torch.backends.cuda.enable_cudnn_sdp,
    ),
}  # fmt: skip
"""Setting -> how it is read and set."""
