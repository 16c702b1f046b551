"""Verbs that put a model where other programs ask it: serve.

In: a reference to a model, an address. Out: an OpenAI-style endpoint, until Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmforge.verbs import EXIT_DONE, MakeVerb, tell
from llmforge.verbs.loading import (
    REF_HELP,
    asked_for,
    compute_of,
    load,
    loading_flags,
    refuse,
    sort_words,
)

if TYPE_CHECKING:
    from llmforge.refs import Place

NEEDED = ("fastapi", "uvicorn", "openai")
"""What transformers' server needs beside transformers."""
INSTALL = "pip install 'llmforge[serve]'"


def add(verb: MakeVerb) -> None:
    """Declare the verbs of this module."""
    serve = verb("serve", _serve, "answer over HTTP as OpenAI's API does, on this machine")
    serve.flag("ref", nargs="?", metavar="REF", help=REF_HELP)
    loading_flags(serve.composed())
    serve.flag("--run", dest="run_ref", metavar="REF", help="the same as REF")
    serve.flag("--dtype", choices=("float32", "bfloat16", "float16"),
               help="of the weights; default: as they were trained")  # fmt: skip
    serve.flag("--host", default="127.0.0.1", help="default: this machine alone can reach it")
    serve.flag("--port", type=int, default=8000, help="default: 8000; 0 takes a free one")
    serve.flag("--name", help="what clients call the model; default: the run's id, or the folder's")
    serve.flag("--engine", choices=("auto", "transformers", "vllm"), default="auto",
               help="default: vllm where it is installed")  # fmt: skip


def _serve(parsed: argparse.Namespace) -> int:
    sort_words(parsed, "ref")
    if parsed.run_ref is not None:
        if parsed.ref is not None:
            refuse("LF866", f"there are two models, {parsed.ref} and --run {parsed.run_ref}",
                   f"llmforge serve {parsed.run_ref}")  # fmt: skip
        parsed.ref = parsed.run_ref
    engine = _engine(parsed.engine)
    from llmforge.stages.serving import listening

    taken = listening.bind(parsed.host, parsed.port)
    asked, place, settings = asked_for(parsed)
    if settings["num_beams"] > 1:
        refuse(
            "LF867", "beam search changes what it has written, and answers may be streamed",
            "generation.num_beams=1", "generation.num_beams",
        )  # fmt: skip
    found = listening.warning(parsed.host)
    tell([*asked.warnings(settings), *([found] if found else [])])
    name, url = parsed.name or name_of(place), listening.url_of(taken, parsed.host)
    if engine == "vllm":
        from llmforge.stages.serving import vllm

        taken.close()  # it takes the address for itself
        return vllm.start(place, name, url, parsed)
    model, tokenizer = load(parsed, place, asked)
    from llmforge.stages.serving.requests import Reader
    from llmforge.stages.serving.server import serve

    own = place.plan.settings["generation"] if place.plan is not None else None

    def change(given: Any) -> dict[str, Any]:
        return replace(asked, values={**asked.values, **given}).settings(own)

    def ready() -> None:
        print(url, flush=True)
        print(f"{name} answers; Ctrl-C ends it", file=sys.stderr, flush=True)

    reader = Reader(name, model, tokenizer, change)
    serve(reader, model, tokenizer, compute_of(place), taken, ready,
          listening.is_loopback(parsed.host))  # fmt: skip
    return EXIT_DONE


def name_of(place: Place) -> str:
    """What clients call a model: its run with the step of a checkpoint, its folder, its version."""
    if place.run is not None:
        return place.run.run_id + (f"-step-{place.step}" if place.step is not None else "")
    if place.folder is not None and place.label == str(place.folder):
        return place.folder.name
    return place.label


def _engine(asked: str) -> str:
    from llmforge.installed import installed_version

    vllm = installed_version("vllm") is not None
    if asked == "vllm" and not vllm:
        refuse("LF930", "vLLM is not installed", "--engine transformers",
               notes=("its own manual says how: it brings a torch of its own",))  # fmt: skip
    if asked != "transformers" and vllm:
        return "vllm"
    missing = [name for name in NEEDED if installed_version(name) is None]
    if missing:
        refuse("LF930", f"the server needs packages that are not installed: {', '.join(missing)}",
               INSTALL)  # fmt: skip
    return "transformers"
