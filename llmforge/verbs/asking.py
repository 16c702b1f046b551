"""Verbs that ask a model: generate.

In: a reference to a model and a prompt. Out: answers.
"""

from __future__ import annotations

import argparse

from llmforge.verbs import MakeVerb


def add(verb: MakeVerb) -> None:
    """Declare the verbs of this module."""
    generate = verb("generate", _generate, "answer a prompt with a trained model")
    generate.flag("prompt", metavar="PROMPT").composed()
    generate.flag("--run", dest="ref", default="last", metavar="REF", help="run; default: newest")


def _generate(parsed: argparse.Namespace) -> int:
    from llmforge.refs import generate

    return generate(parsed.ref, parsed.prompt, parsed.overrides, parsed.config_dirs)
