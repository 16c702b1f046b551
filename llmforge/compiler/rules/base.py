"""The shape of a rule: a code, a title, a function, its docstring."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llmforge.compiler.context import Context
from llmforge.diagnostics import Diagnostic

Check = Callable[[Context], Iterator[Diagnostic]]


@dataclass(frozen=True)
class Rule:
    """One refusal or warning."""

    code: str
    title: str
    """The fault in a few words, never the cure."""
    check: Check

    @property
    def text(self) -> str:
        """What it does, why it is bad, what to do instead."""
        return self.check.__doc__ or ""


_rules: list[Rule] = []


def rule(code: str, title: str) -> Callable[[Check], Check]:
    """Register a check under its code."""

    def add(check: Check) -> Check:
        if any(known.code == code for known in _rules):
            raise ValueError(f"rule {code} exists already")
        _rules.append(Rule(code, title, check))
        return check

    return add


def registered_rules() -> tuple[Rule, ...]:
    """All rules in order of their codes."""
    return tuple(sorted(_rules, key=lambda found: found.code))
