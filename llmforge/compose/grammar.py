"""Override texts outside Hydra's grammar, or that ask for a sweep (LF112).

In: the text and what the parser said. Out: a diagnostic with the place in the text and, where one
of a few corrections parses, the corrected text as its hint.
"""

from __future__ import annotations

import re
import shlex

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override as HydraOverride

from llmforge.diagnostics import Diagnostic
from llmforge.origins import Origin


def sweep(text: str, raw: HydraOverride) -> Diagnostic:
    """An override with several values, where one run was asked for."""
    value = text.partition("=")[2]
    notes = ["a single run takes one value per key; `-m` sweeps over all of them"]
    if "(" not in value:
        notes.append(f"a list is written {shlex.quote(f'{raw.get_key_element()}=[{value}]')}")
        quoted = shlex.quote(f'{raw.get_key_element()}="{value}"')
        notes.append(f"text with a comma is quoted: {quoted}")
    return Diagnostic(
        "LF112",
        f"override `{text}` is a sweep, and this is a single run",
        key=raw.key_or_group.replace("/", "."),
        origins=(Origin("override", text),),
        notes=tuple(notes),
        hint=f"llmforge train -m {shlex.quote(text)}",
    )


def unreadable(text: str, error: Exception, parser: OverridesParser) -> Diagnostic:
    """LF112: where in the text, and the nearest text that parses."""
    said = (str(error).splitlines() or [type(error).__name__])[0]
    at = _position(text, error, said)
    where = "" if at is None else f" at character {at + 1}"
    if at is not None:
        where += f" (`{text[at]}`)" if at < len(text) else " (its end)"
    fixed = next((c for c in _corrections(text) if _parses(c, parser)), None)
    notes = [said[:200]]
    if fixed is not None and '"' in fixed and '"' not in text:
        notes.append("a value with special characters stands in quotes")
    elif "=" not in text:
        notes.append("an override is written key=value")
    key = text.partition("=")[0].lstrip("+~-")
    return Diagnostic(
        "LF112",
        f"override `{text}` cannot be read{where}",
        key=key if re.fullmatch(r"\w+(\.\w+)*", key) else None,
        origins=(Origin("override", text),),
        notes=tuple(notes),
        hint=shlex.quote(fixed) if fixed is not None else _with_value(text),
    )


def _with_value(text: str) -> str | None:
    return f"{text}=<value>" if re.fullmatch(r"\w+([./]\w+)*", text) else None


def _position(text: str, error: Exception, said: str) -> int | None:
    """Where the grammar stopped: ANTLR's lexer and parser keep it in different places."""
    cause = error.__cause__
    index = getattr(cause, "startIndex", None)
    if index is None:
        index = getattr(getattr(cause, "offendingToken", None), "start", None)
    if index is None and (token := re.match(r"(?:extraneous|mismatched) input '(.+?)' exp", said)):
        index = len(text) if token[1] == "<EOF>" else text.rfind(token[1])
    if index is None and "<EOF>" in said:
        index = len(text)
    return index if isinstance(index, int) and 0 <= index <= len(text) else None


def _corrections(text: str) -> list[str]:
    """Texts that may have been meant, likeliest first."""
    bare = text.lstrip("-") if text.startswith("-") else text
    key, equals, value = bare.partition("=")
    if not equals:
        key, colon, value = bare.partition(":")
        return [f"{key.strip()}={value.strip()}"] if colon else []
    dots = re.sub(r"\[(\w+)\]", r".\1", key.strip())
    closing = "".join({"[": "]", "{": "}"}[c] for c in reversed(_unclosed(value)))
    quoted = value.strip("'\"").replace('"', '\\"')
    return [f"{dots}={value.strip()}", f"{dots}={value}{closing}", f'{dots}="{quoted}"']


def _unclosed(value: str) -> list[str]:
    stack: list[str] = []
    for char in value:
        if char in "[{":
            stack.append(char)
        elif char in "]}" and stack:
            stack.pop()
    return stack


def _parses(text: str, parser: OverridesParser) -> bool:
    try:
        return not parser.parse_override(text).is_sweep_override()
    except Exception:  # as above; a candidate that fails is simply not offered
        return False
