"""Shared fixtures: a work folder of one's own, the command line in process, compiled plans.

The driver's half of llmforge needs no process of its own to be tested: `llmforge(...)` calls
`main` and returns what was printed. Plans are cached over the session, since composing one takes
a tenth of a second: treat them as read-only.
"""

from __future__ import annotations

import ctypes
import functools
import json
import shlex
import shutil
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmforge.compiler.facts.versions import PACKAGES
from llmforge.plan import Plan

INSTALLED = "llmforge.compiler.derive.machine.installed_versions"

TINY_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}


def make_checkpoint(folder: Path, **config: Any) -> Path:
    """A model folder as the compiler sees it: a config, a tokenizer file, one zero as weights."""
    from safetensors import TensorSpec, serialize_file

    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**TINY_LLAMA, **config}, indent=2)
    (folder / "config.json").write_text(text, encoding="utf-8")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    zero = ctypes.c_float(0.0)
    spec = TensorSpec(dtype="float32", shape=[1], data_ptr=ctypes.addressof(zero), data_len=4)
    serialize_file({"weight": spec}, str(folder / "model.safetensors"))
    return folder


@pytest.fixture(scope="session")
def checkpoint() -> Callable[..., Path]:
    """`checkpoint(folder, hidden_size=32)` writes a tiny Llama's folder."""
    return make_checkpoint


@pytest.fixture
def everything_installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Versions on a machine with every optional package; what a test removes is not installed."""
    versions = dict.fromkeys(PACKAGES, "99.0")
    monkeypatch.setattr(INSTALLED, lambda: dict(versions))
    return versions


@pytest.fixture(scope="session")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache folder after the built-in conversations were generated and counted once."""
    from llmforge.compiler.passes import check

    folder = tmp_path_factory.mktemp("scanned")
    with chdir(folder):
        assert not check(["hardware=cpu"]).refused
    return folder / ".llmforge"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scanned: Path) -> Path:
    """A working folder with nothing in it but a warm cache, as a user has one on the second day."""
    shutil.copytree(scanned, tmp_path / ".llmforge")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@dataclass(frozen=True)
class Ran:
    """What one command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def llmforge(work: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str], Ran]:
    """`llmforge("check lora=small")`: the command line, in process, in the work folder."""
    from llmforge.cli import main

    def run(line: str) -> Ran:
        capsys.readouterr()
        try:
            code = main(shlex.split(line))
        except SystemExit as stopped:  # argparse
            code = int(stopped.code or 0)
        told = capsys.readouterr()
        return Ran(code, told.out, told.err)

    return run


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what shipped options ask for: `tiny/`, `qa.jsonl`, `held_out.jsonl`."""
    folder = tmp_path_factory.mktemp("bench")
    make_checkpoint(folder / "tiny")
    row = '{"question": "How many legs has a spider?", "answer": "8"}\n'
    (folder / "qa.jsonl").write_text(row * 640, encoding="utf-8")
    (folder / "held_out.jsonl").write_text(row * 64, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def compiled(bench: Path) -> Callable[..., Plan]:
    """`compiled("lora=small", "hardware=cpu")`: a plan made in the bench folder, cached.

    As if every optional package were installed, whatever this machine has.
    """
    from llmforge.compiler.passes import compile_plan

    versions = dict.fromkeys(PACKAGES, "99.0")

    @functools.cache
    def compile_once(*overrides: str) -> Plan:
        with chdir(bench), pytest.MonkeyPatch.context() as patch:
            patch.setattr(INSTALLED, lambda: dict(versions))
            return compile_plan(overrides)

    return compile_once
