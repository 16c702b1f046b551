"""Proof that a fused model is its base and adapter.

In: two models, one after the other, never both in memory; probes; bounds. Out: a `Proof`: how far
logits, likeliest tokens, greedy texts, tokenizers and chat templates agree, whether that is within
the bounds, and if not, which module differs first.

Both are run in the same arithmetic. Rounding a sum of weights to bfloat16 moves a logit by some
hundredths of a deviation; an adapter that is missing, or in force by half, moves it by far more.
Where the bounds come from is told in `conf/fuse/default.yaml`.

This module merges nothing (`merge.py`) and prints nothing.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from llmforge.build.fusing.parity_figures import Agreement, agree, overall
from llmforge.build.fusing.parity_look import (
    Look,
    Probe,
    Seen,
    apart,
    continued,
    logits_of,
    longest,
    traced,
)
from llmforge.build.fusing.parity_tokens import differences

NOISE = 6.0
"""A module whose output is off by more than this many roundings of the fused format differs."""


@dataclass(frozen=True)
class Bounds:
    """What must hold; see the section `fuse`."""

    probe_tokens: int
    new_tokens: int
    max_kl: float
    min_agreement: float
    max_difference: float
    max_lost: float


@dataclass(frozen=True)
class Side:
    """One of the two models."""

    model: Any
    """In evaluation mode, on the device where it is to run."""
    tokenizer: Any
    generation: Any
    """Its generation config, or None."""
    dtype: str
    """Format that its weights are stored in, which may be another than it is run in."""


@dataclass(frozen=True)
class Text:
    """Greedy texts compared."""

    same: bool
    tokens: int
    """How many the first model said on."""
    parts_at: int | None
    """The first that differs."""
    margin: float | None
    """How far the first model's likeliest token was before the next there, in deviations."""


@dataclass(frozen=True)
class Compared:
    """One probe."""

    name: str
    agreement: Agreement
    text: Text


@dataclass(frozen=True)
class Module:
    """A module whose outputs differ."""

    name: str
    difference: float
    """Norm of the difference over the norm of the output."""
    effect: float
    """What the adapter changes there, likewise."""


@dataclass(frozen=True)
class Proof:
    """What was compared, and the verdict."""

    passed: bool
    reasons: tuple[str, ...]
    """Why not; empty when it passed."""
    overall: Agreement
    same_texts: int
    """Probes with the same greedy text."""
    probes: tuple[Compared, ...]
    tokenizer: tuple[str, ...]
    """What tokenizer, template and stops have otherwise; empty when all is equal."""
    first_difference: Module | None
    """Looked for when the proof fails by figures."""
    rounded_off: bool
    """It failed by figures, and no module is off by more than rounding to the fused format does: in
    float32 it would pass."""
    bounds: Bounds

    def to_dict(self) -> dict[str, Any]:
        """For JSON; figures that are no numbers are None."""
        found = asdict(self)
        assert isinstance(found, dict)  # noqa: S101 - a data class is one
        plain: dict[str, Any] = _plain(found)
        return plain

    def summary(self) -> str:
        """One line for people."""
        all_, count = self.overall, len(self.probes)
        return (
            f"KL {all_.mean_kl:.2g} nats a token, same likeliest token at {all_.agreement:.2%} of "
            f"{all_.tokens:,} places, logits within {all_.max_relative:.2g} deviations, "
            f"{all_.lost:.2g} of the adapter's effect lost, "
            f"{self.same_texts} of {count} greedy texts the same"
        )


Load = Callable[[], Side]


def prove(beside: Load, fused: Load, probes: Sequence[Probe], bounds: Bounds, store: Path) -> Proof:
    """Compare base and adapter with the model they were fused into.

    Args:
        beside: loads base and adapter; called first, and what it gave is let go before the other.
        fused: loads the fused model, in the same arithmetic.
        probes: encoded by the first model's tokenizer.
        store: a folder for the first model's logits, 4 bytes for each token and row of the
            vocabulary; the caller's to remove.

    Raises:
        ValueError: no probes.
    """
    if not probes:
        raise ValueError("a proof needs at least one probe")
    side = beside()
    look = _looked(side, probes, bounds, store)
    tokenizer, generation = side.tokenizer, side.generation
    del side
    gc.collect()
    side = fused()
    compared, rows = [], 0
    for probe in probes:
        seen = look.seen(probe.name)
        logits = logits_of(side.model, seen.ids)
        rows = logits.shape[1] - seen.logits.shape[1]
        greedy = continued(side.model, seen.ids, bounds.new_tokens, _stops(tokenizer, generation))
        agreement = agree(seen.logits, logits, seen.effect)
        compared.append(Compared(probe.name, agreement, _text(seen, greedy.tokens)))
    told = tuple(differences(tokenizer, side.tokenizer, generation, side.generation, probes))
    whole = overall([one.agreement for one in compared])
    reasons = _reasons(whole, compared, bounds)
    wrong, most = _modules(look, side, probes, bounds)
    if wrong is not None:
        reasons.append(
            f"the output of {wrong.name} is off by {wrong.difference:.1%}, where the adapter "
            f"changes it by {wrong.effect:.1%}"
        )
    if rows:
        reasons.append(f"the fused model has {abs(rows)} rows {'more' if rows > 0 else 'fewer'}")
    figures = bool(reasons)
    rounding = figures and wrong is None and not rows and side.dtype != "float32"
    reasons += told
    return Proof(
        not reasons, tuple(reasons), whole, sum(one.text.same for one in compared),
        tuple(compared), told, (wrong or most) if figures else None, rounding, bounds,
    )  # fmt: skip


def _looked(side: Side, probes: Sequence[Probe], bounds: Bounds, store: Path) -> Look:
    look = Look(store)
    limit = min(bounds.probe_tokens, longest(side.model, bounds.new_tokens))
    stops = _stops(side.tokenizer, side.generation)
    for number, probe in enumerate(probes):
        ids = probe.ids(side.tokenizer, limit)
        greedy = continued(side.model, ids, bounds.new_tokens, stops)
        logits = logits_of(side.model, ids)
        with side.model.disable_adapter():
            plain = logits_of(side.model, ids)
        look.add(probe.name, ids, logits, greedy, plain)
        if number == 0:
            outputs = traced(side.model, ids)
            with side.model.disable_adapter():
                look.add_trace(outputs, traced(side.model, ids))
    return look


def _stops(tokenizer: Any, generation: Any) -> list[int]:
    known = getattr(generation, "eos_token_id", None)
    if known is None:
        known = tokenizer.eos_token_id
    return [known] if isinstance(known, int) else list(known or [])


def _text(seen: Seen, tokens: Sequence[int]) -> Text:
    ours = seen.greedy.tokens
    if ours == tuple(tokens):
        return Text(True, len(ours), None, None)
    at = next(
        (place for place, (a, b) in enumerate(zip(ours, tokens, strict=False)) if a != b),
        min(len(ours), len(tokens)),
    )
    margins = seen.greedy.margins
    return Text(False, len(ours), at, margins[at] if at < len(margins) else None)


def _reasons(whole: Agreement, compared: Sequence[Compared], bounds: Bounds) -> list[str]:
    found = []
    if not whole.mean_kl <= bounds.max_kl:
        found.append(
            f"the mean KL divergence is {whole.mean_kl:.2g} nats a token, at most "
            f"{bounds.max_kl:g} is allowed"
        )
    if not whole.agreement >= bounds.min_agreement:
        found.append(
            f"the likeliest token is the same at {whole.agreement:.1%} of the places, "
            f"{bounds.min_agreement:.1%} is asked for"
        )
    if not whole.max_relative <= bounds.max_difference:
        found.append(
            f"a logit differs by {whole.max_relative:.2g} standard deviations, at most "
            f"{bounds.max_difference:g} is allowed"
        )
    if not whole.lost <= bounds.max_lost:
        found.append(
            f"logits are off by {whole.lost:.0%} of what the adapter changes in them, at most "
            f"{bounds.max_lost:.0%} is allowed"
        )
    for one in compared:
        sure = one.text.margin is not None and not one.text.margin <= bounds.max_difference
        if not one.text.same and sure:
            found.append(
                f"the greedy text of the probe {one.name} parts at token {one.text.parts_at}, "
                f"where base and adapter were sure by {one.text.margin:.2g} deviations"
            )
    return found


def _modules(
    look: Look, side: Side, probes: Sequence[Probe], bounds: Bounds
) -> tuple[Module | None, Module | None]:
    """The first wrong module, in the order in which they run, and the one that is off most.

    Wrong is an output that is off by more than rounding explains and by a good share of what the
    adapter changes in it: one module's missing adapter hardly shows in the logits of a deep model.
    """
    ours, theirs = look.trace(), traced(side.model, look.seen(probes[0].name).ids)
    found = [
        Module(name, apart(one, theirs[name]), look.effects[name])
        for name, one in ours.items()
        if name in theirs and theirs[name].shape == one.shape
    ]
    formats = (getattr(torch, side.dtype), side.model.dtype)
    noise = NOISE * max(float(torch.finfo(one).eps) for one in formats)
    for module in found:
        if not (module.difference <= noise or module.difference <= bounds.max_lost * module.effect):
            return module, module
    return None, max(found, key=lambda module: module.difference, default=None)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if not isinstance(value, float) or math.isfinite(value) else None
