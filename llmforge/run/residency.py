"""May trials share a process and a frozen base, one after another? Decided from their plans alone.

In: a plan. Out: why its worker must be a process of its own, or nothing; and what two plans must
have in common to be run by one resident worker (`residents.py`).

A trial may share when nothing that it does is left behind in the process: its adapter lies around a
copy of the base's modules that shares their weights, and no weight of the base is trained, merged
or replaced. Code of the user's own may do anything, so it never shares.

This module does not start anything and does not import torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from llmforge import registry
from llmforge.plan import Plan, canonical_digest
from llmforge.run import environment

FROZEN_BASE = ("lora", "eva", "vera", "adalora", "ia3", "prompt", "prefix")
"""Adapters that leave the base's weights as they are."""

CHANGED_BASE = ("pissa", "olora", "loftq")
"""Starts of LoRA that take something out of the base's weights, or are made from what quantizing
took from them."""

PER_TRIAL = (environment.ATTEMPT, environment.QUIET, environment.PREVIEW)
"""Variables of a worker's environment that differ between trials."""

_WITH_BUILDERS = ("model", "lora", "trainer", "collator", "optimizer", "schedule", "tracking")


def own_process(plan: Plan) -> str | None:
    """Why the plan's worker must be a process of its own; None where it may share one."""
    return next(filter(None, (test(plan) for test in _TESTS)), None)


def share_key(plan: Plan, variables: Mapping[str, str]) -> str:
    """Digest of what two runs have in common when one resident worker may run both.

    Args:
        plan: may share.
        variables: environment of its worker. Most of them count when a process starts and never
            again: threads, devices, the allocator.
    """
    apart = (*PER_TRIAL, environment.DRIVER_PID)
    base = {
        **{name: plan.settings[name] for name in ("model", "quantization", "precision")},
        "lowered": {name: plan.lowered[name] for name in ("model", "quantization_config")},
        "identity": plan.facts["identity"]["model"],
        "deterministic": plan.settings["deterministic"],
        "versions": environment.versions(),
        "folder": os.getcwd(),  # noqa: PTH109 - the worker's too, and compared as text
        "environment": {name: text for name, text in variables.items() if name not in apart},
    }
    return canonical_digest(base)


def _kind(plan: Plan, section: str) -> str:
    return str(plan.settings[section]["kind"])


def _spread(plan: Plan) -> str | None:
    if _kind(plan, "launch") != "local":
        return f"launch={_kind(plan, 'launch')} starts processes of its own"
    for section in ("deepspeed", "fsdp"):
        if _kind(plan, section) != "none":
            return f"{section} shards the model"
    if plan.lowered["model"].get("device_map") is not None:
        return "model.device_map spreads the base over devices"
    return None


def _base(plan: Plan) -> str | None:
    adapter: dict[str, Any] = plan.settings["lora"]
    kind = adapter["kind"]
    if kind == "none":
        return "all weights are trained (lora=none)"
    if kind not in FROZEN_BASE:
        return f"lora.kind={kind} is not known to leave the base as it is"
    if adapter.get("init") in CHANGED_BASE and kind == "lora":
        return f"lora.init={adapter['init']} starts from the base's own weights and changes them"
    if adapter.get("bias", "none") != "none":
        return f"lora.bias={adapter['bias']} trains biases of the base"
    if adapter.get("modules_to_save"):
        return "lora.modules_to_save trains modules of the base"
    if _kind(plan, "quantization") == "gptq":
        return "layers of GPTQ keep more than weights"
    if plan.settings["model"].get("trust_remote_code"):
        return "code of the model's repository may do anything to the process"
    return None


def _training(plan: Plan) -> str | None:
    trainer = plan.settings["trainer"]
    if _kind(plan, "trainer") != "lm":
        return f"trainer.kind={_kind(plan, 'trainer')} holds more models than one"
    if trainer["compile"]:
        return "trainer.compile leaves compiled code in the process"
    if trainer.get("extra"):
        return "trainer.extra may change the libraries for the whole process"
    return None


def _own_code(plan: Plan) -> str | None:
    if plan.settings["plugins"] or _kind(plan, "hooks") != "none":
        return "code of your own (plugins, hooks) may do anything to the process"
    for section in ("callbacks", "metrics"):
        if plan.settings[section]:
            return f"{section} of your own may do anything to the process"
    for section in _WITH_BUILDERS:
        if registry.component(section, _kind(plan, section)).is_own:
            return f"{section} is of an installed plugin, which may do anything to the process"
    return None


_TESTS = (_spread, _base, _training, _own_code)
