"""The verb fuse: an adapter merged into its base, with proof.

In: a run, a folder, a registered version or a hub repository with an adapter; or overrides whose
run is finished. Out: `fused/` and `fuse.json` in the run folder.
"""

from __future__ import annotations

import argparse

from llmforge.verbs import MakeVerb, tell
from llmforge.verbs.making import add_flags, asked_of, make, say


def add(verb: MakeVerb) -> None:
    """Declare the verb."""
    fuse = verb("fuse", _fuse, "merge an adapter into its base, and prove that it is the same")
    add_flags(fuse, "adapter", "fused")


def _fuse(parsed: argparse.Namespace) -> int:
    from llmforge.merging import order_of
    from llmforge.refs.subjects import find_subject

    subject = find_subject(asked_of(parsed, "fuse"), say)
    tell(subject.findings)
    return make(subject, order_of(subject), "merged")
