"""The command line: the parser's frame, and how faults become exit codes.

In: argv. Out: an exit code (0 done, 1 run failed, 2 config refused, 130 interrupted). The verbs
live in `verbs/`, one module for each family; nothing heavy is imported to parse them.

Hydra's own flags (`-m`, `--cfg`, `--info`, `-sc`, ...) behind `train` go to `app.py`, the one
Hydra application.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Sequence

from llmforge.verbs import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_REFUSED,
    Run,
    Verb,
    asking,
    chaining,
    compiling,
    evaluating,
    exporting,
    fusing,
    looking,
    publishing,
    quantizing,
    running,
    serving,
    sweeping,
    tell,
)

FAMILIES = (
    compiling, running, chaining, evaluating, fusing, quantizing, sweeping, asking, serving,
    looking, publishing, exporting,
)  # fmt: skip
"""Modules of verbs, in the order of `llmforge --help`."""

_HYDRA_FLAGS = frozenset(
    ("-m", "--multirun", "-c", "--cfg", "-i", "--info", "-p", "--package", "--resolve",
     "-sc", "--shell-completion", "--hydra-help")
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `llmforge` script."""
    # a compile makes many small objects and frees few: the collector would cost a tenth of it
    gc.set_threshold(50_000, 20, 20)
    args = list(sys.argv[1:] if argv is None else argv)
    if args[:1] == ["-sc"] or args[:1] == ["--shell-completion"]:
        from llmforge.app import complete

        return complete(args)
    if args[:1] == ["train"] and _HYDRA_FLAGS.intersection(a.partition("=")[0] for a in args):
        from llmforge.app import hydra_train

        return _guarded(lambda: hydra_train(args[1:]))
    parsed, rest = _parser().parse_known_args(args)
    if parsed.verb is None:
        _parser().print_help()
        return EXIT_DONE
    # `parse_known_args` leaves overrides that follow a flag; anything with a dash is a mistake
    unknown = [word for word in rest if word.startswith("-")]
    if unknown:
        _parser().error(f"unknown flag {unknown[0]}; see llmforge {parsed.verb} --help")
    if hasattr(parsed, "overrides"):
        parsed.overrides = [*parsed.overrides, *rest]
    elif rest:
        _parser().error(f"unexpected argument {rest[0]}")
    run: Run = parsed.run
    return _guarded(lambda: run(parsed), getattr(parsed, "format", "text"))


def _guarded(run: Callable[[], int], form: str = "text") -> int:
    from llmforge.diagnostics import ConfigRefused

    try:
        return run()
    except ConfigRefused as refusal:
        tell(refusal.diagnostics, form)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    from llmforge.version import __version__

    parser = argparse.ArgumentParser(
        prog="llmforge",
        description="Compile first, then train: fine-tuning of language models as checked plans.",
        epilog="llmforge train, with nothing else, runs the built-in example.",
    )
    parser.add_argument("--version", action="version", version=f"llmforge {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")

    def verb(name: str, run: Run, text: str) -> Verb:
        made = verbs.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        return Verb(made)

    for family in FAMILIES:
        family.add(verb)
    return parser


if __name__ == "__main__":
    sys.exit(main())
