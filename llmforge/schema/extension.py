"""Schema of components that stand in a run by names of the user's own: callbacks and metrics.

In: nothing. Out: `CallbackSpec` and `MetricSpec`, which people's own specs inherit from, and
`NAMED`, the top-level keys that hold such components: `callbacks: {counter: {kind: ...}}`.

Kinds are looked up in the registry while a configuration is parsed (`compiler/parse.py`). None is
shipped.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import SerializeAsAny, WithJsonSchema

from llmforge.schema.base import Effect, Spec


class CallbackSpec(Spec):
    """A callback of one's own: its fields are the keywords that its class is made with.

    They change the weights (`Effect.NUMERICS`), since a callback may stop or steer a run, unless
    the class or a field says otherwise.
    """

    kind: str


class MetricSpec(Spec):
    """A metric of one's own: its fields are the keywords that its class is made with.

    `on` says what its class is: a `LogitsMetric`, measured at every evaluation, or a `TextMetric`,
    measured at the end on generated answers.
    """

    effect = Effect.EVALUATION

    on: ClassVar[Literal["logits", "text"]] = "logits"

    kind: str


NAMED: dict[str, str] = {"callbacks": "callback", "metrics": "metric"}
"""Top-level key -> the registry's section of what stands in it."""

_JSON: dict[str, Any] = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "properties": {"kind": {"type": "string"}},
        "required": ["kind"],
    },
}

# empty they are bookkeeping, as no run was changed by them; what stands in them has its own effects
Callbacks = Annotated[
    dict[str, SerializeAsAny[CallbackSpec]], Effect.BOOKKEEPING, WithJsonSchema(_JSON)
]
Metrics = Annotated[
    dict[str, SerializeAsAny[MetricSpec]], Effect.BOOKKEEPING, WithJsonSchema(_JSON)
]
