"""`TrainingArguments` from the plan's keywords, and proof that they arrived.

In: the class, lowered keywords, a folder. Out: the arguments, each keyword standing in them as the
plan has it. The library renames, converts and silently replaces some values; whatever it replaced
otherwise than known here ends the run before it starts, since the plan would say one thing and the
run do another.

Which keywords there are, and of which types, was checked when the plan was made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from llmforge.build.library_names import current_names

_MISSING = object()


class ArgumentLost(ValueError):
    """The library took a keyword and made something else of it."""


def training_arguments(
    keywords: Mapping[str, Any],
    output_dir: Path,
    kind: type[TrainingArguments] = TrainingArguments,
    **more: Any,
) -> Any:
    """The arguments, looked at.

    Args:
        keywords: `training_arguments` of a plan.
        kind: the class, or one that inherits from it.
        more: keywords of that class alone.

    Raises:
        ArgumentLost: a value is not there as it was given.
        TypeError: the class has no such argument.
    """
    named = current_names(kind, keywords)
    made = kind(output_dir=str(output_dir), **named, **more)
    lost = [text for name, value in named.items() if (text := _lost(made, name, value))]
    if lost:
        raise ArgumentLost(f"not as the plan has it: {'; '.join(lost)}")
    return made


def _lost(made: TrainingArguments, name: str, value: Any) -> str | None:
    """What became of a value, where it is not what was given."""
    found = getattr(made, name, _MISSING)
    if found is _MISSING:
        return f"`{name}` was given and is gone"
    if value is None:
        return None  # null leaves it to the library
    asked, stands = _AS_WRITTEN.get(name, _alike)(value, found)
    return None if asked == stands else f"`{name}` was given as {value!r} and is {found!r}"


def _alike(value: Any, found: Any) -> tuple[Any, Any]:
    return value, found


def _names(value: Any, found: Any) -> tuple[Any, Any]:
    """Texts become lists of names; `none` an empty one."""
    asked = [] if value == "none" else value.split() if isinstance(value, str) else value
    return asked, [getattr(one, "value", one) for one in found or ()]


def _fields(value: Any, found: Any) -> tuple[Any, Any]:
    """A mapping becomes an object, or a mapping with more in it."""
    have = found if isinstance(found, Mapping) else vars(found)
    return dict(value), {key: have.get(key, _MISSING) for key in value}


def _switch(value: Any, found: Any) -> tuple[Any, Any]:
    return bool(value), bool(found) and found != "no"


_AS_WRITTEN: Mapping[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "report_to": _names,
    "debug": _names,
    "accelerator_config": _fields,
    "fsdp_config": _fields,
    "fsdp": _switch,
    "include_num_input_tokens_seen": lambda value, found: (
        {True: "all", False: "no"}.get(value, value),
        found,
    ),
}
"""Argument -> how what was given and what stands there now are compared."""
