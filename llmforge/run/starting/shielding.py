"""A driver in two processes: the outer one takes signals, the inner one does the work.

In: arguments (`FOLDER --stage STAGE`) of a module that is run by `python -m`, and what the inner
process does. Out: its exit code. A Ctrl-C, which every process of the terminal's group gets,
reaches the inner process as one SIGTERM, and what it has started not at all (`processes.py`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from llmforge.run import processes
from llmforge.run.folder import RunFolder


def main(module: str, argv: list[str], drive: Callable[[RunFolder, str], int]) -> int:
    """Start the inner process and wait, or be it.

    Args:
        module: that is run, by its full name.
        argv: its arguments.
        drive: what the inner process does with run folder and stage; returns the exit code.
    """
    parser = argparse.ArgumentParser(prog=module)
    parser.add_argument("folder")
    parser.add_argument("--stage", default="train")
    parser.add_argument("--inside", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.inside:
        return drive(RunFolder.open(arguments.folder), arguments.stage)
    return processes.shielded([sys.executable, "-m", module, *argv, "--inside"])
