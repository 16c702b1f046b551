"""The table of codes: what each one means, for `llmforge explain CODE`.

Rules explain themselves in their docstrings (`compiler/rules/`); the codes of composing, probing
and running are explained here. `explain_code` joins both.
"""

from __future__ import annotations

from llmforge.codes.checking import CHECKING
from llmforge.codes.composing import COMPOSING
from llmforge.codes.exporting import EXPORTING
from llmforge.codes.launching import LAUNCHING
from llmforge.codes.running import RUNNING
from llmforge.codes.sweeping import SWEEPING

FAMILIES = {
    "LF1": "composition and schema",
    "LF2": "batch and schedule",
    "LF3": "precision and quantization",
    "LF4": "distributed",
    "LF5": "data",
    "LF6": "model and adapter",
    "LF7": "tracking and sweeps",
    "LF8": "at run time",
    "LF9": "export",
}

CODES: dict[str, tuple[str, str]] = {
    **COMPOSING,
    **CHECKING,
    **LAUNCHING,
    **SWEEPING,
    **RUNNING,
    **EXPORTING,
}
"""Code -> title, and text."""


def known_codes() -> dict[str, str]:
    """Every code with its title, rules included."""
    from llmforge.compiler.rules import RULES

    titles = {code: title for code, (title, _) in CODES.items()}
    titles |= {rule.code: rule.title for rule in RULES}
    return dict(sorted(titles.items()))


def explain_code(code: str) -> str | None:
    """Title, family and text of a code; None if there is no such code."""
    from llmforge.compiler.rules import RULES

    for rule in RULES:
        if rule.code == code:
            title, text = rule.title, _dedent(rule.text)
            break
    else:
        if code not in CODES:
            return None
        title, text = CODES[code]
    return f"{code}: {title} ({FAMILIES[code[:3]]})\n\n{text.strip()}"


def _dedent(text: str) -> str:
    import inspect

    return inspect.cleandoc(text)
