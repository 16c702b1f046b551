"""A data set class runs in a process of its own, once; whatever it does wrong has file and line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmforge import plugins
from llmforge.schema.data import ClassSource, Fields
from llmforge.sources import functions
from llmforge.sources.base import Fault, Unusable
from llmforge.sources.classes import class_parts

CACHE = Path(".llmforge")
HEAD = """import os
from llmforge.sources.functions import BaseDataset, dataset

@dataset("mine")
class Mine(BaseDataset):
    must_have_keys = ("prompt", "completion")

    @classmethod
    def get_data(cls, size=2):
        open("calls.txt", "a").write(f"{os.getpid()}\\n")
        print("noise on standard output")
"""
GOOD = (
    HEAD
    + """
        return [(n, n * n) for n in range(size)], [(9, 81)]

    def get_sample(self, index):
        number, square = self.data[index]
        return {"prompt": f"{number} squared", "completion": str(square)}
"""
)


def source(name: str = "mine", refresh: bool = False, **options: Any) -> ClassSource:
    fields = Fields(**{name: name for name in Fields.model_fields})
    given: dict[str, Any] = {
        "kind": "class", "shape": "auto", "fields": fields, "roles": {}, "strict_turns": True,
        "select": [], "transform": None, "fold": None, "name": name, "options": options,
        "refresh": refresh,
    }  # fmt: skip
    return ClassSource(**given)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """`write(text)`: the plugin `my_data` says that from now on, as in a new process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "_loaded", {})
    for name in ("_transforms", "_datasets", "_digests"):
        monkeypatch.setattr(functions, name, {})

    def plugin(text: str) -> None:
        (tmp_path / "my_data.py").write_text(text, encoding="utf-8")
        sys.modules.pop("my_data", None)
        assert plugins.load(["my_data"]) == []

    # compiled files are trusted by the second of their source's time, too coarse for this
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    yield plugin
    sys.modules.pop("my_data", None)


def rows(part: Any) -> list[Any]:
    return [raw.values for raw in part.rows()]


def fault(**options: Any) -> tuple[str, Fault]:
    with pytest.raises(Unusable) as raised:
        class_parts(source(**options), CACHE)
    assert raised.value.fault.code == "LF515"
    return str(raised.value), raised.value.fault


def test_rows_of_a_class(write: Callable[[str], None]) -> None:
    write(GOOD)
    train, evaluation = class_parts(source(size=3), CACHE)
    assert train.name == "class `mine` train"
    assert rows(train) == [
        {"prompt": "0 squared", "completion": "0"},
        {"prompt": "1 squared", "completion": "1"},
        {"prompt": "2 squared", "completion": "4"},
    ]
    assert evaluation
    assert rows(evaluation) == [{"prompt": "9 squared", "completion": "81"}]


def test_it_runs_again_only_when_its_source_or_options_change(write: Callable[[str], None]) -> None:
    def calls() -> int:
        return len(Path("calls.txt").read_text().splitlines())

    write(GOOD)
    first, _ = class_parts(source(), CACHE)
    assert class_parts(source(), CACHE)[0] == first
    assert calls() == 1
    class_parts(source(size=5), CACHE)
    assert calls() == 2
    class_parts(source(refresh=True), CACHE)
    assert calls() == 3
    write(GOOD.replace("squared", "times itself"))
    assert rows(class_parts(source(), CACHE)[0])[0]["prompt"] == "0 times itself"
    assert calls() == 4
    assert first.file
    first.file.unlink()
    write(GOOD)
    assert len(rows(class_parts(source(), CACHE)[0])) == 2
    assert calls() == 5


def test_it_runs_in_another_process(write: Callable[[str], None]) -> None:
    import os

    write(GOOD)
    class_parts(source(), CACHE)
    assert Path("calls.txt").read_text().strip() != str(os.getpid())


def test_without_evaluation_data_and_without_get_sample(write: Callable[[str], None]) -> None:
    write(HEAD + "        return ({'prompt': 'a', 'completion': 'b'},), None\n")
    train, evaluation = class_parts(source(), CACHE)
    assert rows(train) == [{"prompt": "a", "completion": "b"}]
    assert evaluation is None
    assert class_parts(source(), CACHE) == (train, None)  # remembered so


def test_a_generator_of_items(write: Callable[[str], None]) -> None:
    write(HEAD + "        return ({'prompt': str(n), 'completion': ''} for n in range(4)), None\n")
    assert len(rows(class_parts(source(), CACHE)[0])) == 4


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return None", "gives no data: get_data returned None"),
        ("return [], None", "gives an empty training list"),
        ("return None, [1]", "gives an empty training list"),
        ("return [{}]", "gives list from get_data, where (train, evaluation or None)"),
        ("return [], [], []", "gives 3 values from get_data"),
        ("return 'text', None", "gives str as train data from get_data, not a list"),
        ("return [1], 5", "gives int as evaluation data from get_data, not a list"),
        ("return {}['x'], None", "raised in get_data: KeyError: 'x' (my_data.py:12)"),
        ("raise SystemExit(3)", "raised in get_data: SystemExit: 3 (my_data.py:12)"),
        ("os._exit(7)", "ended its process with exit code 7"),
        ("os.abort()", "ended its process by SIGABRT"),
        ("return [3], None", "gives int from get_sample(0), where a row was expected"),
        ("return [None], None", "gives None from get_sample(0)"),
    ],
)
def test_what_get_data_may_do_wrong(write: Callable[[str], None], body: str, said: str) -> None:
    write(HEAD + f"        {body}\n")
    assert said in fault()[0]


def test_an_option_that_get_data_does_not_take(write: Callable[[str], None]) -> None:
    write(GOOD)
    text, found = fault(sizes=3)
    assert "unexpected keyword argument 'sizes'" in text
    assert found.key == "options"


def test_a_sample_without_a_key_it_must_have(write: Callable[[str], None]) -> None:
    write(HEAD + "        return [{'prompt': 'a', 'completion': 'b'}, {'prompt': 'c'}], None\n")
    text, found = fault()
    assert text == "class `mine` train gives a sample without `completion` at index 1"
    assert found.sample == "{'prompt': 'c'}"
    assert found.notes == ("must_have_keys of Mine: prompt, completion",)


def test_get_sample_that_raises(write: Callable[[str], None]) -> None:
    write(GOOD.replace("self.data[index]", "self.data[index + 1]"))
    said = "class `mine` train raised in get_sample(1): IndexError: list index out of range"
    assert fault()[0] == f"{said} (my_data.py:16)"


def test_a_value_that_json_lacks(write: Callable[[str], None]) -> None:
    write(HEAD + "        return [{'prompt': b'a', 'completion': 'b'}], None\n")
    assert "in row 1 column `prompt`: 1 bytes" in fault()[0]


def test_an_unknown_class(write: Callable[[str], None]) -> None:
    write(GOOD)
    with pytest.raises(Unusable) as raised:
        class_parts(source("mien"), CACHE)
    assert raised.value.fault.hint == "data.name=mine"


def test_nothing_of_a_failed_run_is_remembered(write: Callable[[str], None]) -> None:
    write(HEAD + "        return [{'prompt': 'a'}], None\n")
    fault()
    assert [p for p in CACHE.rglob("*") if p.is_file()] == []
