"""What is to be uploaded, where to, and as whom.

In: the section `hub` of a plan, or the flags of `llmforge push` over it. Out: `Order`. The token
stays a reference here; it is looked up when the hub is spoken to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llmforge.plan import Plan

What = Literal["model", "adapter", "checkpoint", "fused", "quantized", "folder"]
"""`hub.what`, what was made of the model since, or a folder that is no run's."""


@dataclass(frozen=True)
class Order:
    """One wish for an upload; fields as in `schema/hub.py`."""

    repository: str
    revision: str
    private: bool
    token: str
    """`env:NAME`."""
    what: What
    base_model: str | None
    add_bos: bool | None
    attempts: int
    wait: float
    timeout: float

    @classmethod
    def of(cls, hub: Mapping[str, Any]) -> Order:
        """From the values of a `hub` section of kind `push` that names a repository."""
        return cls(**{name: hub[name] for name in cls.__dataclass_fields__})


def order_of(plan: Plan) -> Order | None:
    """What the plan asks for; None when it pushes nothing."""
    hub = plan.settings["hub"]
    return Order.of(hub) if hub["kind"] == "push" else None
