"""One page as one file: template, style and script put together, everything else escaped.

In: the name of a template and what it shows. Out: HTML that asks nobody for anything. The page
carries a policy that lets no script run but its own, so that a name or a sample with HTML in it
stays text even where an escape were forgotten.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.plan import Plan
from llmforge.render import shown
from llmforge.report.drawing import TEMPLATES
from llmforge.version import __version__

if TYPE_CHECKING:
    from jinja2 import Environment

NAME = "report.html"
"""In the folder of a run or a sweep; an artifact of its record."""


def render(template: str, **shows: Any) -> str:
    """The page as text."""
    from markupsafe import Markup

    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template(template)
        .render(
            # the two files are ours and hold no data
            style=Markup(style),  # noqa: S704
            script=Markup(script),  # noqa: S704
            script_digest=digest,
            version=__version__,
            written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            figure=figure,
            **shows,
        )
    )


def write(text: str, target: Path) -> Path:
    """Write a page; it appears whole or not at all.

    Raises:
        OSError: it could not be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    # a lone surrogate can stand in a sample, and cannot be written as UTF-8
    staged.write_text(text, encoding="utf-8", errors="replace")
    staged.replace(target)
    return target


def settings_rows(plan: Plan) -> list[dict[str, str]]:
    """Every setting with its value, who set it, and what that replaced."""
    return list(_rows(plan))


def _rows(plan: Plan) -> Iterator[dict[str, str]]:
    for key, value in plan.leaves():
        if key.partition(".")[0] not in plan.settings:
            continue
        chain = plan.origins.chain(key)
        last = chain[-1] if chain else None
        place = ""
        if last is not None:
            place = last.place if not last.reason else f"{last.place}: {last.reason}"
        replaced = ", ".join(f"{shown(o.value)} of {o.place}" for o in reversed(chain[:-1]))
        yield {
            "key": key,
            "value": shown(value, 400),
            "place": place,
            "replaced": replaced,
        }


def figure(value: Any) -> str:
    """A number as a reader wants it: four digits that count, thousands apart."""
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def from_here(folder: Path) -> str:
    """The folder as a command names it: from the working folder where it lies below it."""
    here = Path.cwd()
    return str(folder.relative_to(here)) if folder.is_relative_to(here) else str(folder)


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The entries that are numbers."""
    return {
        key: value
        for key, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined
    )
