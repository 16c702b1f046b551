"""Does an adapter fit a base? By config and by the shapes in the files' heads.

In: a base's config.json and tensors, the plan of the training, an adapter's tensors. Out: what does
not fit, in words, or None. No weights are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llmforge.plan import Plan
from llmforge.run.making.headers import Header

_SHAPE = ("layers", "hidden", "heads", "kv_heads", "experts")
_PART = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])(\.\w+)?\.weight")


def other_shape(config: Mapping[str, Any], plan: Plan | None) -> str | None:
    """What of the shape is another than in training."""
    # imported late, as all of `run` starts without the compiler
    from llmforge.compiler.facts.families import BadConfig, UnknownFamily, facts_from_config

    trained = plan.facts.get("model") if plan is not None else None
    if not trained:
        return None
    try:
        found = facts_from_config(dict(config))
    except (UnknownFamily, BadConfig):
        return None  # the weights themselves are compared with the adapter's
    if trained.get("family") and found.family != trained["family"]:
        return f"{found.family}, and the adapter was trained over {trained['family']}"
    for name in _SHAPE:
        was, now = trained.get(name), getattr(found, name)
        if was is not None and now is not None and was != now:
            return f"{name.replace('_', ' ')} {now}, and {was} in training"
    return None


def other_modules(parts: Mapping[str, Header], base: Mapping[str, Header]) -> str | None:
    """Where the low-rank parts of an adapter do not fit the weights of a base.

    Weights that the files of the base have under other names than the model (stacked experts) are
    left to the merge.
    """
    weights = {name.removesuffix(".weight"): one.shape for name, one in base.items()}
    fitting, missing = 0, []
    for name, part in parts.items():
        named = _PART.fullmatch(name)
        if named is None or len(part.shape) != 2:  # convolutions and the like
            continue
        shape = _of_module(named["module"], weights)
        if shape is None or len(shape) != 2:
            missing.append(named["module"])
            continue
        width = part.shape[1] if named["side"] == "A" else part.shape[0]
        if width not in shape:
            return f"{named['module']} is {shape[0]} x {shape[1]}, the adapter's side has {width}"
        fitting += 1
    if fitting and missing:
        return f"it has no {missing[0]}, which the adapter changes"
    return None


def _of_module(module: str, weights: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """Shape of a module's weight; files may leave out what all names of the model begin with."""
    while module:
        if module in weights:
            return weights[module]
        _, _, module = module.partition(".")
    return None
