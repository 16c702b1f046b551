"""The one place that drives Hydra, and leaves its global state as it was.

In: a `Session`. Out: `HydraLink`, which composes and lists the files of a composition. Only
public Hydra API is used (plugins, ConfigLoader, initialize_config_dir), and nothing in a config
is run: no callbacks, no instantiation, no logging set-up. Faults are not judged here.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobRuntime
from hydra.types import RunMode
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf

from llmforge.compose.library import PRIMARY
from llmforge.compose.overrides import Override
from llmforge.compose.source import Session, active

VERSION_BASE = "1.3"


@dataclass(frozen=True)
class Included:
    """One file of a composition, in merge order."""

    config_path: str
    package: str
    """Dotted key it lands under, empty for the top."""
    parent: str
    """Config path of the file that includes it."""


_MODE = RunMode.MULTIRUN
_MOST_LISTS = 64
_FILES: dict[tuple[object, ...], tuple[Included, ...]] = {}

_GLOBALS = threading.RLock()
"""Hydra keeps its state in process-wide singletons: one composition at a time."""


@dataclass(frozen=True)
class Composition:
    """What Hydra made of the overrides."""

    config: DictConfig
    """Composed, unresolved, `hydra` node included."""
    files: tuple[Included, ...]
    choices: dict[str, Any]


@dataclass(frozen=True)
class HydraLink:
    """A set-up Hydra for one session."""

    loader: ConfigLoader
    session: Session

    def compose(self, overrides: Sequence[Override]) -> Composition:
        """One composition. Raises whatever Hydra raises.

        Multirun mode, because then a group left at `???` is not an exception that hides the
        other faults; sweeps were sorted out before.
        """
        self.session.answers.clear()
        texts = [override.for_grammar for override in overrides]
        config = self.loader.load_configuration(
            PRIMARY, texts, _MODE, from_shell=False, validate_sweep_overrides=False
        )
        choices: Any = OmegaConf.to_container(config.hydra.runtime.choices)
        named = {str(group): option for group, option in choices.items()}
        return Composition(config, self.files(overrides), named)

    def files(self, overrides: Sequence[Override]) -> tuple[Included, ...]:
        """The files of the composition just tried, in the order in which they are merged.

        Hydra computes the list anew, at a third of a composition's price. The list follows from
        the choices and from what the search path answered, so the points of a sweep that agree
        in both share it.
        """
        choices = tuple(o.text for o in overrides if o.is_group)
        session = self.session
        known = (session.library.dirs, choices, frozenset(session.answers))
        shareable = not (session.stand_ins or session.ignored) and not any(
            o.for_hydra for o in overrides
        )
        if shareable and known in _FILES:
            return _FILES[known]
        session.names_only = True
        try:
            texts = [o.for_grammar for o in overrides]
            found = self.loader.compute_defaults_list(PRIMARY, texts, _MODE)
        finally:
            session.names_only = False
        files = tuple(
            Included(item.config_path, item.package or "", item.parent or "")
            for item in found.defaults
        )
        if shareable:
            if len(_FILES) >= _MOST_LISTS:
                _FILES.clear()
            _FILES[known] = files
        return files


@contextmanager
def hydra_link(session: Session) -> Iterator[HydraLink]:
    """Set Hydra up for the session; afterwards the process's Hydra state is what it was."""
    with _GLOBALS, warnings.catch_warnings(), active(session):
        # 1.4 deprecates version_base, which 1.3 asks for
        warnings.filterwarnings("ignore", message=".*version_base.*")
        outer, job, base = GlobalHydra.instance(), JobRuntime.instance(), VersionBase.instance()
        hydra, name, version = outer.hydra, job.get("name"), base.getbase()
        outer.clear()
        try:
            with initialize_config_dir(str(session.library.root), "llmforge", VERSION_BASE):
                yield HydraLink(GlobalHydra.instance().config_loader(), session)
        finally:
            GlobalHydra.set_instance(outer)
            outer.hydra = hydra
            job.set("name", name)
            if version is not None and type(version) is not object:  # Hydra's mark for "never set"
                base.setbase(version)


def registered(*group: str) -> list[str]:
    """Options of a group of Hydra's own (`hydra`, `launcher`); its plugins are imported to know."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    Plugins.instance()
    found: Any = ConfigStore.instance().repo
    for part in group:
        found = found.get(part, {})
    return [str(name).removesuffix(".yaml") for name in found]
