"""Schema of what others get to see: the upload to the Hugging Face hub, and the model card.

In: nothing. Out: the specs of `hub` (`none`, `push`) and of `card`.

Nothing here changes what a run computes, so every field is bookkeeping.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmforge.registry import register
from llmforge.schema.base import Effect, NonNegativeInt, SecretRef, Spec


class HubSpec(Spec):
    """Upload to the Hugging Face hub."""

    effect = Effect.BOOKKEEPING

    kind: str
    repository: str | None
    """Where to: `owner/name`, of a user or an organization; made when missing."""


@register("hub", "none")
class NoHub(HubSpec):
    """Nothing is uploaded; `llmforge push REF` can do it later."""

    kind: Literal["none"]


@register("hub", "push")
class PushHub(HubSpec):
    """Upload beside and after the training. What fails is a warning and can be repeated."""

    kind: Literal["push"]
    revision: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]*$")
    """Branch of the repository; made when missing."""
    private: bool
    """Make the repository private when it does not exist yet; one that exists stays as it is."""
    token: SecretRef
    """`env:NAME` of the variable that holds the token, here or in the file `paths.env_file`."""
    what: Literal["model", "adapter", "checkpoint"]
    """`model`: the final model (under LoRA the adapter, and a base made from scratch with it);
    `adapter`: the adapter and the tokenizer alone; `checkpoint`: the model, and in the folder
    `checkpoint/` of the repository the newest checkpoint with its training state."""
    when: Literal["end", "every_save"]
    """`end`: once, after training; `every_save`: each checkpoint as well, in the background. A
    checkpoint that comes while another is on its way waits, and gives way to a newer one."""
    base_model: str | None
    """Name under which others find the base of an adapter (`owner/name`); null takes the model's
    own name on the hub. It stands in the adapter's config and on the card."""
    add_bos: bool | None
    """Begin texts with the BOS token, and end them with none, in the tokenizer that is uploaded;
    the run's own copy stays as it was trained with. null leaves it."""
    check: bool
    """Ask the hub before the run starts whether the token may write there."""
    attempts: Annotated[int, Field(ge=1)]
    """How often an upload is tried when the hub does not answer or is in trouble."""
    wait: Annotated[float, Field(ge=0.0)]
    """Seconds before the second attempt; doubled before each that follows."""
    timeout: Annotated[float, Field(gt=0.0)]
    """Seconds without a byte from the hub after which a request counts as failed."""
    patience: NonNegativeInt
    """Seconds that a finished run waits for an upload in the background before its own."""


class CardSpec(Spec):
    """The model card: README.md in the run folder, beside the model, and on the hub."""

    effect = Effect.BOOKKEEPING

    license: str | None
    """Licence of the trained model as the hub spells it (`apache-2.0`); null leaves it out: it is
    yours to choose, within what the base model and the data allow."""
    language: str | None
    """Language of the model (`en`); null leaves it out."""
    tags: list[str]
    """Words to find it by."""
    text: str | None
    """File with text of your own (Markdown), put under the title as it is; null for none."""
