"""A folder that llmforge made says what it is; a label that is broken is none."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from llmforge.run.making.labels import LABEL, LAYOUT, fault_of, read_label

WHOLE = {
    "layout": LAYOUT,
    "stage": "fuse",
    "run_id": "demo-0123456789",
    "files": {"config.json": {"bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}},
}


def written(folder: Path, label: Any) -> Path:
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / LABEL).write_text(json.dumps(label), encoding="utf-8")
    return folder


def test_a_label_says_what_is_missing_cut_short_or_changed(tmp_path: Path) -> None:
    label = read_label(written(tmp_path, WHOLE))
    assert label is not None
    assert fault_of(tmp_path, label["files"], thorough=True) is None
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    assert fault_of(tmp_path, label["files"]) is None
    assert fault_of(tmp_path, label["files"], thorough=True) == "config.json has changed"
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    assert fault_of(tmp_path, label["files"]) == "config.json has 1 bytes, not 2"
    (tmp_path / "config.json").unlink()
    assert fault_of(tmp_path, label["files"]) == "config.json is missing"


@pytest.mark.parametrize(
    "change",
    [
        {"layout": 0},
        {"files": ["config.json"]},
        {"files": {"config.json": 2}},
        {"files": {"config.json": {}}},
    ],
)
def test_a_broken_label_is_none(tmp_path: Path, change: dict[str, Any]) -> None:
    assert read_label(written(tmp_path, WHOLE | change)) is None


@pytest.mark.parametrize("missing", ["stage", "run_id", "files"])
def test_a_label_that_was_cut_is_none(tmp_path: Path, missing: str) -> None:
    cut = {name: value for name, value in WHOLE.items() if name != missing}
    assert read_label(written(tmp_path, cut)) is None
