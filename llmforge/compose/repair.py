"""The slow path: Hydra refused, and the user is owed every reason at once.

In: the readable overrides. Out: a composition of all that works, and a diagnostic for each thing
that does not. Hydra stops at its first fault, so faults are taken out one after the other: files
that are asked for but missing, choices Hydra refuses, values it cannot set. What keys exist is
explained in `unknown.py`.

It runs only after a composition failed, and may compose a dozen times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from llmforge.compose.hydra_link import Composition, HydraLink
from llmforge.compose.overrides import Override, unknown_option
from llmforge.compose.unknown import Unknowns
from llmforge.diagnostics import Diagnostic, near
from llmforge.origins import Origin

_MOST_MISSING_FILES = 50


@dataclass
class Repaired:
    """What could be composed (None: nothing), and from which overrides."""

    composition: Composition | None
    overrides: list[Override]
    diagnostics: list[Diagnostic] = field(default_factory=list)
    clouded: set[str] = field(default_factory=set)


def repair(link: HydraLink, overrides: Sequence[Override]) -> Repaired:
    """Compose as much as composes and say what does not. Raises nothing for a user's fault."""
    out = Repaired(None, [])
    base = _choices(link, out, [o for o in overrides if o.is_group])
    if base is None:
        return out
    out.composition = base
    good = _values(link, out, base, [o for o in overrides if not o.is_group])
    final = _compose(link, out, good)
    if isinstance(final, Exception):
        good = _one_by_one(link, out, good)
        final = _compose(link, out, good)
    if isinstance(final, Composition):
        out.composition, out.overrides = final, good
    return out


def _choices(
    link: HydraLink, out: Repaired, choices: Sequence[Override]
) -> Composition | None:
    """The composition of all choices that Hydra takes; None if not even the defaults compose."""
    base = _compose(link, out, choices)
    if isinstance(base, Composition):
        out.overrides = list(choices)
        return base
    base = _compose(link, out, ())
    if isinstance(base, Exception):
        out.diagnostics.append(_refused(base, None))
        return None
    for choice in choices:
        tried = _compose(link, out, (*out.overrides, choice))
        if isinstance(tried, Exception):
            out.diagnostics.append(_refused_choice(choice, tried))
        else:
            out.overrides.append(choice)
            base = tried
    return base


def _compose(
    link: HydraLink, out: Repaired, overrides: Sequence[Override]
) -> Composition | Exception:
    """Compose; a missing file is reported once and something stands in for it from then on."""
    for _ in range(_MOST_MISSING_FILES):
        try:
            return link.compose(overrides)
        except MissingConfigException as error:
            missing = error.missing_cfg_file
            if missing is None or missing in link.session.stand_ins or _is_hydras(missing):
                return error
            _stand_in(link, out, missing)
        except Exception as error:  # Hydra raises asserts and KeyErrors too; reported
            return error
    return RecursionError(f"more than {_MOST_MISSING_FILES} missing files")


def _is_hydras(config_path: str) -> bool:
    return config_path.startswith("hydra/")


def _stand_in(link: HydraLink, out: Repaired, missing: str) -> None:
    """LF102 for a file that another file asks for."""
    library = link.session.library
    group, _, option = missing.rpartition("/")
    known = library.option_names(group)
    best = near(option, known, limit=1)
    link.session.stand_ins[missing] = f"{group}/{best[0]}" if best else None
    if not best:
        out.clouded.add(group.replace("/", "."))
    out.diagnostics.append(unknown_option(group, option, known, _who_asks(link, missing)))


def _who_asks(link: HydraLink, missing: str) -> Origin:
    """The defaults entry that names a file; the reader has met the file already."""
    library = link.session.library
    for config_path in sorted(link.session.read):
        found = link.session.scan(config_path)
        folder = config_path.rpartition("/")[0]
        for include in found.includes if found else ():
            names = include.name if isinstance(include.name, list) else [include.name]
            group = include.group_path(folder)
            if found and any(_joined(group, name) == missing for name in names):
                return Origin("file", library.show(found.path), include.raw, include.line)
    return Origin("file", "defaults list", missing)


def _joined(group: str, name: Any) -> str:
    return f"{group}/{name}".lstrip("/")


def _refused_choice(override: Override, error: Exception) -> Diagnostic:
    """LF102 when a group is not in the defaults list, or was chosen in a way Hydra refuses."""
    said = _said(error)
    absent = "No match in the defaults list" in said or "Could not override" in said
    if absent and override.kind == "set":
        return Diagnostic(
            "LF102",
            f"group `{override.target}` is not part of the config",
            key=override.key.replace("/", "."),
            origins=(override.origin(),),
            notes=("a group that the primary config does not list is added with `+`",),
            hint=f"+{override.text}",
        )
    return _refused(error, override)


def _refused(error: Exception, override: Override | None) -> Diagnostic:
    """LF100: what Hydra says, for what has no code of its own."""
    what = f"override `{override.text}`" if override else "the config files"
    reason = "too many levels" if isinstance(error, RecursionError) else _said(error)
    return Diagnostic(
        "LF100",
        f"{what} cannot be composed: {reason}",
        key=override.key.replace("/", ".") if override else None,
        origins=(override.origin(),) if override else (),
    )


def _said(error: Exception) -> str:
    """The words of an exception, those of its cause if it has none."""
    text = str(error).strip() or (str(error.__cause__).strip() if error.__cause__ else "")
    known = isinstance(error, HydraException | OmegaConfBaseException)
    lines = [line.strip() for line in text.splitlines() if line.strip()][:2]
    words = " ".join(lines) or type(error).__name__
    return words if known or not lines else f"{type(error).__name__}: {words}"


def _values(
    link: HydraLink, out: Repaired, base: Composition, values: Sequence[Override]
) -> list[Override]:
    """The overrides whose keys can be set, tried in order on the composed choices."""
    config = base.config
    unknowns = Unknowns(link.session.library, config, base.choices)
    good = list(out.overrides)
    for override in values:
        found = unknowns.find(override)
        if found:
            out.diagnostics += found
            continue
        try:
            _apply(config, override)
        except (OmegaConfBaseException, LookupError, TypeError, ValueError) as error:
            out.diagnostics.append(_refused(error, override))
        else:
            good.append(override)
    return good


def _apply(config: DictConfig, override: Override) -> None:
    """What Hydra does with a value override."""
    if override.kind == "delete":
        parent, _, last = override.key.rpartition(".")
        node = OmegaConf.select(config, parent) if parent else config
        with open_dict(config):
            del node[last]
        return
    force = override.kind in ("add", "force")
    OmegaConf.update(config, override.key, override.value, merge=True, force_add=force)


def _one_by_one(link: HydraLink, out: Repaired, overrides: Sequence[Override]) -> list[Override]:
    """The overrides that compose together, each tried on top of those before it."""
    good: list[Override] = []
    for override in overrides:
        tried = _compose(link, out, (*good, override))
        if isinstance(tried, Exception):
            out.diagnostics.append(_refused(tried, override))
        else:
            good.append(override)
    return good
