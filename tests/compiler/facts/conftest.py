"""Sections of data as `conf/data` ships them, in a working folder of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmforge.compiler.parse import parse
from llmforge.compose import compose
from llmforge.schema.data import JsonlSource, Rows


@pytest.fixture(scope="session")
def shipped() -> dict[str, Any]:
    """The values of `data=jsonl`, and of the mix, as `conf/data` has them."""
    return {
        "jsonl": compose(["data=jsonl", "data.train=rows.jsonl"]).values,
        "builtin": compose([]).values,
        "mix": compose(["data=mix", "data.sources={}"]).values,
    }


@pytest.fixture
def data(work: Path, shipped: dict[str, Any]) -> Callable[..., Rows]:
    """`data(eval_fraction=0.5)`: the section, in a folder of its own with a warm cache."""

    def make(kind: str = "jsonl", **changes: Any) -> Rows:
        values = dict(shipped[kind])
        fields = {**values["data"].get("fields", {}), **changes.pop("fields", {})}
        values["data"] = {**values["data"], **changes, **({"fields": fields} if fields else {})}
        spec, problems = parse(values)
        assert spec is not None, problems
        return spec.data

    return make


@pytest.fixture
def source(shipped: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """`source(train="a.jsonl")`: a whole JSONL source of a mix."""
    one = {key: shipped["jsonl"]["data"][key] for key in JsonlSource.model_fields}
    return lambda **changes: {**one, **changes}
