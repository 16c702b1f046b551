"""What follows from model and data: tokenizer, vocabulary, facts, collator, length.

In: spec and facts. Out: solved values, and the model and data facts that later passes read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmforge.compiler.context import Context, Derived, Step
from llmforge.compiler.facts.data import look_at
from llmforge.compiler.facts.model import VOCABULARY_FILES, look_at_model, tokenizer_digests
from llmforge.compiler.facts.nested import look_at_trained
from llmforge.compiler.facts.samples import count_samples
from llmforge.compiler.facts.tokenizer import look_at_tokenizer
from llmforge.compiler.trace import untraced
from llmforge.diagnostics import Diagnostic, near
from llmforge.digests import file_digest
from llmforge.plan import stage_fingerprints
from llmforge.schema.adapter import VirtualTokens
from llmforge.schema.collate import AutoCollator
from llmforge.schema.experiment import ExperimentSpec
from llmforge.schema.model import FolderModel, ModelSpec, ScratchModel, TrainedModel
from llmforge.sources.chat_templates import names, path
from llmforge.sources.classes import KeywordsFrom, keywords_from
from llmforge.sources.opening import sources_of

COLLATOR_OF_SHAPE = {
    "text": "lm",
    "text_parts": "lm",
    "prompt_completion": "completion",
    "messages": "chat",
    "instruction": "chat",
    "preference": "preference",
}
"""What `collator=auto` picks."""

READABLE = {
    "lm": tuple(shape for shape in COLLATOR_OF_SHAPE if shape != "preference"),
    "completion": ("prompt_completion", "text_parts", "instruction"),
    "chat": ("messages", "instruction", "prompt_completion"),
    "preference": ("preference",),
}
"""Shapes that each collator can read, the one it is made for first."""

_LONGEST_BY_DEFAULT = 2048
_SHORTEST = 8
"""What the schema takes; a model that sees less is refused by LF508."""


def derive_tokenizer(context: Context) -> Step:
    """A from-scratch model needs a tokenizer trained on its data; any other brings its own."""
    spec, found = context.spec, []
    if spec.tokenizer.source == "auto":
        scratch = isinstance(spec.model, ScratchModel)
        why = (
            "a model from scratch has no tokenizer yet"
            if scratch
            else "the checkpoint's own tokenizer fits its embedding"
        )
        source = "train" if scratch else "model"
        found.append(Derived("tokenizer.source", source, why, ("model.kind",)))
    if spec.tokenizer.padding_side == "auto":
        why = "training pads behind the text; generation pads before it"
        found.append(Derived("tokenizer.padding_side", "right", why))
    return Step(tuple(found))


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
    if isinstance(spec.model, TrainedModel):
        look, base = look_at_trained(context)
    else:
        rows = vocabulary if vocabulary != "auto" else None
        look, base = look_at_model(spec.model, rows, cache), None
    tokenizer, problems = _tokenizer_identity(context, look.tokenizer_identity, cache)
    identity = {**context.facts.identity, "model": look.identity, "tokenizer": tokenizer}
    return Step(
        facts={
            "model": look.facts,
            "model_config": look.config,
            "base": base,
            "identity": identity,
            "tokenizer": look_at_tokenizer(spec.tokenizer.source, spec.model),
        },
        diagnostics=(*look.diagnostics, *problems),
    )


def _tokenizer_identity(
    context: Context, of_model: dict[str, Any], cache: Path
) -> tuple[dict[str, Any], list[Diagnostic]]:
    source = context.spec.tokenizer.source
    found: dict[str, Any] = {"source": "train"} if source == "train" else {}
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
    if template in names():
        found = {**found, "chat_template": file_digest(path(template), cache)}
    elif template != "auto" and Path(template).is_file():
        found = {**found, "chat_template": file_digest(Path(template), cache)}
    elif template != "auto":
        guess = near(template, names(), 1)
        problems.append(
            Diagnostic(
                "LF607",
                f"chat template {template} does not exist",
                key="tokenizer.chat_template",
                notes=(f"`auto`, a Jinja file, or one of {', '.join(names())}",),
                hint=f"tokenizer.chat_template={guess[0] if guess else 'auto'}",
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
    """Rows, shapes and digests of the data."""
    data = context.spec.data
    with keywords_from(_experiment(context)):
        facts, problems = look_at(data, Path(context.spec.paths.cache))
    identity: dict[str, Any] = dict(context.facts.identity)
    if facts is not None:
        identity["data"] = facts.identity()
    values = []
    for name, source in sources_of(data).items() if facts is not None else ():
        if source.shape == "auto" and facts is not None:
            prefix = f"data.sources.{name}" if name else "data"
            values.append(
                Derived(
                    f"{prefix}.shape",
                    facts.sources[name].shape if facts.sources else facts.shape,
                    "the first row has the columns of this shape",
                    (f"{prefix}.fields",),
                    probed=True,
                )
            )
    return Step(tuple(values), {"data": facts, "identity": identity}, tuple(problems))


def _experiment(context: Context) -> KeywordsFrom | None:
    """The user's experiment, for data set classes; None for none, or where it cannot be read."""
    chosen = context.spec.hooks
    digest = context.facts.identity.get("components", {}).get("hooks")
    if digest is None:
        return None
    fields = {k: v for k, v in chosen.settings().items() if k not in ExperimentSpec.model_fields}
    return KeywordsFrom(chosen.kind, fields, digest)


def derive_collator(context: Context) -> Step:
    """The collator that fits the data's shape; of several, one that can read them all."""
    facts = context.facts.data
    if not isinstance(context.spec.collator, AutoCollator) or facts is None:
        return Step()
    shapes = facts.shapes
    if len(shapes) == 1:
        kind, why = COLLATOR_OF_SHAPE[shapes[0]], f"rows of shape `{shapes[0]}`"
    else:
        fitting = (k for k in ("chat", "completion", "lm") if set(shapes) <= set(READABLE[k]))
        # none reads both pairs and other rows: LF507 tells
        kind = next(fitting, COLLATOR_OF_SHAPE[shapes[0]])
        why = f"it reads {', '.join(f'`{shape}`' for shape in shapes)}"
    return Step((Derived("collator.kind", kind, why, ("data.shape",)),))


def derive_max_length(context: Context) -> Step:
    """Longest sample: what the model can see, less virtual tokens before it, up to 2,048 tokens."""
    if context.spec.collator.max_length != "auto":
        return Step()
    model, adapter = context.facts.model, context.spec.lora
    context_length = model.context if model is not None else None
    before = adapter.tokens if isinstance(adapter, VirtualTokens) else 0
    room = context_length - before if context_length else _LONGEST_BY_DEFAULT
    value = max(_SHORTEST, min(room, _LONGEST_BY_DEFAULT))
    reads: tuple[str, ...] = ("facts.model.context",)
    why = (
        f"the model sees {context_length:,} tokens"
        if context_length
        else "the model's context is not known"
    )
    if before:
        why += f", {before} of them virtual" if context_length else ""
        reads = (*reads, "lora.tokens")
    return Step((Derived("collator.max_length", value, why, reads),))


def derive_order(context: Context) -> Step:
    """Samples of like length together, where their order is free and their lengths differ."""
    spec = context.spec
    if spec.trainer.group_by_length != "auto":
        return Step()
    reads = ("data.shuffle", "data.streaming", "collator.packing")
    if spec.collator.packing != "none":
        grouped, why = False, "packed rows are all about as long"
    elif spec.data.streaming:
        grouped, why = False, "the lengths of streamed samples are not known ahead"
    elif not spec.data.shuffle:
        grouped, why = False, "the order is that of the data"
    else:
        grouped, why = True, "less padding in batches of like length"
    return Step((Derived("trainer.group_by_length", grouped, why, reads),))


def probe_samples(context: Context) -> Step:
    """Samples of one epoch: rows, or what became of them if they were prepared before."""
    spec, data = context.spec, context.facts.data
    if data is None or spec.data.streaming or not isinstance(spec.collator.max_length, int):
        return Step()
    fingerprint = stage_fingerprints(untraced(spec), context.facts.identity)["prepare"]
    samples = count_samples(spec, data, fingerprint)
    return Step(facts={"samples": samples})
