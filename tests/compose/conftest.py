"""A small config tree, and a writer for more of it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from llmforge.compose import Draft, compose
from llmforge.diagnostics import Diagnostic

Write = Callable[..., Path]
Compose = Callable[..., Draft]

SHIPPED = {
    "config.yaml": """
        # The primary config.
        defaults:
          - _self_
          - model: tiny
          - lora: none
          - quantization: none
          - trainer: default
          - experiment: null
          - optional local: default

        seed: 42

        hydra:
          job:
            chdir: false
        """,
    "model/tiny.yaml": """
        # yaml-language-server: $schema=../model.json
        # A tiny model.
        # For tests.
        kind: tiny
        layers: 2
        """,
    "model/large.yaml": """
        # A large model.
        kind: large
        layers: 80
        path: ???
        """,
    "lora/none.yaml": "kind: none",
    "lora/default.yaml": """
        kind: lora
        r: 8
        alpha: ${.r}
        targets: [q, v]
        """,
    "lora/small.yaml": """
        defaults: [default]
        r: 4
        """,
    "lora/wide.yaml": """
        defaults: [default, _self_]
        r: 256
        init: {kind: gauss, scale: 1e-2}
        """,
    "quantization/none.yaml": "bits: null",
    "quantization/4bit.yaml": "bits: 4",
    "quantization/8bit.yaml": "bits: 8",
    "trainer/default.yaml": """
        micro_batch: 8
        global_batch: 128
        lr: 1e-4
        fields: {}
        """,
    "experiment/med.yaml": """
        # @package _global_
        # yaml-language-server: $schema=../config.json
        # Medical questions.
        defaults:
          - override /lora: small
        seed: 7
        trainer:
          global_batch: 96
        """,
}


def write_tree(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
    return folder


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped tree; the current directory is its parent's `work`."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return write_tree(tmp_path / "shipped", SHIPPED)


@pytest.fixture
def write(conf: Path) -> Write:
    """Add or replace files of the shipped tree, or of another folder."""

    def writer(files: dict[str, str], folder: Path = conf) -> Path:
        return write_tree(folder, files)

    return writer


@pytest.fixture
def draft(conf: Path) -> Compose:
    """Compose the shipped tree: `draft("lora=small", config_dirs=[...])`."""

    def composer(*overrides: str, config_dirs: tuple[str | Path, ...] = ()) -> Draft:
        return compose(overrides, config_dirs, conf)

    return composer


@pytest.fixture
def only() -> Callable[[Draft, str], Diagnostic]:
    """`only(draft, "LF101")`: the one diagnostic of that code."""

    def finder(draft: Draft, code: str) -> Diagnostic:
        found = [one for one in draft.diagnostics if one.code == code]
        assert len(found) == 1, [(one.code, one.message) for one in draft.diagnostics]
        return found[0]

    return finder


@pytest.fixture
def codes() -> Callable[[Draft], list[str]]:
    """The codes of all diagnostics, sorted."""
    return lambda draft: sorted(one.code for one in draft.diagnostics)
