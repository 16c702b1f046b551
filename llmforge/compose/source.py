"""Hydra's view of our files: a config source that scans before OmegaConf reads.

In: a `Session` (the search path, and what was read so far), made active with `active()`. Out: to
Hydra, the configs it asks for. Every file is scanned before it becomes objects, parsed once, and
stands as empty when it is faulty: the composition goes on and shows the other faults as well.

Outside an active session the plugins change nothing. Nothing is composed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from llmforge.compose.library import Library
from llmforge.compose.scan import Scan, scan

SCHEME = "llmforge"


@dataclass
class Session:
    """What one `compose()` call shares with the config source below Hydra."""

    library: Library
    stand_ins: dict[str, str | None] = field(default_factory=dict)
    """Missing config path -> the near match to read instead (None: an empty one); repairs only."""
    ignored: list[tuple[str, Any]] = field(default_factory=list)
    """Entries of defaults lists that Hydra refuses, by config path; repairs only."""
    circles: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Config path -> the circle of files its defaults list runs into."""
    read: set[str] = field(default_factory=set)
    """Config paths Hydra has asked for."""
    answers: set[tuple[object, ...]] = field(default_factory=set)
    """Everything the source told Hydra about what is on disk: see `HydraLink.files`."""
    names_only: bool = False
    """While the defaults list is computed Hydra needs no values, and skipping them is faster."""

    def scan(self, config_path: str) -> Scan | None:
        """The scanned file behind a config path, if the search path has it."""
        path = self.library.find(config_path)
        return scan(path) if path is not None else None

    def config(self, config_path: str) -> dict[Any, Any]:
        """What Hydra is given for a config path."""
        self.read.add(config_path)
        found = self.scan(self.stand_ins.get(config_path) or config_path)
        if found is None:
            return {}
        config = found.config()
        if circle := self._circle(self.stand_ins.get(config_path) or config_path):
            if not self.stand_ins:  # a circle through a stand-in is not the user's
                self.circles[config_path] = circle
            config["defaults"] = [raw for raw in config["defaults"] if raw == "_self_"]
        if "defaults" in config:
            ignored = [raw for path, raw in self.ignored if path == config_path]
            config["defaults"] = [raw for raw in config["defaults"] if raw not in ignored]
        if self.names_only:
            return {"defaults": config["defaults"]} if "defaults" in config else {}
        return config

    def _circle(self, start: str) -> tuple[str, ...]:
        """The plain includes that lead from a file back to itself; Hydra would never return."""
        came_from: dict[str, str] = {}
        todo = [start]
        while todo:
            here = todo.pop()
            found = self.scan(here)
            for include in found.includes if found else ():
                below = None if include.group else include.config_path(here.rpartition("/")[0])
                below = self.stand_ins.get(below or "") or below
                if below == start:
                    way = [start, here]
                    while way[-1] != start:
                        way.append(came_from[way[-1]])
                    return tuple(reversed(way))
                if below and below not in came_from:
                    came_from[below] = here
                    todo.append(below)
        return ()


_SESSION: ContextVar[Session | None] = ContextVar("llmforge_compose_session", default=None)


class LlmforgeSource(ConfigSource):
    """Config source for `llmforge:///abs/dir`: files as the active session scanned them."""

    @staticmethod
    def scheme() -> str:
        """The prefix by which Hydra picks this class."""
        return SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """Values and package header of one file; raises `ConfigLoadError` outside a session."""
        session = _SESSION.get()
        if session is None:
            raise ConfigLoadError(f"{SCHEME}:// is only readable inside llmforge.compose")
        found = session.scan(session.stand_ins.get(config_path) or config_path)
        session.answers.add(("file", config_path, found.path, *found.stamp) if found else ())
        return ConfigResult(
            config=OmegaConf.create(session.config(config_path)),
            path=f"{SCHEME}://{self.path}",
            provider=self.provider,
            header=self._header(found),
        )

    def _header(self, found: Scan | None) -> dict[str, str | None]:
        try:
            return self._get_header_dict(found.text[:512] if found else "")
        except ValueError:  # the scan has a fault for it
            return {"package": None}

    def is_config(self, config_path: str) -> bool:
        """Whether this dir has the file, or a repair stands in for it."""
        there = Library((Path(self.path),)).find(config_path) is not None
        session = _SESSION.get()
        if session is not None:
            there = there or config_path in session.stand_ins
            session.answers.add(("is_config", self.path, config_path, there))
        return there

    def is_group(self, config_path: str) -> bool:
        """Whether this dir has the folder."""
        there = Library((Path(self.path),)).is_group(config_path)
        if (session := _SESSION.get()) is not None:
            session.answers.add(("is_group", self.path, config_path, there))
        return there

    def available(self) -> bool:
        """Whether the dir exists."""
        return Path(self.path).is_dir()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Options of a group, or groups in it."""
        folder = Path(self.path) / config_path
        names: list[str] = []
        for file in folder.iterdir():
            inner = f"{config_path}/{file.name}" if config_path else file.name
            self._list_add_result(names, inner, file.name, results_filter)
        return sorted(set(names))


class LlmforgeSearchPath(SearchPathPlugin):
    """Puts the session's dirs where `main` was, the user's first; idle outside a session."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra while it sets up."""
        session = _SESSION.get()
        if session is None:
            return
        elements = search_path.get_path()
        main = next(element for element in elements if element.provider == "main")
        for folder in session.library.dirs[:-1]:
            search_path.prepend("llmforge --config-dir", f"{SCHEME}://{folder}", anchor="main")
        main.path = f"{SCHEME}://{session.library.root}"


@contextmanager
def active(session: Session) -> Iterator[None]:
    """Let Hydra read through this session; Hydra must be set up inside."""
    Plugins.instance().register(LlmforgeSource)
    Plugins.instance().register(LlmforgeSearchPath)
    token = _SESSION.set(session)
    try:
        yield
    finally:
        _SESSION.reset(token)
