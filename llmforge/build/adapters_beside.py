"""Adapters beside each other: one base, several adapters, switched by name.

In: a loaded model and the place of another adapter. Out: the model with that adapter in it, under a
name of its own; or `NotLoadable`, when it was trained over another base or with other tokens.
"""

from __future__ import annotations

import re
from typing import Any

from peft import PeftConfig, PeftModel

from llmforge.build.load import is_adapter
from llmforge.build.places import DEFAULT, NotLoadable, Place, base_identity, told
from llmforge.build.tokenizer import open_tokenizer

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")


def with_adapter(model: Any, tokenizer: Any, name: str, other: Place, main: Place) -> Any:
    """The model with one more adapter; the one that was active stays active."""
    if name == DEFAULT or not _NAME.fullmatch(name):
        raise NotLoadable(
            f"`{name}` cannot name an adapter",
            (f"letters, digits, `_` and `-`; `{DEFAULT}` is the one the model came with",),
        )
    if other.folder is None or not is_adapter(other.folder):
        raise NotLoadable(f"{other.label} has no adapter: it holds full weights")
    ours, theirs = base_identity(main), base_identity(other)
    if ours != theirs:
        raise NotLoadable(
            f"the adapter {other.label} was trained over another base than {main.label}",
            (f"{main.label}: {told(ours)}", f"{other.label}: {told(theirs)}"),
        )
    own = open_tokenizer(other.folder)
    if own.get_vocab() != tokenizer.get_vocab():
        raise NotLoadable(f"{other.label} was trained with other tokens than {main.label}")
    kind = PeftConfig.from_pretrained(str(other.folder)).peft_type
    if not isinstance(model, PeftModel):
        return PeftModel.from_pretrained(model, str(other.folder), adapter_name=name)
    virtual = [config.is_prompt_learning for config in model.peft_config.values()]
    if any(virtual) or PeftConfig.from_pretrained(str(other.folder)).is_prompt_learning:
        raise NotLoadable(
            f"virtual tokens ({other.label} is {str(kind).rpartition('.')[2].lower()}) cannot be "
            "switched beside other adapters; load each by itself"
        )
    model.load_adapter(str(other.folder), name)
    return model
