"""What verbs that use a model share: which one is meant, how it is loaded, with what settings.

In: parsed arguments with a reference, overrides and flags of loading. Out: the model's place, the
settings of generation that hold for it, model and tokenizer. What is missed is refused (LF862 to
LF866).
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, NoReturn

from llmforge.verbs import Verb

if TYPE_CHECKING:
    from llmforge.compiler.generation import Asked
    from llmforge.refs import Place

REF_HELP = (
    "a run's id or `last` (default), a folder, models:/NAME/3, NAME@best; or model=... overrides"
)


def loading_flags(verb: Verb) -> Verb:
    """Flags that say how a model is loaded."""
    verb.flag("--checkpoint", metavar="best|last|STEP", help="of the run; default: final model")
    verb.flag(
        "--weights", choices=("model", "fused", "quantized"), default="model",
        help="of the run: those it trained, or what was made of them",
    )  # fmt: skip
    verb.flag("--quantization", metavar="OPTION", help="pack the base: 4bit, 8bit, ...; none")
    verb.flag(
        "--adapter", action="append", default=[], metavar="NAME=REF",
        help="one more adapter over the same base",
    )  # fmt: skip
    return verb.flag("--device", default="auto", help="as torch names it; default: a GPU if any")


def sort_words(parsed: argparse.Namespace, first: str) -> None:
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


def asked_for(parsed: argparse.Namespace) -> tuple[Asked, Place, dict[str, Any]]:
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
            values["paths"]["cache"], say, parsed.weights,
        )  # fmt: skip
    own = place.plan.settings["generation"] if place.plan is not None else None
    return asked, place, asked.settings(own)


def load(parsed: argparse.Namespace, place: Place, asked: Asked) -> tuple[Any, Any]:
    """Model and tokenizer, in evaluation mode, as the flags say."""
    import warnings

    from llmforge.refs import find_model, load_model
    from llmforge.run.terminal import libraries_aside
    from llmforge.run.worker import quieten

    values = asked.draft.values
    more = {}
    for given in parsed.adapter:
        name, mark, ref = given.partition("=")
        if not mark:
            refuse("LF865", f"`--adapter {given}` names no model", f"--adapter {given}=REF")
        more[name] = find_model(
            ref, None, values["paths"]["runs"], values["tracking"], values["paths"]["cache"]
        )
    quieten()
    # PEFT asks transformers for a property by the name that is going out of use
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
    with libraries_aside():  # GPT-QModel prints a banner when PEFT imports it
        return load_model(
            place,
            dtype=getattr(parsed, "dtype", None),
            quantization=parsed.quantization,
            adapters=more,
            device=parsed.device,
        )


def compute_of(place: Place) -> str:
    """Format of the arithmetic: the plan's, so that answers are those that were measured."""
    return "float32" if place.plan is None else str(place.plan.spec.precision.compute)


def drawn_seed() -> int:
    """A seed for answers that are drawn, where none is given."""
    import secrets

    return secrets.randbits(31)


def refuse(
    code: str,
    message: str,
    hint: str | None = None,
    key: str | None = None,
    notes: tuple[str, ...] = (),
) -> NoReturn:
    """Raise one finding of the command line."""
    from llmforge.diagnostics import ConfigRefused, Diagnostic

    raise ConfigRefused([Diagnostic(code, message, key=key, notes=notes, hint=hint)])
