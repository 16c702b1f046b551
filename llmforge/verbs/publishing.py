"""Verbs that give a model to others: push.

In: a reference to a run or a folder, and what of it is to go where. Out: a commit on the hub.
"""

from __future__ import annotations

import argparse
import sys

from llmforge.verbs import EXIT_DONE, EXIT_FAILED, MakeVerb, tell


def add(verb: MakeVerb) -> None:
    """Declare the verbs of this module."""
    push = verb("push", _push, "upload a model to the Hugging Face hub, or do it again")
    push.flag("ref", metavar="REF", help="run id, run folder, last, or a folder with a model")
    push.flag("--repository", metavar="OWNER/NAME", help="default: as the run's plan says")
    push.flag("--revision", metavar="BRANCH", help="branch of the repository")
    push.flag(
        "--what", choices=("model", "adapter", "checkpoint", "fused", "quantized"),
        help="of the run; default: the model",
    )  # fmt: skip
    push.flag(
        "--checkpoint", metavar="best|last|STEP",
        help="the model as it was then; default: the final one",
    )  # fmt: skip
    push.flag("--public", dest="private", action="store_false", default=None,
              help="a repository that is made now can be seen by all")  # fmt: skip
    push.flag("--private", dest="private", action="store_true", default=None)
    push.flag("--token", metavar="env:NAME", help="variable that holds the token")


def _push(parsed: argparse.Namespace) -> int:
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils import logging as hub_logging

    from llmforge.render import emit
    from llmforge.upload import push_again

    if not sys.stderr.isatty():
        disable_progress_bars()
    hub_logging.set_verbosity_error()  # retries and empty commits are told in our words
    asked = {
        "repository": parsed.repository,
        "revision": parsed.revision,
        "what": parsed.what,
        "private": parsed.private,
        "token": parsed.token,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    entry, failed = push_again(parsed.ref, given, parsed.checkpoint)
    if failed is not None:
        tell([failed])
        return EXIT_FAILED
    done = "was there already" if entry.unchanged else "is on the hub"
    emit(f"{entry.source} {done}: {entry.url}")
    return EXIT_DONE
