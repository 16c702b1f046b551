"""Arguments under the names of the installed versions: the one place that knows what was renamed.

In: the class or function of a library and keywords as the compiler lowered them. Out: the same
keywords under the names that are asked for here. Plans hold one name whatever is installed, so that
a plan made with one version runs with another. Ranges are those of `pyproject.toml`.

Not done: keywords that appeared or went away; the compiler does not lower those.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

RENAMED: Mapping[str, str] = {
    # transformers 5: deprecated alias, gone in 6
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}
"""Older name -> newer name, for every keyword of `lowered`."""


def current_names(accepts: Callable[..., Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords renamed to what `accepts` takes: the newer name where it is known, else the older.

    Args:
        accepts: a function, or a class by its constructor.
        keywords: under older or newer names. One that is in neither table nor signature stays as
            it is, for the library to refuse.
    """
    known = inspect.signature(accepts).parameters
    older = {new: old for old, new in RENAMED.items()}
    named = {}
    for name, value in keywords.items():
        new = RENAMED.get(name, name)
        old = older.get(name, name)
        named[new if new in known else old if old in known else name] = value
    return named
