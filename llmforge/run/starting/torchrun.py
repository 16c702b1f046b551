"""torchrun, without its farewell: `python -m llmforge.run.starting.torchrun ARGUMENTS`.

In: torchrun's own arguments. Out: its exit code, 130 when a signal ended it. torchrun answers a
signal, and a rank that failed, with a page of traceback on the terminal; the ranks have said in
their logs what there is to say. A batch system's warnings, which it sends to every process of a
job, would end torchrun at once: they are left to the driver and the ranks.

When one rank has died, the others cannot save: they wait for it in a collective operation. They
get a few seconds, where torchrun would give them half a minute.
"""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from typing import Any

from llmforge.run.signals import WARNINGS
from llmforge.run.starting import ranks
from llmforge.run.starting.commands import WORKER

GRACE = 5
"""Seconds between SIGTERM and SIGKILL for ranks that outlived another."""

_THEIRS = 30
"""What torch gives them: the default of `PContext.close`."""


_LOUD = "torch.distributed.elastic"


def main(argv: list[str]) -> int:
    """See the module."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import PContext, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    for name in [name for name in logging.root.manager.loggerDict if name.startswith(_LOUD)]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # each has a level of its own
    for warning in WARNINGS:
        signal.signal(warning, signal.SIG_IGN)
    close = PContext.close

    def close_soon(self: Any, death_sig: Any = None, timeout: int = _THEIRS) -> None:
        # a stop on request comes with `--shutdown-timeout`; without one, a rank has died
        close(self, death_sig, GRACE if timeout == _THEIRS else timeout)

    PContext.close = close_soon
    try:
        run.main(argv)
    except SignalException:
        return 130
    except ChildFailedError as failed:
        _tell_killed(argv, failed.failures)
        return 1
    return 0


def _tell_killed(argv: list[str], failures: dict[int, Any]) -> None:
    """Ranks that a signal ended said nothing; here it is known which signal it was.

    Those that this launcher ended itself, by SIGTERM, are not the cause.
    """
    folder = argv[argv.index(WORKER) + 1] if WORKER in argv else None
    first = min((found.timestamp for found in failures.values()), default=0)
    for rank, found in failures.items():
        by = -found.exitcode
        if folder and by > 0 and by != signal.SIGTERM and found.timestamp <= first + GRACE - 1:
            ranks.killed(Path(folder), rank, signal.Signals(by).name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
