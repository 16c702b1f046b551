"""torchrun, without its farewell: `python -m llmforge.run.torchrun <torchrun's arguments>`.

In: torchrun's own arguments. Out: its exit code, 130 when a signal ended it. torchrun answers a
signal, and a rank that failed, with a page of traceback on the terminal; the ranks have said in
their logs what there is to say.
"""

from __future__ import annotations

import logging
import sys


def main(argv: list[str]) -> int:
    """See the module."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.ERROR)
    try:
        run.main(argv)
    except SignalException:
        return 130
    except ChildFailedError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
