"""torchrun, without its farewell: `python -m llmforge.run.torchrun <torchrun's arguments>`.

In: torchrun's own arguments. Out: its exit code, 130 when a signal ended it. torchrun answers a
signal, and a rank that failed, with a page of traceback on the terminal; the ranks have said in
their logs what there is to say. A batch system's warnings, which it sends to every process of a
job, would end torchrun at once: they are left to the driver and the ranks.
"""

from __future__ import annotations

import logging
import signal
import sys

from llmforge.run.signals import WARNINGS


def main(argv: list[str]) -> int:
    """See the module."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.ERROR)
    for warning in WARNINGS:
        signal.signal(warning, signal.SIG_IGN)
    try:
        run.main(argv)
    except SignalException:
        return 130
    except ChildFailedError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
