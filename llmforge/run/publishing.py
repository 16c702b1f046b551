"""What may leave this machine: texts and plans without secrets and without its places.

In: the plan, and text or JSON that is to be published. Out: the same with the values of secrets
blotted out and machine paths cut to their last part. `public_plan` is the plan as others get it:
it can be read and run, but says nothing of where it ran, what it recorded to, or who wrote it.

A vocabulary (`tokenizer.json`) and weights are left alone: what stands there was learnt, and
changing it would break them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import urlsplit

from llmforge.origins import Origins, leaves
from llmforge.plan import Plan
from llmforge.run.environment import blotted, secret_values

_PATH = re.compile(r"(?:/|~[/\\]|\.\./|[A-Za-z]:\\)[^\n\0]*")
"""A text that is a path as a whole, and one that names a place outside the working folder."""

_PLACES: dict[str, dict[str, Any]] = {
    "tracking": {"kind": "none"},
    "hub": {"kind": "none", "repository": None},
    "paths": {"runs": "runs", "cache": ".llmforge", "env_file": None},
}
"""Sections of the plan that say only where things are, and what stands for them elsewhere."""

_SMALLEST_ROOT = 4
"""Characters of a folder's name below which cutting it out of texts would garble them."""


class Publisher:
    """Cleans what is published of one run, or of a folder that is of none."""

    def __init__(self, plan: Plan | None, *folders: Path) -> None:
        """
        Args:
            plan: what ran; None where nobody knows.
            folders: more places of this machine that are not to be named.
        """
        self._plan = plan
        # looked up once: a plan has a thousand texts
        self._secrets = secret_values(plan) if plan is not None else {}
        self._roots = sorted(_roots(plan, folders), key=len, reverse=True)

    def text(self, text: str) -> str:
        """Free text without secrets and without the folders that the run knows."""
        text = blotted(text, self._secrets)
        for root in self._roots:
            # a root ends where a name ends: `/home/ann` is none in `/home/anna`
            text = re.sub(re.escape(root) + r"(?=[/\\\s\"'`,;:)\]]|$)[/\\]?", "", text)
        return text

    def value(self, value: Any) -> Any:
        """JSON with each text cleaned; one that is a path outside of here keeps its last part."""
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.value(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(inner) for inner in value]
        if not isinstance(value, str):
            return value
        if "\n" not in value and _PATH.fullmatch(value):
            return self.text(last_part(value))
        return self.text(_without_host(value))

    def file(self, content: str) -> str:
        """A JSON file's text, cleaned; a text that is no JSON is cleaned as text."""
        try:
            read = json.loads(content)
        except ValueError:
            return self.text(content)
        cleaned = self.value(read)
        if cleaned == read:
            return content
        return json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n"

    def plan(self) -> dict[str, Any]:
        """The plan as others get it: a plan file without origins, overrides and places."""
        if self._plan is None:
            raise ValueError("of a folder without a run there is no plan")
        found = self._plan.to_dict()
        found |= {"overrides": [], "findings": [], "origins": Origins().to_dict()}
        found["settings"] = {**found["settings"], **_PLACES}
        cleaned: dict[str, Any] = self.value(found)
        return cleaned


def last_part(path: str) -> str:
    """The last name of a path, whichever system wrote it."""
    windows = "\\" in path and "/" not in path
    return (PureWindowsPath(path).name if windows else PurePosixPath(path).name) or "."


def _without_host(text: str) -> str:
    """An address without user, password and host; what is no address is left."""
    if "://" not in text or any(letter.isspace() for letter in text):
        return text
    try:
        parts = urlsplit(text)
    except ValueError:
        return "<address>"
    return f"{parts.scheme}://{last_part(parts.path) if parts.path else ''}"


def _roots(plan: Plan | None, folders: Iterable[Path]) -> set[str]:
    """Folders of this machine that may stand inside texts."""
    found = {Path.cwd(), Path.home(), *(folder.absolute() for folder in folders)}
    if plan is not None:
        run = Path(plan.run_folder).absolute()
        found |= {run, run.parent}
    settings = plan.settings if plan is not None else {}
    named = (value for _, value in leaves(settings) if isinstance(value, str))
    for value in named:
        if "\n" not in value and Path(value).is_absolute():
            found |= {Path(value), Path(value).parent}
    texts = {str(path) for path in found} | {str(path.resolve()) for path in found}
    return {text for text in texts if len(text) >= _SMALLEST_ROOT}
