"""Verbs that ask a model, and those that say which there are: generate, chat, models, register.

In: a reference to a model, prompts. Out: answers; tables.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, NoReturn

from llmforge.verbs import EXIT_DONE, EXIT_FAILED, MakeVerb, Verb, tell

if TYPE_CHECKING:
    from llmforge.compiler.generation import Asked
    from llmforge.refs import Place

REF_HELP = (
    "a run's id or `last` (default), a folder, models:/NAME/3, NAME@best; or model=... overrides"
)


def add(verb: MakeVerb) -> None:
    """Declare the verbs of this module."""
    generate = verb("generate", _generate, "answer prompts with a model")
    generate.flag("prompt", nargs="?", metavar="PROMPT", help="text; - reads it from stdin")
    _loaded(generate.composed())
    generate.flag("--run", dest="ref", metavar="REF", help=REF_HELP)
    generate.flag(
        "--prompts", metavar="FILE", help="many: .jsonl with `prompt` or `messages`, .txt"
    )
    generate.flag("-o", "--output", metavar="FILE", help="answers to --prompts as JSON lines; "
                  "what is there already is gone on with")  # fmt: skip
    generate.flag("--json", action="store_true", help="the answer with how it ended, as JSON")

    chat = verb("chat", _chat, "talk with a model in the terminal, or over a pipe")
    chat.flag("ref", nargs="?", metavar="REF", help=REF_HELP)
    _loaded(chat.composed())
    chat.flag("--log", metavar="FILE", help="keep the talk in FILE.jsonl or FILE.md")

    models = verb("models", _models, "registered models and their versions")
    models.flag("name", nargs="?", metavar="NAME", help="all versions of this one").composed()
    models.flag("--json", action="store_true")

    register = verb("register", _register, "make a run's checkpoints and model versions of a name")
    register.flag("ref", metavar="RUN").flag("name", metavar="NAME").composed()


def _loaded(verb: Verb) -> Verb:
    """Flags that say how a model is loaded."""
    verb.flag("--checkpoint", metavar="best|last|STEP", help="of the run; default: final model")
    verb.flag("--quantization", metavar="OPTION", help="pack the base: 4bit, 8bit, ...; none")
    verb.flag(
        "--adapter", action="append", default=[], metavar="NAME=REF",
        help="one more adapter over the same base",
    )  # fmt: skip
    return verb.flag("--device", default="auto", help="as torch names it; default: a GPU if any")


def _generate(parsed: argparse.Namespace) -> int:
    import sys
    from pathlib import Path

    _sort_words(parsed, "prompt")
    if (parsed.prompt is None) == (parsed.prompts is None):
        _refuse("LF866", "there must be one prompt, or a file of them (--prompts)",
                "llmforge generate 'What is the capital of France?'")  # fmt: skip
    if parsed.prompts is not None and parsed.output is None:
        _refuse("LF866", "answers to a file of prompts need a place (-o)", "-o answers.jsonl")
    asked, place, settings = _asked(parsed)
    tell(asked.warnings(settings))
    if settings["sample"] and settings["seed"] is None:
        settings["seed"] = _drawn_seed()
    rows = _prompts(Path(parsed.prompts)) if parsed.prompts else []
    prompt = sys.stdin.read().strip() if parsed.prompt == "-" else parsed.prompt
    model, tokenizer = _load(parsed, place, asked)
    from llmforge.build.loss import autocast

    with autocast(model, _compute(place)):
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
        _refuse("LF866", str(error))
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
        _refuse("LF866", str(error), error.hint)
    except OSError as error:
        _refuse("LF866", f"{parsed.output} cannot be written: {error.strerror}")
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
        _refuse("LF866", str(error), error.hint)


def _chat(parsed: argparse.Namespace) -> int:
    from pathlib import Path

    _sort_words(parsed, "ref")
    asked, place, settings = _asked(parsed)
    if settings["num_beams"] > 1:
        _refuse(
            "LF867", "beam search changes what it has written, and a talk is streamed",
            "generation.num_beams=1", "generation.num_beams",
        )  # fmt: skip
    tell(asked.warnings(settings))
    if settings["seed"] is None:
        settings["seed"] = _drawn_seed()
    model, tokenizer = _load(parsed, place, asked)
    from llmforge.build.loss import autocast
    from llmforge.stages.chat import Chat
    from llmforge.stages.talk import Talk

    talk = Talk(model, tokenizer, settings, place.label)
    with autocast(model, _compute(place)):
        return Chat(talk, log=Path(parsed.log) if parsed.log else None).run()


def _models(parsed: argparse.Namespace) -> int:
    from llmforge import render
    from llmforge.compiler.generation import ask
    from llmforge.refs import models_table, registry_of
    from llmforge.track.versions import UnknownModel

    _sort_words(parsed, "name")
    draft = ask(parsed.overrides, parsed.config_dirs).draft
    registry = registry_of(draft.values["tracking"])
    try:
        render.emit(models_table(registry, parsed.name, parsed.json))
    except UnknownModel as error:
        _refuse("LF863", str(error), error.hint, notes=error.notes)
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
        _refuse("LF910", f"the versions were not registered: {said}")
    listed = ", ".join(str(one) for one in made) or "none: the run has no checkpoint and no model"
    render.emit(f"{parsed.name}: versions {listed}")
    return EXIT_DONE


# -- what they share ---------------------------------------------------------------------------


def _sort_words(parsed: argparse.Namespace, first: str) -> None:
    """Overrides that stand where a prompt or reference may stand; `checkpoint=last` as a flag."""
    word = getattr(parsed, first)
    if word is not None and _is_override(word):
        setattr(parsed, first, None)
        parsed.overrides = [word, *parsed.overrides]
    for word in list(parsed.overrides):
        key, _, value = word.partition("=")
        if key == "checkpoint" and hasattr(parsed, "checkpoint"):
            parsed.checkpoint = value
            parsed.overrides.remove(word)


def _is_override(word: str) -> bool:
    """`generation.top_p=0.9`; a prompt with an equals sign has a blank before it, or no dot."""
    import re

    return re.match(r"(~|\+{1,2})?[a-z_]+(\.[\w.]+)?=", word) is not None


def _asked(parsed: argparse.Namespace) -> tuple[Asked, Place, dict[str, Any]]:
    """What is asked for, the model's place, and the whole section `generation`."""
    from llmforge.compiler.generation import ask
    from llmforge.refs import base_place, find_model

    def say(text: str) -> None:
        import sys

        print(text, file=sys.stderr)

    base = [
        word for word in parsed.overrides if word.partition("=")[0].partition(".")[0] == "model"
    ]
    if base and parsed.ref is None and parsed.checkpoint is None:
        from llmforge.compiler.passes import compile_plan

        place = base_place(compile_plan(parsed.overrides, parsed.config_dirs))
        rest = [word for word in parsed.overrides if word.startswith(("generation", "tracking"))]
        asked = ask(rest, parsed.config_dirs)
    else:
        asked = ask(parsed.overrides, parsed.config_dirs)
        values = asked.draft.values
        place = find_model(
            parsed.ref or "last", parsed.checkpoint, values["paths"]["runs"], values["tracking"],
            values["paths"]["cache"], say,
        )  # fmt: skip
    own = place.plan.settings["generation"] if place.plan is not None else None
    return asked, place, asked.settings(own)


def _load(parsed: argparse.Namespace, place: Place, asked: Asked) -> tuple[Any, Any]:
    import warnings

    from llmforge.refs import find_model, load_model
    from llmforge.run.worker import quieten

    values = asked.draft.values
    more = {}
    for given in parsed.adapter:
        name, mark, ref = given.partition("=")
        if not mark:
            _refuse("LF865", f"`--adapter {given}` names no model", f"--adapter {given}=REF")
        more[name] = find_model(
            ref, None, values["paths"]["runs"], values["tracking"], values["paths"]["cache"]
        )
    quieten()
    # PEFT asks transformers for a property by the name that is going out of use
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
    return load_model(place, quantization=parsed.quantization, adapters=more, device=parsed.device)


def _compute(place: Place) -> str:
    """Format of the arithmetic: the plan's, so that answers are those that were measured."""
    return "float32" if place.plan is None else str(place.plan.spec.precision.compute)


def _drawn_seed() -> int:
    import secrets

    return secrets.randbits(31)


def _refuse(
    code: str,
    message: str,
    hint: str | None = None,
    key: str | None = None,
    notes: tuple[str, ...] = (),
) -> NoReturn:
    from llmforge.diagnostics import ConfigRefused, Diagnostic

    raise ConfigRefused([Diagnostic(code, message, key=key, notes=notes, hint=hint)])
