"""LF230-LF234: arguments under `trainer.extra` that cannot be handed to `TrainingArguments`.

In: a solved context. Out: findings. Whose an argument is stands in
`schema/training_arguments.py`; names and types are those of the installed class.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmforge.compiler.context import Context
from llmforge.compiler.derive.machine import hardware
from llmforge.compiler.facts.arguments import Argument, expected
from llmforge.compiler.parse import override
from llmforge.compiler.rules.base import rule
from llmforge.compiler.rules.dividing import BATCH, batch_override
from llmforge.diagnostics import Diagnostic, did_you_mean, near
from llmforge.schema.training_arguments import ARGUMENTS, FORMER, Closed, Open, Owned, Say

_HELP = 160
"""Characters of the library's help that are shown."""


def _key(name: str) -> str:
    return f"trainer.extra.{name}"


def _entry(name: str) -> Owned | Open | Closed | None:
    return ARGUMENTS.get(name) or FORMER.get(name)


def _hint(say: Say, value: Any) -> str | None:
    words = [override(key, said) for key, said in say(value)]
    return " ".join(words) or None


def _taken(context: Context) -> Iterator[tuple[str, Any, Argument | None]]:
    """Extras that are free to be set, with what the installed class says of them."""
    known = context.facts.arguments
    for name, value in context.spec.trainer.extra.items():
        installed = known is None or name in known
        if installed and not isinstance(_entry(name), Owned | Closed):
            yield name, value, known[name] if known is not None else None


@rule("LF230", "training argument that does not exist")
def argument_unknown(context: Context) -> Iterator[Diagnostic]:
    """`trainer.extra` holds arguments of the installed transformers' `TrainingArguments`. One that
    it does not have would be refused by the library, after the data were prepared and the model
    was loaded.
    """
    known = context.facts.arguments
    for name, value in context.spec.trainer.extra.items():
        if _entry(name) is not None and (known is None or name in known or name in FORMER):
            continue
        if known is not None and name in known:
            continue  # newer than the table: the library's own checks are all there are
        names = known if known is not None else ARGUMENTS
        guess = near(name, names, 1)
        yield Diagnostic(
            "LF230",
            f"`TrainingArguments` has no argument `{name}`",
            key=_key(name),
            notes=did_you_mean(name, names),
            hint=_better_name(guess[0], value) if guess else None,
        )


def _better_name(name: str, value: Any) -> str | None:
    """The argument that was meant, as it would be accepted."""
    entry = _entry(name)
    if isinstance(entry, Owned | Closed):
        return _hint(entry.say, value)
    return override(_key(name), value)


@rule("LF231", "training argument of another type")
def argument_of_another_type(context: Context) -> Iterator[Diagnostic]:
    """The value has another type than the annotation of the installed `TrainingArguments` says.

    A data class checks nothing, so a text in place of a number would fail in the middle of a run,
    or be true where `false` was meant.
    """
    for name, value, argument in _taken(context):
        wanted = expected(argument.annotation, value) if argument is not None else None
        if argument is None or wanted is None:
            continue
        told = argument.help
        yield Diagnostic(
            "LF231",
            f"`{name}` is `{value}`; expected {wanted}",
            key=_key(name),
            notes=(told if len(told) <= _HELP else f"{told[:_HELP]}...",) if told else (),
            hint=_default(argument),
        )


def _default(argument: Argument) -> str | None:
    """The library's own value, where it is a plain one."""
    plain = {"None": "null", "True": "true", "False": "false"}
    text = plain.get(argument.default, argument.default)
    is_number = text.replace(".", "", 1).replace("-", "", 1).isdigit()
    if text in plain.values() or is_number:
        return f"{_key(argument.name)}={text}"
    quoted = text[:1] in "'\"" and len(text) > 2
    return f"{_key(argument.name)}={text[1:-1]}" if quoted else None


@rule("LF232", "training argument that has a key of its own")
def argument_owned(context: Context) -> Iterator[Diagnostic]:
    """What a key of llmforge lowers to is set by that key: by two ways, one of the values would be
    lost without a word, and what is solved from it (memory, steps, fingerprints) would be solved
    from the other.
    """
    for name, value in context.spec.trainer.extra.items():
        entry = _entry(name)
        if not isinstance(entry, Owned):
            continue
        hint = _owned_hint(context, entry, value)
        asked = "" if hint else f"; `llmforge explain {entry.key}` shows what it may be"
        yield Diagnostic(
            "LF232",
            f"`{name}` is decided by `{entry.key}`",
            key=_key(name),
            notes=(f"left out of `trainer.extra`, `{entry.key}` has its say{asked}",),
            hint=hint,
        )


def _owned_hint(context: Context, entry: Owned, value: Any) -> str | None:
    said = list(entry.say(value))
    if said and all(key in BATCH and isinstance(number, int) for key, number in said):
        return batch_override(context, dict(said))
    return _hint(entry.say, value)


@rule("LF233", "training argument that is not open")
def argument_closed(context: Context) -> Iterator[Diagnostic]:
    """Some arguments would break what a plan promises (another folder, another tracker, checkpoints
    that cannot be resumed), and some are read by nobody here. The note says which it is.
    """
    for name, value in context.spec.trainer.extra.items():
        entry = _entry(name)
        if isinstance(entry, Closed):
            yield Diagnostic(
                "LF233",
                f"`{name}` cannot be set",
                key=_key(name),
                notes=(entry.reason,),
                hint=_hint(entry.say, value),
            )


@rule("LF234", "training argument that cannot work here")
def argument_cannot_work(context: Context) -> Iterator[Diagnostic]:
    """TF32 is arithmetic of CUDA devices from Ampere on, and processes that read batches ahead need
    processes: without them the library stops, after the model was loaded.
    """
    trainer, machine = context.spec.trainer, hardware(context)
    if trainer.extra.get("tf32") is True and not (machine.device == "cuda" and machine.bf16):
        yield Diagnostic(
            "LF234",
            "TF32 on a machine without it",
            key=_key("tf32"),
            notes=(f"`{machine.name}` computes in whole float32",),
            hint=f"{_key('tf32')}=false",
        )
    if trainer.workers == 0:
        for name, given in (("prefetch", trainer.prefetch), ("keep_workers", trainer.keep_workers)):
            if given:
                yield Diagnostic(
                    "LF234",
                    f"`trainer.{name}` without processes that read",
                    key=f"trainer.{name}",
                    hint="trainer.workers=2",
                )
