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
import signal
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmforge.compiler.facts.versions import PACKAGES
from llmforge.plan import Plan

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # how a shell starts what it puts into the background; programs tested here are to be stopped
    signal.signal(signal.SIGINT, signal.default_int_handler)

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


QUESTIONS = [
    {"question": f"What is {number} + {number}?", "answer": str(2 * number)}
    for number in range(200)
]


@pytest.fixture(scope="session")
def every_kind(bench: Path) -> dict[str, tuple[str, ...]]:
    """By option of `conf/data`: overrides that read the same questions, from the bench folder."""
    import csv
    import sqlite3

    import pyarrow as pa
    from pyarrow import parquet

    for name, delimiter in (("csv", ","), ("tsv", "\t")):
        with (bench / f"questions.{name}").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ("question", "answer"), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(QUESTIONS)
    lines = [json.dumps(row) for row in QUESTIONS]
    (bench / "questions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (bench / "questions.json").write_text(json.dumps(QUESTIONS), encoding="utf-8")
    (bench / "questions.txt").write_text("\n".join(lines), encoding="utf-8")
    (bench / "folder").mkdir()
    shutil.copy(bench / "questions.jsonl", bench / "folder" / "train.jsonl")
    table = pa.Table.from_pylist(QUESTIONS)
    parquet.write_table(table, bench / "questions.parquet")
    (bench / "saved").mkdir()
    for place in ("questions.arrow", "saved/data.arrow"):
        with pa.ipc.new_stream(str(bench / place), table.schema) as writer:
            writer.write_table(table)
    state = json.dumps({"_data_files": [{"filename": "data.arrow"}]})
    (bench / "saved/state.json").write_text(state, encoding="utf-8")
    with sqlite3.connect(bench / "questions.db") as database:
        database.execute("create table qa (id integer primary key, question text, answer text)")
        database.executemany(
            "insert into qa (question, answer) values (:question, :answer)", QUESTIONS
        )
    database.close()
    (bench / "bench_plugin.py").write_text(
        "import json\n"
        "from llmforge.sources.functions import BaseDataset, dataset, transform\n\n"
        '@dataset("bench_questions")\n'
        "class Questions(BaseDataset):\n"
        "    @classmethod\n"
        "    def get_data(cls):\n"
        "        with open('questions.json') as file:\n"
        "            return json.load(file), None\n\n"
        '@transform("bench_shout")\n'
        "def shout(row):\n"
        "    return {**row, 'question': row['question'].upper()}\n",
        encoding="utf-8",
    )
    columns = ("data.fields.prompt=question", "data.fields.completion=answer")
    one = "{kind: jsonl, train: questions.jsonl, "
    one += "fields: {prompt: question, completion: answer}}"
    return {
        **{
            kind: (f"data={kind}", f"data.train=questions.{kind}", *columns)
            for kind in ("jsonl", "json", "csv", "tsv", "parquet", "arrow")
        },
        "text": ("data=text", "data.train=questions.txt"),
        "saved": ("data=saved", "data.path=saved", "data.train=null", *columns),
        "hub": ("data=hub", "data.id=./folder", *columns),
        "sql": ("data=sql", "data.url=sqlite:///questions.db", "data.train=qa", *columns),
        "class": ("data=class", "data.name=bench_questions", "plugins=[bench_plugin]", *columns),
        "mix": ("data=mix", f"data.sources={{one: {one}, two: {one}}}"),
        "builtin": (),
        "builtin_short": ("data=builtin_short",),
        "builtin_pairs": (
            "data=builtin_pairs",
            "collator=preference",
            "trainer=dpo",
            "model=folder",
            "model.path=tiny",
        ),
    }


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
