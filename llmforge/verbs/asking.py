"""Verbs that ask a model, and those that say which there are: generate, chat, models, register.

In: a reference to a model, prompts. Out: answers; tables.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from llmforge.verbs import EXIT_DONE, EXIT_FAILED, MakeVerb, tell
from llmforge.verbs.loading import (
    REF_HELP,
    asked_for,
    compute_of,
    drawn_seed,
    load,
    loading_flags,
    refuse,
    sort_words,
)

if TYPE_CHECKING:
    from llmforge.refs import Place


def add(verb: MakeVerb) -> None:
    """Declare the verbs of this module."""
    generate = verb("generate", _generate, "answer prompts with a model")
    generate.flag("prompt", nargs="?", metavar="PROMPT", help="text; - reads it from stdin")
    loading_flags(generate.composed())
    generate.flag("--run", dest="ref", metavar="REF", help=REF_HELP)
    generate.flag(
        "--prompts", metavar="FILE", help="many: .jsonl with `prompt` or `messages`, .txt"
    )
    generate.flag("-o", "--output", metavar="FILE", help="answers to --prompts as JSON lines; "
                  "what is there already is gone on with")  # fmt: skip
    generate.flag("--json", action="store_true", help="the answer with how it ended, as JSON")

    chat = verb("chat", _chat, "talk with a model in the terminal, or over a pipe")
    chat.flag("ref", nargs="?", metavar="REF", help=REF_HELP)
    loading_flags(chat.composed())
    chat.flag("--log", metavar="FILE", help="keep the talk in FILE.jsonl or FILE.md")

    models = verb("models", _models, "registered models and their versions")
    models.flag("name", nargs="?", metavar="NAME", help="all versions of this one").composed()
    models.flag("--json", action="store_true")

    register = verb("register", _register, "make a run's checkpoints and model versions of a name")
    register.flag("ref", metavar="RUN").flag("name", metavar="NAME").composed()


def _generate(parsed: argparse.Namespace) -> int:
    import sys
    from pathlib import Path

    sort_words(parsed, "prompt")
    if (parsed.prompt is None) == (parsed.prompts is None):
        refuse("LF866", "there must be one prompt, or a file of them (--prompts)",
                "llmforge generate 'What is the capital of France?'")  # fmt: skip
    if parsed.prompts is not None and parsed.output is None:
        refuse("LF866", "answers to a file of prompts need a place (-o)", "-o answers.jsonl")
    asked, place, settings = asked_for(parsed)
    tell(asked.warnings(settings))
    if settings["sample"] and settings["seed"] is None:
        settings["seed"] = drawn_seed()
    rows = _prompts(Path(parsed.prompts)) if parsed.prompts else []
    prompt = sys.stdin.read().strip() if parsed.prompt == "-" else parsed.prompt
    model, tokenizer = load(parsed, place, asked)
    from llmforge.build.loss import autocast

    with autocast(model, compute_of(place)):
        if rows:
            return _answer_file(parsed, model, tokenizer, rows, settings)
        return _answer_one(parsed, place, model, tokenizer, prompt, settings)


def _answer_one(
    parsed: argparse.Namespace,
    place: Place,
    model: Any,
    tokenizer: Any,
    prompt: str,
    settings: dict[str, Any],
) -> int:
    import json
    import sys
    from dataclasses import asdict

    from llmforge.stages.generate import answer_whole
    from llmforge.stages.stops import printable

    live = sys.stdout.isatty() and not parsed.json and settings["num_beams"] == 1

    def stream(piece: str) -> None:
        print(printable(piece), end="", flush=True)

    try:
        found = answer_whole(model, tokenizer, prompt, settings, stream if live else None)
    except ValueError as error:
        refuse("LF866", str(error))
    if parsed.json:
        row = {"prompt": prompt, "answer": found.text, **asdict(found), "model": place.label,
               "seed": settings["seed"] if settings["sample"] else None}  # fmt: skip
        del row["text"]
        print(json.dumps(row, ensure_ascii=False, indent=2))
    else:
        print("" if live else printable(found.text) if sys.stdout.isatty() else found.text)
    return EXIT_DONE


def _answer_file(
    parsed: argparse.Namespace,
    model: Any,
    tokenizer: Any,
    rows: list[dict[str, Any]],
    settings: dict[str, Any],
) -> int:
    import sys
    from pathlib import Path

    from llmforge.stages.answer_file import PromptsUnusable, answer_file

    def progress(done: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done:,} of {len(rows):,}", end="", file=sys.stderr, flush=True)

    try:
        told = answer_file(model, tokenizer, rows, Path(parsed.output), settings, progress)
    except PromptsUnusable as error:
        refuse("LF866", str(error), error.hint)
    except OSError as error:
        refuse("LF866", f"{parsed.output} cannot be written: {error.strerror}")
    end = "\r" if sys.stderr.isatty() else ""
    kept = f", {told.kept:,} of them before" if told.kept else ""
    failed = f"; {told.failed:,} without, see `error`" if told.failed else ""
    print(f"{end}{told.answered:,} answers{kept}{failed}: {parsed.output}", file=sys.stderr)
    return EXIT_FAILED if told.failed else EXIT_DONE


def _prompts(path: Any) -> list[dict[str, Any]]:
    from llmforge.stages.answer_file import PromptsUnusable, read_prompts

    try:
        return read_prompts(path)
    except PromptsUnusable as error:
        refuse("LF866", str(error), error.hint)


def _chat(parsed: argparse.Namespace) -> int:
    from pathlib import Path

    sort_words(parsed, "ref")
    asked, place, settings = asked_for(parsed)
    if settings["num_beams"] > 1:
        refuse(
            "LF867", "beam search changes what it has written, and a talk is streamed",
            "generation.num_beams=1", "generation.num_beams",
        )  # fmt: skip
    tell(asked.warnings(settings))
    if settings["seed"] is None:
        settings["seed"] = drawn_seed()
    model, tokenizer = load(parsed, place, asked)
    from llmforge.build.loss import autocast
    from llmforge.stages.chat import Chat
    from llmforge.stages.talk import Talk

    talk = Talk(model, tokenizer, settings, place.label)
    with autocast(model, compute_of(place)):
        return Chat(talk, log=Path(parsed.log) if parsed.log else None).run()


def _models(parsed: argparse.Namespace) -> int:
    from llmforge import render
    from llmforge.compiler.generation import ask
    from llmforge.refs import models_table, registry_of
    from llmforge.track.versions import UnknownModel

    sort_words(parsed, "name")
    draft = ask(parsed.overrides, parsed.config_dirs).draft
    registry = registry_of(draft.values["tracking"])
    try:
        render.emit(models_table(registry, parsed.name, parsed.json))
    except UnknownModel as error:
        refuse("LF863", str(error), error.hint, notes=error.notes)
    return EXIT_DONE


def _register(parsed: argparse.Namespace) -> int:
    from llmforge import render
    from llmforge.compiler.generation import ask
    from llmforge.refs import registry_of, run_of
    from llmforge.track.registry import register_run

    draft = ask(parsed.overrides, parsed.config_dirs).draft
    run = run_of(parsed.ref, draft.values["paths"]["runs"])
    tracking = draft.values["tracking"]
    registry = registry_of(tracking)
    try:
        made = register_run(registry, run, parsed.name, tracking["upload"])
    except Exception as error:  # whatever MLflow, its database driver or the network raises
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        refuse("LF910", f"the versions were not registered: {said}")
    listed = ", ".join(str(one) for one in made) or "none: the run has no checkpoint and no model"
    render.emit(f"{parsed.name}: versions {listed}")
    return EXIT_DONE
