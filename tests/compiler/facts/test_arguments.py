"""The installed `TrainingArguments`, read without importing it: names, types, what is kept."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import TrainingArguments

from llmforge.compiler.facts import arguments as facts
from llmforge.compiler.facts.arguments import (
    Argument,
    expected,
    installed_arguments,
    read_class,
    source_file,
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Argument]:
    known = installed_arguments(tmp_path_factory.mktemp("cache"))
    assert known is not None
    return known


def test_the_fields_are_those_of_the_class(found):
    assert set(found) == {field.name for field in dataclasses.fields(TrainingArguments)}


def test_a_field_has_its_type_its_default_and_the_library_s_own_words(found):
    timeout = found["ddp_timeout"]

    assert (timeout.annotation, timeout.default) == ("int", "1800")
    assert timeout.help.startswith("The timeout for")
    assert found["tf32"].annotation == "bool | None"


def test_nothing_heavy_is_imported(tmp_path):
    told = subprocess.run(
        [
            sys.executable, "-c",
            "import sys; from pathlib import Path\n"
            "from llmforge.compiler.facts.arguments import installed_arguments\n"
            f"print(len(installed_arguments(Path({str(tmp_path)!r}))))\n"
            "print('transformers' in sys.modules, 'torch' in sys.modules)",
        ],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip

    assert int(told[0]) > 100
    assert told[1:] == ["False", "False"]


def test_it_is_read_once_per_version(tmp_path, monkeypatch):
    first = installed_arguments(tmp_path)
    [kept] = (tmp_path / "facts").iterdir()
    monkeypatch.setattr(facts, "read_class", lambda _: pytest.fail("read again"))

    assert installed_arguments(tmp_path) == first

    other = tmp_path / "training_args.py"
    other.write_text("class TrainingArguments:\n    lr: float = 1.0\n", encoding="utf-8")
    monkeypatch.setattr(facts, "source_file", lambda: other)
    monkeypatch.setattr(facts, "read_class", read_class)
    assert installed_arguments(tmp_path) == {"lr": Argument("lr", "float", "1.0", "")}
    assert kept.exists()


def test_what_is_kept_broken_is_read_again(tmp_path):
    first = installed_arguments(tmp_path)
    [kept] = (tmp_path / "facts").iterdir()
    for text in ("{", "[]", json.dumps({"lr": {"annotation": 1}})):
        kept.write_text(text, encoding="utf-8")
        assert installed_arguments(tmp_path) == first


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path):
    (tmp_path / "facts").write_text("a file where a folder should be", encoding="utf-8")

    assert installed_arguments(tmp_path)


def test_without_transformers_there_is_nothing_to_know(tmp_path, monkeypatch):
    monkeypatch.setattr(facts.importlib.util, "find_spec", lambda _: None)

    assert source_file() is None
    assert installed_arguments(tmp_path) is None


def test_a_module_without_the_class_has_none():
    assert read_class("class Other:\n    lr: float = 1.0\n") == {}


@pytest.mark.parametrize(
    ("annotation", "good", "bad", "words"),
    [
        ("int", [3], [3.5, "3", True, None], "a whole number"),
        ("float", [3, 0.5], ["3", False], "a number"),
        ("bool", [True], [1, "true"], "true or false"),
        ("str", ["x"], [1], "text"),
        ("int | None", [3, None], ["x"], "a whole number or null"),
        ("Optional[int]", [3, None], ["x"], "a whole number or null"),
        ("Union[int, str]", [3, "x"], [None], "a whole number or text"),
        ("typing.Optional[str]", ["x", None], [1], "text or null"),
        ("dict | str | None", [{}, "x", None], [[]], "a mapping or text or null"),
        ("dict[str, bool] | None", [{"a": True}], [{"a": 1}],
         "a mapping of true or false or null"),
        ("dict[str, Any]", [{"a": [1]}], [1], "a mapping of anything"),
        ("list[str]", [["a"]], [["a", 1], "a"], "a list of text"),
        ("str | list[DebugOption]", ["x", ["x"]], [1], "text or a list of text"),
        ("IntervalStrategy | str", ["steps"], [3], "text"),
        ("Literal[False, 'x']", [False, "x"], [True, 0, "y"], "`false` or `x`"),
    ],
)  # fmt: skip
def test_values_are_held_against_annotations(annotation, good, bad, words):
    assert [expected(annotation, value) for value in good] == [None] * len(good)
    assert [expected(annotation, value) for value in bad] == [words] * len(bad)


def test_every_default_that_is_written_out_fits_its_own_annotation(found):
    """The reader of annotations is right about all that the library itself writes."""
    made = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
    plain = {n: v for n, v in made.items() if isinstance(v, str | int | float | None)}
    wrong = {n: v for n, v in plain.items() if expected(found[n].annotation, v) is not None}

    assert len(plain) > 90
    assert wrong == {}


def test_the_file_is_the_one_that_would_be_imported():
    import transformers.training_args

    assert source_file() == Path(transformers.training_args.__file__)
