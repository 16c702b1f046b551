"""Settings of sources without composing: the values that `conf/data/_rows.yaml` ships."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from llmforge.compose import config_root
from llmforge.schema.data import SOURCES, Source


@pytest.fixture(scope="session")
def source() -> Callable[..., Source]:
    """`source(select=['a == 1'], fields={"prompt": "question"})`: a JSONL source of a mix."""
    shipped: Any = OmegaConf.to_container(OmegaConf.load(config_root() / "data" / "_source.yaml"))

    def make(kind: str = "jsonl", **changes: Any) -> Source:
        spec = SOURCES[kind]
        own: Any = OmegaConf.to_container(OmegaConf.load(config_root() / "data" / f"{kind}.yaml"))
        values = {**shipped, **own, "train": "rows.jsonl", **changes}
        values["fields"] = {**shipped["fields"], **changes.get("fields", {})}
        return spec.model_validate({key: values[key] for key in spec.model_fields})

    return make


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of one's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
