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

from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from llmforge.compose.hydra_link import Composition, HydraLink
from llmforge.compose.overrides import Override, unknown_option
from llmforge.compose.refusals import clashes, refused, refused_choice, stray_override, who_asks
from llmforge.compose.unknown import Unknowns
from llmforge.diagnostics import Diagnostic, near
from llmforge.origins import Origin

_MOST_REPAIRS = 50


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
    base = _choices(link, out, [o for o in overrides if o.picks_files])
    if base is None:
        return out
    out.composition = base
    good = _values(link, out, base, [o for o in overrides if not o.picks_files])
    final = _compose(link, out, good)
    if isinstance(final, Exception):
        good = _one_by_one(link, out, good)
        final = _compose(link, out, good)
    if isinstance(final, Composition):
        out.composition, out.overrides = final, good
    return out


def _choices(link: HydraLink, out: Repaired, choices: Sequence[Override]) -> Composition | None:
    """The composition of all choices that Hydra takes; None if not even the defaults compose."""
    base = _compose(link, out, choices)
    if isinstance(base, Composition):
        out.overrides = list(choices)
        return base
    out.diagnostics += clashes(link, choices, base)
    base = _compose(link, out, ())
    if isinstance(base, Exception):
        out.diagnostics += clashes(link, (), base) or [refused(base, None)]
        return None
    for choice in choices:
        tried = _compose(link, out, (*out.overrides, choice))
        if isinstance(tried, Exception):
            if not clashes(link, (*out.overrides, choice), tried):
                out.diagnostics.append(refused_choice(link, choice, tried))
        else:
            out.overrides.append(choice)
            base = tried
    return base


def _compose(
    link: HydraLink, out: Repaired, overrides: Sequence[Override]
) -> Composition | Exception:
    """Compose; a missing file is reported once and something stands in for it from then on."""
    for _ in range(_MOST_REPAIRS):
        try:
            return link.compose(overrides)
        except MissingConfigException as error:
            missing = error.missing_cfg_file
            if missing is None or missing in link.session.stand_ins or _is_hydras(missing):
                return error
            known = list(error.options or [])
            _stand_in(link, out, missing, known, who_asks(link, missing, overrides))
        except Exception as error:  # Hydra raises asserts and KeyErrors too; reported
            stray = stray_override(link.session, error)
            if stray is None:
                return error
            link.session.ignored.append(stray[:2])
            out.diagnostics.append(stray[2])
    return RecursionError(f"more than {_MOST_REPAIRS} missing files")


def _is_hydras(config_path: str) -> bool:
    return config_path.startswith("hydra/")


def _stand_in(
    link: HydraLink, out: Repaired, missing: str, options: list[str], asked: Origin
) -> None:
    """LF102 for a file that is asked for, and the nearest option in its place."""
    group, _, option = missing.rpartition("/")
    library = link.session.library
    known = options or library.option_names(group)
    best = near(option, known, limit=1)
    link.session.stand_ins[missing] = f"{group}/{best[0]}" if best else None
    if not best:
        out.clouded.add(group.replace("/", "."))
    out.diagnostics.append(unknown_option(library, group, option, asked, known))


def _values(
    link: HydraLink, out: Repaired, base: Composition, values: Sequence[Override]
) -> list[Override]:
    """The overrides whose keys can be set, tried in order on the composed choices."""
    config = base.config
    unknowns = Unknowns(link.session.library, config, base.choices)
    good = list(out.overrides)
    for given in values:
        override = unknowns.opened(given)
        found = unknowns.find(override)
        if found:
            out.diagnostics += found
            continue
        try:
            _apply(config, override)
        except (OmegaConfBaseException, LookupError, TypeError, ValueError) as error:
            out.diagnostics.append(refused(error, override))
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
            out.diagnostics.append(refused(tried, override))
        else:
            good.append(override)
    return good
