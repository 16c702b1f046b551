"""Interpolations and mandatory values: from what Hydra composed to plain Python.

In: the composed config, unresolved. Out: `Resolved`: plain values without the `hydra` node, the
keys still at `???`, and every interpolation that fails. When all resolve this is one pass; when
one does not, each is resolved by itself, so that all failures are known by their keys.

It adds no resolvers: what OmegaConf and Hydra bring is all there is.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationToMissingValueError

from llmforge.compose.tree import MISSING
from llmforge.diagnostics import Diagnostic, near
from llmforge.origins import Origins, leaves


@dataclass(frozen=True)
class Broken:
    """An interpolation that does not resolve."""

    key: str
    text: str
    error: Exception

    @property
    def missing(self) -> str | None:
        """The key it refers to in vain, as written."""
        if not isinstance(self.error, InterpolationKeyError):
            return None
        found = re.search(r"Interpolation key '(.+?)' not found", str(self.error))
        return found[1] if found else None

    @property
    def wanted(self) -> str | None:
        """That key, from the top."""
        return _absolute(self.missing, self.key) if self.missing else None


@dataclass
class Resolved:
    """The plain values; failures are left out of them."""

    values: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)


_LEFT_OUT = object()


def resolve(config: DictConfig, raw: Mapping[str, Any]) -> Resolved:
    """Resolve everything but the `hydra` node. Raises nothing for what a config holds."""
    missing = [key for key, value in leaves(raw) if raw and _has_missing(value)]
    if not missing:
        try:
            return Resolved({key: _resolved(config[key]) for key in raw})
        except Exception:  # noqa: S110 - resolvers raise anything; found out one by one below
            pass
    out = Resolved(missing=missing)
    for key in raw:
        value = _walk(config, key, str(key), out)
        if value is not _LEFT_OUT:
            out.values[key] = value
    out.broken = _causes(out)
    return out


def _resolved(value: Any) -> Any:
    if isinstance(value, DictConfig | ListConfig):
        return OmegaConf.to_container(value, resolve=True)
    return value


def _has_missing(value: Any) -> bool:
    if isinstance(value, list):
        return any(_has_missing(item) for item in value)
    if isinstance(value, Mapping):
        return any(_has_missing(item) for item in value.values())
    return isinstance(value, str) and value == MISSING


def _walk(parent: Any, key: Any, name: str, out: Resolved) -> Any:
    """One child, its failures noted in `out`."""
    if OmegaConf.is_missing(parent, key):
        return _LEFT_OUT
    if OmegaConf.is_interpolation(parent, key):
        try:
            value = _resolved(parent[key])
        except Exception as error:  # as above; it becomes a diagnostic
            out.broken.append(Broken(name, _text(parent, key), error))
            return _LEFT_OUT
        return _LEFT_OUT if _has_missing(value) else value
    value = parent[key]
    if isinstance(value, DictConfig):
        below = {k: _walk(value, k, f"{name}.{k!s}", out) for k in value}
        kept = {k: v for k, v in below.items() if v is not _LEFT_OUT}
        return _LEFT_OUT if below and not kept else kept
    if isinstance(value, ListConfig):
        items = [_walk(value, index, f"{name}.{index}", out) for index in range(len(value))]
        return _LEFT_OUT if _LEFT_OUT in items else items
    return value


def _text(parent: Any, key: Any) -> str:
    raw: Any = OmegaConf.to_container(parent, resolve=False)
    return f"{raw[key]}"


def _causes(out: Resolved) -> list[Broken]:
    """Without the failures that follow from another one."""
    found = []
    for broken in out.broken:
        wanted = broken.missing
        if isinstance(broken.error, InterpolationToMissingValueError) and out.missing:
            continue  # the missing value is reported, filling it in cures this too
        if wanted is None or wanted in broken.text:
            found.append(broken)
    return found or [b for b in out.broken if not out.missing]


def missing_value(key: str, origins: Origins) -> Diagnostic:
    """LF105."""
    return Diagnostic(
        "LF105",
        f"`{key}` has no value yet (`???`)",
        key=key,
        origins=origins.chain(key),
        hint=f"{key}=<value>",
    )


def broken_interpolation(broken: Broken, known: Iterable[str], origins: Origins) -> Diagnostic:
    """LF106, with the key that was probably meant."""
    wanted = broken.missing
    chain = origins.chain(broken.key)
    if wanted is None:
        return Diagnostic(
            "LF106",
            f"`{broken.key}` cannot be resolved: {_reason(broken.error)}",
            key=broken.key,
            origins=chain,
            notes=(f"as written: {broken.text}",),
        )
    best = _nearest(broken.wanted or wanted, list(known))
    hint = None
    if best:
        hint = shlex.quote(f"{broken.key}={broken.text.replace(wanted, best)}")
    return Diagnostic(
        "LF106",
        f"`{broken.key}` refers to `{wanted}`, which does not exist",
        key=broken.key,
        origins=chain,
        notes=(*([f"did you mean `{best}`?"] if best else []), f"as written: {broken.text}"),
        hint=hint,
    )


def _nearest(wanted: str, known: list[str]) -> str | None:
    """The key that was probably meant: a sibling of its name, else any key."""
    section, _, last = wanted.rpartition(".")
    siblings = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == section}
    if found := near(last, siblings, limit=1):
        return siblings[found[0]]
    return next(iter(near(wanted, known, limit=1)), None)


def _reason(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0].strip()
    first = re.sub(r"^\w+ raised while resolving interpolation: ", "", first)
    return first.strip("\"'") or type(error).__name__


def _absolute(reference: str, holder: str) -> str:
    """`.r` in `lora.alpha` means `lora.r`; each further dot goes one level up."""
    dots = len(reference) - len(reference.lstrip("."))
    if not dots:
        return reference
    parents = holder.split(".")[: -dots or None]
    return ".".join([*parents, reference.lstrip(".")])


def without(values: Mapping[Any, Any], keys: set[str], prefix: str = "") -> dict[Any, Any]:
    """The values without these keys, what is below them, and sections they leave empty."""
    out = {}
    for key, value in values.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if name in keys:
            continue
        if isinstance(value, Mapping) and value:
            if below := without(value, keys, name):
                out[key] = below
        else:
            out[key] = value
    return out
