"""Which modules an adapter's target hits.

In: `ModelFacts` and the `lora` section. Out: linear modules, the names that PEFT needs to hit
exactly these, and what else a target hits. A role (`role:query+value`) is a part of the
architecture, so that one preset fits every family: where query, key and value are one module, any
of them means it.

This module does not judge (`rules/adapter.py` refuses) and does not count (`trained.py`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from llmforge.compiler.facts.families import LinearModule, ModelFacts, match_modules
from llmforge.compiler.facts.others import other_modules
from llmforge.schema.adapter import AdapterSpec, TargetedAdapter, Targets

ROLE = "role:"

_QKV = ("query", "key", "value")
_ATTENTION_PARTS: dict[str, tuple[str, ...]] = {
    "q_proj": ("query",),
    "k_proj": ("key",),
    "v_proj": ("value",),
    "query_key_value": _QKV,
    "c_attn": _QKV,
    "qkv_proj": _QKV,
    **dict.fromkeys(("o_proj", "out_proj", "c_proj", "dense"), ("output",)),
}
_MLP_PARTS: dict[str, tuple[str, ...]] = {
    "gate_proj": ("gate",),
    "gate_up_proj": ("gate", "up"),
    **dict.fromkeys(("up_proj", "fc1", "c_fc", "fc_in", "dense_h_to_4h"), ("up",)),
    **dict.fromkeys(("down_proj", "fc2", "c_proj", "fc_out", "dense_4h_to_h"), ("down",)),
}
ROLES = ("attention", "mlp", *_QKV, "output", "gate", "up", "down", "head")
"""Every role that a target may name."""


def roles_of(module: LinearModule) -> frozenset[str]:
    """The roles that hit a module: its block's, and those of what it computes there."""
    parts = {"attention": _ATTENTION_PARTS, "mlp": _MLP_PARTS}.get(module.role, {})
    return frozenset((module.role, *parts.get(module.name.rpartition(".")[2], ())))


def roles_asked(targets: Targets) -> tuple[str, ...] | None:
    """The roles that a target names; None when it names modules in another way."""
    if not isinstance(targets, str) or not targets.startswith(ROLE):
        return None
    return tuple(targets.removeprefix(ROLE).split("+"))


def resolve(model: ModelFacts, targets: Targets) -> tuple[LinearModule, ...]:
    """The linear modules that a target hits, in the model's order.

    `all-linear` leaves out the router of a mixture of experts, as well as the output head: an
    adapter there would deal tokens out otherwise than the frozen experts have learned.
    A pattern that is no regular expression hits nothing: LF601 says why.
    """
    asked = roles_asked(targets)
    if asked is None:
        try:
            hit = match_modules(model, targets)
        except re.error:
            return ()
        whole = is_all_linear(targets) and names_are_known(model)
        return tuple(m for m in hit if m.role != "router") if whole else hit
    return tuple(m for m in model.linear_modules if roles_of(m) & set(asked))


def hit_modules(model: ModelFacts, adapter: AdapterSpec) -> tuple[LinearModule, ...]:
    """The linear modules that an adapter changes; none for full training or virtual tokens."""
    return resolve(model, adapter.targets) if isinstance(adapter, TargetedAdapter) else ()


def by_ending(modules: Sequence[LinearModule]) -> dict[str, int]:
    """How many modules of each last name: `{"q_proj": 32, "v_proj": 32}`."""
    return dict(Counter(module.name.rpartition(".")[2] for module in modules))


def is_all_linear(targets: Targets) -> bool:
    """Is it the word for every linear module, in any case, as PEFT takes it?"""
    return isinstance(targets, str) and targets.lower() == "all-linear"


def names_are_known(model: ModelFacts) -> bool:
    """Are the norms and embeddings of the model known by name, so that an ending of a name can be
    told to hit linear modules only? Not so for a family that was built to be looked at."""
    return "embedding" in other_modules(model).values()


def peft_targets(model: ModelFacts | None, targets: Targets) -> Targets:
    """`target_modules` for PEFT: as given, or for roles the shortest names that hit just these.

    `all-linear` becomes names as well, where those are known: PEFT reads the word by the types of
    modules, and takes the experts and the router of a mixture for linear ones.

    Args:
        model: facts; without them roles cannot be resolved and are handed on (a rule refuses).
        targets: of the `lora` section.
    """
    if model is None:
        return targets
    if is_all_linear(targets) and not names_are_known(model):
        return targets
    if roles_asked(targets) is None and not is_all_linear(targets):
        return targets
    return shortest_names(model, resolve(model, targets))


def shortest_names(model: ModelFacts, modules: Sequence[LinearModule]) -> list[str]:
    """Endings of names, each hitting modules among these only and together all of them."""
    wanted = {module.name for module in modules}
    known = [*(module.name for module in model.linear_modules), *other_modules(model)]
    fits: dict[str, bool] = {}
    found: dict[str, None] = {}
    for name in (n for n in known if n in wanted):
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            ending = ".".join(parts[-length:])
            if ending not in fits:
                hits = {n for n in known if f".{n}".endswith(f".{ending}")}
                fits[ending] = hits <= wanted
            if fits[ending]:
                found[ending] = None
                break
    return list(found)


def saved_modules(model: ModelFacts, endings: Sequence[str]) -> tuple[str, ...]:
    """Names of the modules that `modules_to_save` hits: PEFT compares the ends of names."""
    names = (*(m.name for m in model.linear_modules), *other_modules(model))
    return tuple(name for name in names if endings and name.endswith(tuple(endings)))


def embeddings_and_head(model: ModelFacts) -> tuple[str, ...]:
    """Names of the modules that share one weight in a model with tied embeddings."""
    heads = (m.name for m in model.linear_modules if m.role == "head")
    tables = (name for name, kind in other_modules(model).items() if kind == "embedding")
    return (*heads, *tables)


def ends_of_embeddings(model: ModelFacts) -> set[str]:
    """Last names of the embeddings and the head, as `modules_to_save` takes them."""
    return {name.rpartition(".")[2] for name in embeddings_and_head(model)}


def trains_tied_embedding(model: ModelFacts | None, endings: Sequence[str]) -> bool:
    """Would `modules_to_save` train one of two modules that share their weight?"""
    if model is None or not model.tied_embeddings:
        return False
    return bool({*embeddings_and_head(model)} & set(saved_modules(model, endings)))


def is_pattern(targets: Targets) -> bool:
    """Is a target a regular expression?"""
    if not isinstance(targets, str) or targets.startswith(ROLE):
        return False
    return not is_all_linear(targets)


def others_hit(model: ModelFacts, targets: Targets) -> dict[str, str]:
    """What a target hits that is no linear module: name -> `norm`, `embedding`, `positions`,
    `block`; PEFT would refuse most of these while the model is built."""
    asked = roles_asked(targets)
    if asked is not None or (isinstance(targets, str) and not is_pattern(targets)):
        return {}
    known = other_modules(model).items()
    if isinstance(targets, str):
        return {name: kind for name, kind in known if re.fullmatch(targets, name)}
    endings = tuple(f".{target}" for target in targets)
    return {name: kind for name, kind in known if f".{name}".endswith(endings)}
