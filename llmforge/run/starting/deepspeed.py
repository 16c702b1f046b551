"""DeepSpeed's launcher with time to save: `python -m llmforge.run.starting.deepspeed ...`.

In: `--here N PORT MODULE ARGUMENTS...` for N processes of this machine, or the arguments of
DeepSpeed's own runner for the hosts of a hostfile. Out: the launcher's exit code.

DeepSpeed's launcher gives a process that is asked to stop half a minute, one after the other; a
checkpoint takes longer. Here processes that were asked to stop get what torchrun gives them, and
those that outlived another a few seconds. On the hosts of a hostfile DeepSpeed's own time holds.
"""

from __future__ import annotations

import base64
import json
import os
import sys

from llmforge.run.starting.commands import ALONE, PATIENCE
from llmforge.run.starting.torchrun import GRACE


def main(argv: list[str]) -> int:
    """See the module."""
    if argv[0] != "--here":
        from deepspeed.launcher import runner

        runner.main(argv)
        return 0
    from deepspeed.launcher import launch

    many, port, *worker = argv[1:]
    world = base64.urlsafe_b64encode(json.dumps({"localhost": list(range(int(many)))}).encode())
    launch.terminate_process_tree = _Ending(int(many))
    sys.argv = [
        *("launch", f"--world_info={world.decode()}", f"--master_addr={ALONE}"),
        *(f"--master_port={port}", "--module", "--no_local_rank", "--log_level=error"),
        *worker,
    ]
    try:
        launch.main()
    except SystemExit as ended:
        # a process that a signal ended is told as minus its number
        code = ended.code if isinstance(ended.code, int) else 1
        return 128 - code if code < 0 else code
    return 0


class _Ending:
    """Ends all processes at once, where DeepSpeed would end them one after the other."""

    def __init__(self, many: int) -> None:
        self.many = many

    def __call__(self, pid: int) -> None:
        """Called for each process; the first call does the work."""
        del pid
        import psutil

        living = psutil.Process(os.getpid()).children()
        patience = PATIENCE if len(living) == self.many else GRACE
        for process in living:
            process.terminate()
        _, left = psutil.wait_procs(living, timeout=patience)
        for process in left:
            process.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
