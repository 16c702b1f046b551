"""Registered models and their versions: what MLflow's registry holds, as llmforge reads it.

In: a tracking address, a model's name, a version or alias. Out: `Version`, with step, metrics and
the folder where the weights lie; they are fetched from MLflow when that folder is on another
machine and they were uploaded. MLflow is imported by the calls, never with the module.

Versions are written by `registry.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmforge.diagnostics import did_you_mean
from llmforge.track.address import absolute_uri, public
from llmforge.track.store import connect

TAG = "llmforge."
METRIC = f"{TAG}metric."
UPLOADED = f"{TAG}uploaded"
"""Tag: path of the weights among the artifacts of the version's run."""


class UnknownModel(LookupError):
    """No such name, version or alias; or its weights cannot be had."""

    def __init__(self, message: str, notes: tuple[str, ...] = (), hint: str | None = None) -> None:
        super().__init__(message)
        self.notes, self.hint = notes, hint


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    name: str
    version: int
    aliases: tuple[str, ...]
    source: str
    mlflow_run: str | None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """`models:/name/3`."""
        return f"models:/{self.name}/{self.version}"

    @property
    def folder(self) -> Path | None:
        """Where the weights were written; it may be on another machine."""
        known = self.tags.get(f"{TAG}folder")
        if known:
            return Path(known)
        path = self.source.removeprefix("file://")
        return Path(path) if path.startswith("/") else None

    @property
    def metrics(self) -> dict[str, float]:
        """What was measured of these weights."""
        found = self.tags.items()
        return {k.removeprefix(METRIC): float(v) for k, v in found if k.startswith(METRIC)}

    def to_dict(self) -> dict[str, Any]:
        """JSON form, for `llmforge models --json`."""
        step = self.tags.get(f"{TAG}step")
        return {
            "name": self.name,
            "version": self.version,
            "aliases": list(self.aliases),
            "kind": self.tags.get(f"{TAG}kind"),
            "step": int(step) if step else None,
            "weights": self.tags.get(f"{TAG}weights"),
            "base": self.tags.get(f"{TAG}base"),
            "metrics": self.metrics,
            "run": self.tags.get(f"{TAG}run"),
            "fingerprint": self.tags.get(f"{TAG}fingerprint"),
            "folder": str(self.folder) if self.folder else None,
            "there": bool(self.folder and self.folder.is_dir()),
            "uploaded": UPLOADED in self.tags,
            "state": self.tags.get(f"{TAG}state"),
        }


class Registry:
    """The registry behind one tracking address."""

    def __init__(self, uri: str, token: str | None = None) -> None:
        """
        Args:
            uri: as `tracking.uri`.
            token: the server's bearer token itself.

        Raises:
            MlflowException: it cannot be reached.
        """
        self.uri = absolute_uri(uri)
        self.client = connect(self.uri, token)

    @property
    def address(self) -> str:
        """The address without a password."""
        return public(self.uri)

    def names(self) -> list[str]:
        """All registered models, sorted."""
        return sorted(str(one.name) for one in _pages(self.client.search_registered_models))

    def versions(self, name: str) -> list[Version]:
        """All versions of a model, the newest first; empty for an unknown name."""
        quoted = name.replace("'", "''")
        found = _pages(self.client.search_model_versions, filter_string=f"name='{quoted}'")
        aliases = self._aliases(name) if found else {}
        made = [self._version(one, aliases) for one in found if one.name == name]
        return sorted(made, key=lambda one: -one.version)

    def find(self, name: str, selector: str | None = None) -> Version:
        """One version: a number, an alias, or None for the newest.

        Raises:
            UnknownModel: there is none; notes name what there is.
        """
        known = self.versions(name)
        if not known:
            names = self.names()
            listed = f"{self.address} has {', '.join(names[:8]) or 'no registered model'}"
            raise UnknownModel(
                f"there is no registered model `{name}`",
                (*did_you_mean(name, names), listed),
                "llmforge models",
            )
        if selector is None:
            return known[0]
        for one in known:
            if selector == str(one.version) or selector in one.aliases:
                return one
        aliases = sorted({alias for one in known for alias in one.aliases})
        numbers = ", ".join(str(one.version) for one in reversed(known))
        hint = f"{name}@{aliases[0]}" if aliases else known[0].reference
        raise UnknownModel(
            f"`{name}` has no version or alias `{selector}`",
            (
                *did_you_mean(selector, aliases),
                f"versions {numbers}; aliases {', '.join(aliases) or 'none'}",
            ),
            f"llmforge models {name}  # for example {hint}",
        )

    def fetch(self, version: Version, cache: Path) -> Path:
        """The folder with a version's weights: where they were written, or a copy from MLflow.

        Raises:
            UnknownModel: the folder is not on this machine, and nothing was uploaded.
        """
        if version.folder is not None and version.folder.is_dir():
            return version.folder
        place = version.tags.get(UPLOADED)
        if place is None or version.mlflow_run is None:
            host = version.tags.get(f"{TAG}host", "another machine")
            raise UnknownModel(
                f"the weights of {version.reference} are not here: {version.folder} on {host}",
                ("they were not uploaded when the model was trained",),
                "llmforge train tracking.upload=final  # then each run's final model is in MLflow",
            )
        target = cache / "models" / version.mlflow_run / Path(place).name
        if not target.is_dir():
            staged = target.with_name(f".{target.name}.tmp")
            shutil.rmtree(staged, ignore_errors=True)
            staged.mkdir(parents=True)
            got = Path(self.client.download_artifacts(version.mlflow_run, place, str(staged)))
            got.rename(target)
            shutil.rmtree(staged, ignore_errors=True)
        return target

    def _aliases(self, name: str) -> dict[str, list[str]]:
        model = self.client.get_registered_model(name)
        found: dict[str, list[str]] = {}
        for alias, version in model.aliases.items():
            found.setdefault(str(version), []).append(alias)
        return found

    @staticmethod
    def _version(one: Any, aliases: Mapping[str, list[str]]) -> Version:
        return Version(
            name=str(one.name),
            version=int(one.version),
            aliases=tuple(sorted(aliases.get(str(one.version), []))),
            source=str(one.source),
            mlflow_run=one.run_id or None,
            tags=dict(one.tags),
        )


def _pages(search: Any, **arguments: Any) -> list[Any]:
    """All pages of one of MLflow's searches."""
    found: list[Any] = []
    token = None
    while True:
        page = search(page_token=token, **arguments)
        found += page
        token = page.token
        if not token:
            return found
