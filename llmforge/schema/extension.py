"""Schema of components that stand in a run by names of the user's own: callbacks and metrics.

In: nothing. Out: `CallbackSpec` and `MetricSpec`, which people's own specs inherit from, and
`NAMED`, the top-level keys that hold such components: `callbacks: {counter: {kind: ...}}`.

Kinds are looked up in the registry while a configuration is parsed (`compiler/parse.py`). One
metric is shipped, `token_accuracy`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import SerializeAsAny, WithJsonSchema

from llmforge.registry import register
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
    measured on generated answers when `evaluation.answers` says so.

    `better` says which direction is the better one, where there is no doubt: a plan that chooses
    the best checkpoint by the other one is then refused.
    """

    effect = Effect.EVALUATION

    on: ClassVar[Literal["logits", "text"]] = "logits"
    better: ClassVar[Literal["minimize", "maximize"] | None] = None

    kind: str


@register("metric", "token_accuracy", "llmforge.build.measures:TokenAccuracy")
class TokenAccuracyMetric(MetricSpec):
    """Share of the tokens with loss that the model thinks likeliest, at every evaluation.

    Evaluation then holds the whole logits of a batch.
    """

    better = "maximize"

    kind: Literal["token_accuracy"]


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
