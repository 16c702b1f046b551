"""LF6: shapes and adapters."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmforge.compiler.context import Context
from llmforge.compiler.facts.families import match_modules
from llmforge.compiler.parse import override
from llmforge.compiler.rules.base import rule
from llmforge.diagnostics import Diagnostic, Severity, near
from llmforge.schema.adapter import Lora
from llmforge.schema.model import ScratchModel

_NAMES_OF_FAMILIES = frozenset(
    ("q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "gate_proj", "up_proj", "down_proj",
     "fc1", "fc2", "c_attn", "c_proj", "c_fc", "query_key_value", "dense", "dense_h_to_4h",
     "dense_4h_to_h")
)  # fmt: skip


@rule("LF601", "adapter on fewer modules than meant")
def lora_targets_hit_too_few(context: Context) -> Iterator[Diagnostic]:
    """A target that names no module of this architecture adapts nothing there, silently.

    Names differ between families: `q_proj` in Llama is `query_key_value` in GPT-NeoX and
    `c_attn` in GPT-2. `all-linear` fits every family.
    """
    lora, model = context.spec.lora, context.facts.model
    if not isinstance(lora, Lora) or model is None:
        return
    if isinstance(lora.targets, str):
        try:
            re.compile(lora.targets)
        except re.error as error:
            yield Diagnostic(
                "LF601",
                f"LoRA target `{lora.targets}` is not a regular expression: {error}",
                key="lora.targets",
                hint="lora.targets=all-linear",
            )
            return
    names = sorted({module.name.rpartition(".")[2] for module in model.linear_modules})
    there = f"linear modules of {model.family}: {', '.join(names)}"
    targets = [lora.targets] if isinstance(lora.targets, str) else lora.targets
    for target in targets:
        asked = target if isinstance(lora.targets, str) else [target]
        if not match_modules(model, asked):
            # a right name of another family is no misspelling: its likeness here misleads
            guess = [] if target in _NAMES_OF_FAMILIES else near(target, names, 1)
            replaced = [guess[0] if t == target and guess else t for t in targets]
            yield Diagnostic(
                "LF601",
                f"LoRA target `{target}` names no module of this model",
                key="lora.targets",
                notes=(there,),
                hint=override("lora.targets", replaced) if guess else "lora.targets=all-linear",
            )
    if not targets:
        yield Diagnostic(
            "LF601",
            "LoRA has no targets",
            key="lora.targets",
            notes=(there,),
            hint="lora.targets=all-linear",
        )
    hit = len(match_modules(model, lora.targets))
    if 0 < hit < lora.expect_modules:
        yield Diagnostic(
            "LF601",
            f"LoRA targets hit {hit} modules; at least {lora.expect_modules} were expected",
            key="lora.targets",
            notes=(there,),
            hint=f"lora.expect_modules={hit}",
        )


@rule("LF604", "adapter over random weights")
def adapter_over_random_weights(context: Context) -> Iterator[Diagnostic]:
    """A model from scratch holds nothing worth freezing: an adapter alone learns little.

    A warning, since it is a quick way to try a set-up.
    """
    if isinstance(context.spec.model, ScratchModel) and isinstance(context.spec.lora, Lora):
        yield Diagnostic(
            "LF604",
            "the adapter would train over random, frozen weights",
            Severity.WARNING,
            key="lora.kind",
            hint="lora=none",
        )


@rule("LF609", "more tokens than embedding rows")
def tokens_without_rows(context: Context) -> Iterator[Diagnostic]:
    """A token whose number is beyond the model's embedding has no row there: the run would end
    at the first batch that holds one.

    A trained tokenizer has up to `tokenizer.vocabulary` tokens. A checkpoint's own tokenizer
    (`tokenizer.source=model`) fits its embedding; a model from scratch with
    `model.vocabulary=auto` gets as many rows as there are tokens.
    """
    spec, model = context.spec, context.facts.model
    if model is None or spec.tokenizer.source != "train":
        return
    if spec.tokenizer.vocabulary > model.vocabulary:
        scratch = isinstance(spec.model, ScratchModel)
        yield Diagnostic(
            "LF609",
            f"a tokenizer of up to {spec.tokenizer.vocabulary:,} tokens for "
            f"{model.vocabulary:,} embedding rows",
            key="tokenizer.vocabulary",
            hint="model.vocabulary=auto" if scratch else "tokenizer.source=model",
        )
