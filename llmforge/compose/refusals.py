"""What to say when Hydra refuses a choice or a file.

In: what Hydra raised, and the session it happened in. Out: diagnostics: a file that asks for an
option or a group that is not there (LF102), a list that meets a mapping (LF119), and what has no
code of its own (LF100). Deciding what to try next is the business of `repair.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from llmforge.compose.hydra_link import HydraLink
from llmforge.compose.layers import Layer
from llmforge.compose.merge import Replay
from llmforge.compose.overrides import Override, unknown_option
from llmforge.compose.scan import Include
from llmforge.compose.source import Session
from llmforge.diagnostics import Diagnostic, did_you_mean
from llmforge.origins import Origin

_STRAY = r"In '(.+?)': (?:Could not override|Invalid Defaults List override) '/?([^':]+)"
"""What Hydra 1.3 and 1.4 say; there is no exception class of its own for it."""


def clashes(link: HydraLink, overrides: Sequence[Override], error: Exception) -> list[Diagnostic]:
    """LF119: a key that is a list in one file and a mapping in the next."""
    if "Cannot merge" not in str(error):
        return []
    session, replay = link.session, Replay()
    for file in link.files(overrides):
        if (found := session.scan(file.config_path)) is not None:
            where = session.library.show(found.path)
            replay.file(Layer(file.config_path, file.package, where, "", False, False, found))
    return [
        Diagnostic(
            "LF119",
            f"`{key}` is a {_shape(first)} in {first.place} and a {_shape(second)} in "
            f"{second.place}",
            key=key,
            origins=(first, second),
        )
        for key, first, second in replay.clashes
    ]


def _shape(origin: Origin) -> str:
    return "list" if isinstance(origin.value, list) else "mapping"


def who_asks(link: HydraLink, missing: str, overrides: Sequence[Override]) -> Origin:
    """The override or the defaults entry that names a file; the reader has met it already."""
    for override in overrides:
        if override.is_group and _joined(override.key, override.value) == missing:
            return override.origin()
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


def refused_choice(link: HydraLink, override: Override, error: Exception) -> Diagnostic:
    """LF102 when a group is not in the defaults list, or was chosen in a way Hydra refuses."""
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, option = override.key, override.value
        library = link.session.library
        return unknown_option(library, group, option, override.origin(), list(error.options))
    said = _said(error)
    if override.kind == "add" and ("more than once" in said or "Multiple values" in said):
        return replace(refused(error, override), hint=override.text.removeprefix("+"))
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
    return refused(error, override)


def refused(error: Exception, override: Override | None) -> Diagnostic:
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


def stray_override(session: Session, error: Exception) -> tuple[str, Any, Diagnostic] | None:
    """LF102 for a file's `override /group: option` of a group that is not in the defaults list.

    Out: the file's config path, the entry as Hydra reads it, the diagnostic; None for any other
    error and for an entry that is ignored already.
    """
    found = re.match(_STRAY, str(error))
    if found is None:
        return None
    config_path, target = found.groups()
    scanned, group = session.scan(config_path), target.partition("@")[0]
    folder = config_path.rpartition("/")[0]
    for include in scanned.includes if scanned else ():
        matches = include.override and include.group_path(folder) == group
        if scanned and matches and (config_path, include.raw) not in session.ignored:
            shown = session.library.show(scanned.path)
            return config_path, include.raw, _not_listed(session, target, shown, include)
    return None


def _not_listed(session: Session, target: str, shown: str, include: Include) -> Diagnostic:
    group = target.partition("@")[0]
    known = [name for name in session.library.groups() if not name.startswith("hydra")]
    return Diagnostic(
        "LF102",
        f"group `{target}` is not part of the config",
        key=group.replace("/", "."),
        origins=(Origin("file", shown, include.raw, include.line),),
        notes=(*did_you_mean(group, known), f"groups: {', '.join(known)}"),
    )
