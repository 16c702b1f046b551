"""The verb export: a finished model in the format of another program.

In: a reference to a model. Out: one file, with its record beside it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llmforge.verbs import EXIT_DONE, EXIT_FAILED, MakeVerb, tell
from llmforge.verbs.making import REF_HELP, say


def add(verb: MakeVerb) -> None:
    """Declare the verb."""
    from llmforge.run.making.forms import FORMS

    export = verb("export", _export, "write a finished model as one file for another program")
    export.flag("ref", metavar="REF", help=REF_HELP)
    export.flag("--gguf", action="store_true", required=True, help="for llama.cpp")
    export.flag("--checkpoint", metavar="best|last|STEP", help="of the run; default: final model")
    export.flag("--weights", choices=("model", "fused"), default="model",
                help="of a run; one that trained an adapter gives its fused model")  # fmt: skip
    export.flag("--form", choices=tuple(FORMS),
                help="of the weights; default: as they are")  # fmt: skip
    export.flag("-o", "--output", metavar="FILE", help="default: model.gguf in the run folder")
    export.composed()


def _export(parsed: argparse.Namespace) -> int:
    from llmforge.refs.subjects import Asked, find_place
    from llmforge.render import emit, size_text
    from llmforge.run.making.converting import NotConverted, convert, wanted

    overrides, folders = tuple(parsed.overrides), tuple(parsed.config_dirs)
    asked = Asked(parsed.ref, None, parsed.checkpoint, overrides, folders, parsed.weights)
    place = find_place(asked, say)
    made = wanted(place, Path(parsed.output) if parsed.output else None, parsed.form)
    try:
        record = convert(made, say)
    except NotConverted as error:
        tell([error.diagnostic])
        return EXIT_FAILED
    forms = ", ".join(f"{count:,} in {form}" for form, count in record["formats"].items())
    emit(
        f"{made.file}: {size_text(record['bytes'])}, {record['tensors']:,} tensors ({forms}), "
        f"{record['tokens']:,} tokens, each compared with {record['label']}"
    )
    return EXIT_DONE
