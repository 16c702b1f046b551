"""The verb that runs many points: sweep.

In: overrides with several values for some keys, or a `sweep` option that holds them. Out: what the
trials leave in the sweep's folder.
"""

from __future__ import annotations

import argparse

from llmforge.verbs import MakeVerb


def add(verb: MakeVerb) -> None:
    """Declare the verbs of this module."""
    sweep = verb("sweep", _sweep, "run every point of a sweep; the same as train -m").composed()
    sweep.flag("--dry-run", dest="dry", action="store_true", help="compile, check and price only")


def _sweep(parsed: argparse.Namespace) -> int:
    from llmforge.app import sweep

    return sweep(parsed.overrides, parsed.config_dirs, parsed.dry)
