"""LF6: what an adapter is put on, and with what it works together."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmforge.compiler.context import Context
from llmforge.compiler.facts.families import ModelFacts
from llmforge.compiler.facts.others import other_modules
from llmforge.compiler.facts.targets import (
    ROLES,
    by_ending,
    ends_of_embeddings,
    hit_modules,
    is_all_linear,
    is_pattern,
    others_hit,
    resolve,
    roles_asked,
    saved_modules,
    trains_tied_embedding,
)
from llmforge.compiler.parse import override
from llmforge.compiler.rules.base import rule
from llmforge.diagnostics import Diagnostic, Severity, near
from llmforge.schema.adapter import AdaLora, Ia3, LowRank, NoAdapter, TargetedAdapter, Targets
from llmforge.schema.model import ScratchModel
from llmforge.schema.precision import BitsAndBytes

_NAMES_OF_FAMILIES = frozenset(
    ("q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "gate_proj", "up_proj", "down_proj",
     "fc1", "fc2", "c_attn", "c_proj", "c_fc", "query_key_value", "dense", "dense_h_to_4h",
     "dense_4h_to_h", "qkv_proj", "gate_up_proj", "fc_in", "fc_out")
)  # fmt: skip


def _asked(adapter: TargetedAdapter) -> Iterator[tuple[str, Targets]]:
    """Every field that names modules to adapt, with its value."""
    yield "targets", adapter.targets
    if isinstance(adapter, Ia3):
        yield "feedforward", adapter.feedforward


def _there(model: ModelFacts) -> str:
    return f"linear modules of {model.family}: {', '.join(sorted(by_ending(model.linear_modules)))}"


@rule("LF601", "adapter on fewer modules than meant")
def lora_targets_hit_too_few(context: Context) -> Iterator[Diagnostic]:
    """A target that names no module of this architecture adapts nothing there, silently.

    Names differ between families: `q_proj` in Llama is `query_key_value` in GPT-NeoX and
    `c_attn` in GPT-2. `all-linear` and roles (`role:attention`) fit every family.
    """
    adapter, model = context.spec.lora, context.facts.model
    if not isinstance(adapter, TargetedAdapter):
        return
    for field, targets in _asked(adapter):
        if malformed := _malformed(targets):
            yield Diagnostic("LF601", malformed, key=f"lora.{field}", hint=_every(field))
        elif model is not None:
            yield from _missed(model, adapter, field, targets)


def _every(field: str) -> str:
    return f"lora.{field}={'role:down' if field == 'feedforward' else 'all-linear'}"


def _malformed(targets: Targets) -> str | None:
    """Why a target can hit nothing in any model."""
    if not targets:
        return "LoRA has no targets"
    if isinstance(targets, str) and is_pattern(targets):
        try:
            re.compile(targets)
        except re.error as error:
            return f"LoRA target `{targets}` is not a regular expression: {error}"
    unknown = [role for role in roles_asked(targets) or () if role not in ROLES]
    if unknown:
        return f"`{unknown[0]}` is no role; roles are {', '.join(ROLES)}"
    return None


def _missed(
    model: ModelFacts, adapter: TargetedAdapter, field: str, targets: Targets
) -> Iterator[Diagnostic]:
    key, there = f"lora.{field}", _there(model)
    names = sorted(by_ending(model.linear_modules))
    roles = roles_asked(targets)
    parts = [f"role:{r}" for r in roles] if roles else [targets] if is_pattern(targets) else targets
    for part in parts if not isinstance(parts, str) else ():
        one: Targets = part if isinstance(targets, str) else [str(part)]
        if resolve(model, one) or others_hit(model, one):
            continue
        # a right name of another family is no misspelling: its likeness here misleads
        near_name = not isinstance(targets, str) and part not in _NAMES_OF_FAMILIES
        guess = near(str(part), names, 1) if near_name or is_pattern(targets) else []
        replaced = [guess[0] if t == part and guess else str(t) for t in parts]
        kept = [r for r in roles or () if resolve(model, f"role:{r}")]
        hint = override(key, replaced) if guess else _every(field)
        if kept:
            hint = f"{key}=role:{'+'.join(kept)}"
        message = f"LoRA target `{part}` names no module of this model"
        yield Diagnostic("LF601", message, key=key, notes=(there,), hint=hint)
    hit = len(resolve(model, targets))
    if field == "targets" and 0 < hit < adapter.expect_modules:
        yield Diagnostic(
            "LF601",
            f"LoRA targets hit {hit} modules; at least {adapter.expect_modules} were expected",
            key=key,
            notes=(there,),
            hint=f"lora.expect_modules={hit}",
        )
    if field == "feedforward" and not set(resolve(model, targets)) <= {
        *resolve(model, adapter.targets)
    }:
        yield Diagnostic(
            "LF601",
            "lora.feedforward names modules that lora.targets does not",
            key=key,
            hint="lora=ia3",
        )


@rule("LF604", "adapter over random weights")
def adapter_over_random_weights(context: Context) -> Iterator[Diagnostic]:
    """A model from scratch holds nothing worth freezing: an adapter alone learns little.

    A warning, since it is a quick way to try a set-up.
    """
    if isinstance(context.spec.model, ScratchModel) and not isinstance(
        context.spec.lora, NoAdapter
    ):
        yield Diagnostic(
            "LF604",
            "the adapter would train over random, frozen weights",
            Severity.WARNING,
            key="lora.kind",
            hint="lora=none",
        )


@rule("LF611", "adapter on what it cannot adapt")
def targets_hit_others(context: Context) -> Iterator[Diagnostic]:
    """Adapters change linear modules. A target that also hits a norm, an embedding or a whole
    block would end the run while the model is built; the output head of a model with tied
    embeddings is the input embedding as well, which its adapter would not follow.

    Norms and embeddings are trained whole, by `lora.modules_to_save`.
    """
    adapter, model = context.spec.lora, context.facts.model
    if not isinstance(adapter, TargetedAdapter) or model is None:
        return
    for field, targets in _asked(adapter):
        if _malformed(targets):
            continue
        hit = others_hit(model, targets)
        if hit:
            name, kind = next(iter(hit.items()))
            more = f" and {len(hit) - 1} more" if len(hit) > 1 else ""
            yield Diagnostic(
                "LF611",
                f"LoRA targets hit {_KINDS[kind]} `{name}`{more}; only linear modules take one",
                key=f"lora.{field}",
                notes=(_there(model),),
                hint=_every(field),
            )
        elif model.tied_embeddings and any(m.role == "head" for m in resolve(model, targets)):
            yield Diagnostic(
                "LF611",
                "LoRA targets hit the output head, whose weight is the input embedding's too",
                key=f"lora.{field}",
                notes=("`lora.modules_to_save` trains the two as one",),
                hint=_every(field),
            )


_KINDS = {
    "norm": "the norm",
    "embedding": "the embedding",
    "positions": "the position embedding",
    "block": "the block",
}


@rule("LF612", "roles of an unknown model")
def roles_of_unknown_model(context: Context) -> Iterator[Diagnostic]:
    """Roles (`role:attention`) become names by the model's architecture, which is not known here:
    the model is not in the local cache, or its code is its own.

    `all-linear` and names need no facts.
    """
    adapter = context.spec.lora
    if not isinstance(adapter, TargetedAdapter) or context.facts.model is not None:
        return
    if not context.facts.model_config and not _looked_up(context):
        return  # that there is no such model is told by itself
    for field, targets in _asked(adapter):
        if roles_asked(targets) and not _malformed(targets):
            yield Diagnostic(
                "LF612",
                f"`{targets}` is a role, and the model's architecture is not known",
                key=f"lora.{field}",
                notes=("names of modules stand in the model's own code or card",),
                hint=f"lora.{field}=all-linear"
                if field == "targets"
                else "lora=small lora.targets=all-linear",
            )


def _looked_up(context: Context) -> bool:
    """Is the model one on the hub that has not been downloaded?"""
    return context.spec.model.kind == "hub"


@rule("LF613", "modules trained whole that cannot be")
def modules_to_save(context: Context) -> Iterator[Diagnostic]:
    """`lora.modules_to_save` names modules by the ends of their names. A name that hits nothing
    trains nothing; a module cannot be trained whole and adapted at once; a quantized weight cannot
    be trained at all; and only LoRA and AdaLoRA keep a tied embedding tied.
    """
    adapter, model = context.spec.lora, context.facts.model
    if not isinstance(adapter, TargetedAdapter) or model is None or not adapter.modules_to_save:
        return
    asked = adapter.modules_to_save
    if any(_malformed(targets) for _, targets in _asked(adapter)):
        return
    problem = _not_whole(context, model, adapter)
    if problem is None:
        return
    wrong, message = problem
    kept = [name for name in asked if name != wrong]
    yield Diagnostic(
        "LF613",
        message,
        key="lora.modules_to_save",
        notes=(f"trained whole most often: {', '.join(sorted(ends_of_embeddings(model)))}",),
        hint=override("lora.modules_to_save", kept),
    )


def _not_whole(
    context: Context, model: ModelFacts, adapter: TargetedAdapter
) -> tuple[str, str] | None:
    """The first name that cannot be trained whole, and why."""
    adapted = {m.name for m in hit_modules(model, adapter)}
    linear = {m.name for m in model.linear_modules if m.role != "head"}
    quantized = isinstance(context.spec.quantization, BitsAndBytes)
    for name in adapter.modules_to_save:
        hit = saved_modules(model, [name])
        blocks = [n for n in hit if other_modules(model).get(n) == "block"]
        if not hit and other_modules(model):
            return name, f"`{name}` is the end of no module's name"
        if any(n in adapted or any(a.startswith(f"{n}.") for a in adapted) for n in hit):
            return name, f"`{name}` is adapted by lora.targets and trained whole as well"
        if quantized and (blocks or set(hit) & linear):
            return name, f"`{name}` is quantized and cannot be trained whole"
        if trains_tied_embedding(model, [name]) and not isinstance(adapter, LowRank | AdaLora):
            return name, f"`{name}` is tied, which {adapter.kind} adapters would undo"
    return None


@rule("LF621", "experts that the adapter does not reach")
def experts_stay_frozen(context: Context) -> Iterator[Diagnostic]:
    """In a mixture of experts most weights are the experts', which are stacked in parameters of
    three dimensions: `all-linear` names linear modules, so it adapts the attention (and experts
    that every token goes through) and leaves the others and the router as they are.

    A note, since that is how such models are adapted most often; roles say it outright.
    """
    adapter, model = context.spec.lora, context.facts.model
    if not isinstance(adapter, TargetedAdapter) or model is None or not model.experts:
        return
    if not is_all_linear(adapter.targets):
        return
    parts = [role for role in ("attention", "mlp") if resolve(model, f"role:{role}")]
    yield Diagnostic(
        "LF621",
        f"`all-linear` leaves the {model.experts} experts of each layer frozen: "
        f"{model.expert_parameters / model.parameters:.0%} of the weights",
        Severity.NOTE,
        key="lora.targets",
        notes=("experts are stacked in one parameter, which is no linear module",),
        hint=f"lora.targets=role:{'+'.join(parts)}",
    )
