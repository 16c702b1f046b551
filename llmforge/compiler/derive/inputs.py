"""What follows from model and data: tokenizer, vocabulary, facts, collator, length.

In: spec and facts. Out: solved values, and the model and data facts that later passes read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmforge.compiler.context import Context, Derived, Step
from llmforge.compiler.facts.data import as_paths, builtin_digest, look_at
from llmforge.compiler.facts.digests import file_digest
from llmforge.compiler.facts.model import VOCABULARY_FILES, look_at_model, tokenizer_digests
from llmforge.diagnostics import Diagnostic, near
from llmforge.schema.data import AutoCollator, BuiltinData, JsonlData
from llmforge.schema.model import FolderModel, ModelSpec, ScratchModel

COLLATOR_OF_SHAPE = {"text": "lm", "prompt_completion": "completion", "messages": "chat"}

_LONGEST_BY_DEFAULT = 2048
_SHORTEST = 8
"""What the schema takes; a model that sees less is refused by LF508."""


def derive_tokenizer(context: Context) -> Step:
    """A from-scratch model needs a tokenizer trained on its data; any other brings its own."""
    spec = context.spec
    if spec.tokenizer.source != "auto":
        return Step()
    scratch = isinstance(spec.model, ScratchModel)
    return Step(
        (
            Derived(
                "tokenizer.source",
                "train" if scratch else "model",
                "a model from scratch has no tokenizer yet"
                if scratch
                else "the checkpoint's own tokenizer fits its embedding",
                ("model.kind",),
            ),
        )
    )


def derive_vocabulary(context: Context) -> Step:
    """Embedding rows of a from-scratch model: the trained tokenizer's size."""
    model = context.spec.model
    if not isinstance(model, ScratchModel) or model.vocabulary != "auto":
        return Step()
    return Step(
        (
            Derived(
                "model.vocabulary",
                context.spec.tokenizer.vocabulary,
                "one embedding row per token",
                ("tokenizer.vocabulary",),
            ),
        )
    )


def probe_model(context: Context) -> Step:
    """Facts of the model from its config, and digests of what stands behind its name."""
    spec = context.spec
    cache = Path(spec.paths.cache)
    vocabulary = spec.model.vocabulary if isinstance(spec.model, ScratchModel) else None
    look = look_at_model(spec.model, vocabulary if vocabulary != "auto" else None, cache)
    tokenizer, problems = _tokenizer_identity(context, look.tokenizer_identity, cache)
    identity = {**context.facts.identity, "model": look.identity, "tokenizer": tokenizer}
    return Step(
        facts={"model": look.facts, "model_config": look.config, "identity": identity},
        diagnostics=(*look.diagnostics, *problems),
    )


def _tokenizer_identity(
    context: Context, of_model: dict[str, Any], cache: Path
) -> tuple[dict[str, Any], list[Diagnostic]]:
    source = context.spec.tokenizer.source
    found: dict[str, Any] = {}
    problems = []
    if source == "model":
        found = dict(of_model)
        problems += _no_tokenizer(context.spec.model)
    elif source != "train":
        folder = Path(source)
        found = tokenizer_digests(folder, cache) if folder.is_dir() else {}
        if not VOCABULARY_FILES & set(found):
            guess = near(source, ("train", "model", "auto"), 1)
            problems.append(
                Diagnostic(
                    "LF607",
                    f"{source} is not a folder with a tokenizer",
                    key="tokenizer.source",
                    notes=("`auto`, `train`, `model`, or a folder with tokenizer.json",),
                    hint=f"tokenizer.source={guess[0] if guess else 'auto'}",
                )
            )
    template = context.spec.tokenizer.chat_template
    if template not in ("auto", "chatml"):
        if Path(template).is_file():
            found = {**found, "chat_template": file_digest(Path(template), cache)}
        else:
            problems.append(
                Diagnostic(
                    "LF607",
                    f"chat template {template} does not exist",
                    key="tokenizer.chat_template",
                    notes=("`auto`, `chatml`, or a Jinja file",),
                    hint="tokenizer.chat_template=auto",
                )
            )
    return found, problems


def _no_tokenizer(model: ModelSpec) -> list[Diagnostic]:
    """LF607 where `tokenizer.source=model` and the model brings none."""
    if isinstance(model, ScratchModel):
        told, hint = "a model from scratch has no tokenizer of its own", "tokenizer.source=train"
    elif isinstance(model, FolderModel):
        folder = Path(model.path)
        if not (folder / "config.json").is_file() or any(
            (folder / name).is_file() for name in VOCABULARY_FILES
        ):
            return []  # it is there; or the whole model is missing, and that is told
        told, hint = f"{folder} holds no tokenizer", "tokenizer.source=<folder>"
    else:
        return []
    return [Diagnostic("LF607", told, key="tokenizer.source", hint=hint)]


def probe_data(context: Context) -> Step:
    """Rows, shape and digests of the data files."""
    data = context.spec.data
    facts, problems = look_at(data, Path(context.spec.paths.cache))
    identity: dict[str, Any] = dict(context.facts.identity)
    if isinstance(data, BuiltinData):
        identity["data"] = {"builtin": builtin_digest()}
    elif isinstance(data, JsonlData) and facts is not None:
        # content and order count; where the files lie does not
        identity["data"] = {
            role: [facts.files[path].sha256 for path in as_paths(getattr(data, role))]
            for role in ("train", "evaluation")
        }
    values: tuple[Derived, ...] = ()
    if facts is not None and data.shape == "auto":
        values = (
            Derived(
                "data.shape",
                facts.shape,
                "the first row has the columns of this shape",
                ("data.fields",),
                probed=True,
            ),
        )
    return Step(values, {"data": facts, "identity": identity}, tuple(problems))


def derive_collator(context: Context) -> Step:
    """The collator that fits the data's shape."""
    spec = context.spec
    if not isinstance(spec.collator, AutoCollator) or spec.data.shape == "auto":
        return Step()
    return Step(
        (
            Derived(
                "collator.kind",
                COLLATOR_OF_SHAPE[spec.data.shape],
                f"rows of shape `{spec.data.shape}`",
                ("data.shape",),
            ),
        )
    )


def derive_max_length(context: Context) -> Step:
    """Longest sample: what the model can see, up to 2,048 tokens."""
    if context.spec.collator.max_length != "auto":
        return Step()
    model = context.facts.model
    context_length = model.context if model is not None else None
    value = max(_SHORTEST, min(context_length or _LONGEST_BY_DEFAULT, _LONGEST_BY_DEFAULT))
    why = (
        f"the model sees {context_length:,} tokens"
        if context_length
        else "the model's context is not known"
    )
    return Step((Derived("collator.max_length", value, why, ("facts.model.context",)),))
