"""Keywords of the adapter's configuration in PEFT.

In: a solved context. Out: keyword -> value and its source. Roles of targets become names here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llmforge.compiler.context import Context
from llmforge.compiler.facts.targets import (
    peft_targets,
    resolve,
    shortest_names,
    trains_tied_embedding,
)
from llmforge.compiler.lower.base import Lowered
from llmforge.schema.adapter import (
    AdaLora,
    AdapterSpec,
    Eva,
    Ia3,
    Lora,
    LowRank,
    NoAdapter,
    PrefixTuning,
    PromptTuning,
    TargetedAdapter,
    Vera,
)
from llmforge.schema.base import share_of

_INITS: dict[str, Any] = {"default": True}
"""Starts under PEFT's own names where these differ. LoftQ starts as LoRA does, and is then fitted
to the rounded base by the builder: PEFT's own needs a GPU and leaves the scale out."""


def adapter(context: Context) -> Lowered | None:
    """Keywords of PEFT's configuration; None without an adapter."""
    found = context.spec.lora
    if isinstance(found, NoAdapter):
        return None
    own = next((make for kind, make in _KINDS if isinstance(found, kind)), None)
    if own is None:
        return None
    return {**own(context, found), "task_type": ("CAUSAL_LM", "trainer.kind")}


def _targets(context: Context, found: TargetedAdapter) -> Lowered:
    model = context.facts.model
    return {
        "target_modules": (peft_targets(model, found.targets), "lora.targets"),
        "modules_to_save": (found.modules_to_save or None, "lora.modules_to_save"),
    }


def _tying(context: Context, found: TargetedAdapter) -> Lowered:
    tied = trains_tied_embedding(context.facts.model, found.modules_to_save)
    return {"ensure_weight_tying": (True, "lora.modules_to_save")} if tied else {}


def _low_rank(context: Context, found: LowRank) -> Lowered:
    lowered = {
        "r": (found.r, "lora.r"),
        "lora_alpha": (found.alpha, "lora.alpha"),
        "lora_dropout": (found.dropout, "lora.dropout"),
        "bias": (found.bias, "lora.bias"),
        "use_rslora": (found.rslora, "lora.rslora"),
        "use_dora": (found.dora, "lora.dora"),
        **_targets(context, found),
        **_tying(context, found),
    }
    if isinstance(found, Lora):
        init = "default" if found.init == "loftq" else found.init
        lowered["init_lora_weights"] = (_INITS.get(init, init), "lora.init")
    if isinstance(found, Eva):
        lowered["init_lora_weights"] = ("eva", "lora.kind")
        # rank 1 x r at most: every module keeps its rank, so sizes are known before training
        lowered["eva_config"] = ({"rho": 1.0, "tau": found.similarity}, "lora.similarity")
    return lowered


def _vera(context: Context, found: Vera) -> Lowered:
    return {
        "r": (found.r, "lora.r"),
        "vera_dropout": (found.dropout, "lora.dropout"),
        "d_initial": (found.initial, "lora.initial"),
        "save_projection": (found.save_projection, "lora.save_projection"),
        "projection_prng_key": (context.spec.seed, "seed"),
        "bias": (found.bias, "lora.bias"),
        **_targets(context, found),
    }


def _adalora(context: Context, found: AdaLora) -> Lowered:
    steps = context.facts.steps
    # PEFT adds its term in every forward pass, the Trainer sums over passes and processes
    accumulation, processes = context.spec.trainer.accumulation, context.spec.launch.processes
    passes = math.prod(n for n in (accumulation, processes) if isinstance(n, int))
    return {
        "init_r": (found.initial_r, "lora.initial_r"),
        "target_r": (found.target_r, "lora.target_r"),
        "lora_alpha": (found.alpha, "lora.alpha"),
        "lora_dropout": (found.dropout, "lora.dropout"),
        "bias": (found.bias, "lora.bias"),
        "tinit": (steps_of(found.warmup, steps), "lora.warmup"),
        "tfinal": (steps_of(found.final, steps), "lora.final"),
        "deltaT": (found.interval, "lora.interval"),
        "beta1": (found.sensitivity_decay, "lora.sensitivity_decay"),
        "beta2": (found.uncertainty_decay, "lora.uncertainty_decay"),
        "orth_reg_weight": (found.orthogonality / passes, "lora.orthogonality"),
        "total_step": (steps, "estimate.steps"),
        **_targets(context, found),
        **_tying(context, found),
    }


def steps_of(value: int | str, steps: int | None) -> int | None:
    """Optimizer steps of a number or a share of the run; None while the run's are not known."""
    share = share_of(value)
    if share is None:
        return int(value)
    return None if steps is None else round(share * steps)


def _ia3(context: Context, found: Ia3) -> Lowered:
    model = context.facts.model
    lowered = _targets(context, found)
    inputs = peft_targets(model, found.feedforward)
    if model is not None and isinstance(inputs, list):
        # PEFT wants the very names of the one list in the other
        fed = resolve(model, found.feedforward)
        inputs = shortest_names(model, fed)
        if isinstance(lowered["target_modules"][0], list):
            rest = [m for m in resolve(model, found.targets) if m not in fed]
            names = [*shortest_names(model, rest), *inputs]
            lowered["target_modules"] = (names, "lora.targets")
    return {"feedforward_modules": (inputs, "lora.feedforward"), **lowered}


def _prompt(_: Context, found: PromptTuning) -> Lowered:
    init = {"uniform": "RANDOM", "vocabulary": "SAMPLE_VOCAB"}[found.init]
    return {
        "num_virtual_tokens": (found.tokens, "lora.tokens"),
        "prompt_tuning_init": (init, "lora.init"),
    }


def _prefix(_: Context, found: PrefixTuning) -> Lowered:
    return {
        "num_virtual_tokens": (found.tokens, "lora.tokens"),
        "init_weights": ("zero" if found.init == "zero" else None, "lora.init"),
    }


_Make = Callable[[Context, Any], Lowered]
_KINDS: tuple[tuple[type[AdapterSpec], _Make], ...] = (
    (LowRank, _low_rank),
    (Vera, _vera),
    (AdaLora, _adalora),
    (Ia3, _ia3),
    (PromptTuning, _prompt),
    (PrefixTuning, _prefix),
)
