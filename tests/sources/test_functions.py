"""What cannot work is refused where it is registered; what is registered is found by name."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmforge.sources import functions
from llmforge.sources.base import Unusable
from llmforge.sources.functions import (
    BaseDataset,
    dataset,
    find_dataset,
    find_transform,
    identity,
    transform,
)


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registries of one's own."""
    for name in ("_transforms", "_datasets", "_digests"):
        monkeypatch.setattr(functions, name, {})


def test_a_transform_is_found_by_name() -> None:
    @transform("upper")
    def upper(row: dict[str, Any]) -> dict[str, Any]:
        return {key: value.upper() for key, value in row.items()}

    assert find_transform("upper") is upper
    assert upper({"text": "a"}) == {"text": "A"}  # the function itself stays as it was


def test_a_data_set_class_is_found_by_name() -> None:
    @dataset("mine")
    class Mine(BaseDataset):
        @classmethod
        def get_data(cls, **options: Any) -> Any:
            return [options], None

    assert find_dataset("mine") is Mine
    made = Mine([{"text": "a"}, {"text": "b"}])
    assert (len(made), made.get_sample(1)) == (2, {"text": "b"})


def test_an_unknown_name_comes_with_near_matches() -> None:
    transform("shorten")(lambda row: row)
    with pytest.raises(Unusable) as raised:
        find_transform("shoten")
    assert str(raised.value) == "transform `shoten` is not registered by any plugin"
    assert raised.value.fault.code == "LF515"
    assert raised.value.fault.hint == "data.transform=shorten"
    with pytest.raises(Unusable) as raised:
        find_dataset("any")
    assert raised.value.fault.key == "name"
    assert raised.value.fault.hint == "plugins=[<module that registers it>]"
    assert raised.value.fault.notes == ("registered are: none",)


def test_a_name_is_taken_unless_it_is_overridden() -> None:
    def first(row: Any) -> Any:
        return row

    def second(row: Any) -> Any:
        return row

    transform("same")(first)
    with pytest.raises(ValueError, match=r"already registered by .*first; override=True"):
        transform("same")(second)
    assert find_transform("same") is first
    transform("same", override=True)(second)
    assert find_transform("same") is second


def test_the_same_definition_run_again_replaces_itself() -> None:
    def define() -> Any:
        @transform("again")
        def again(row: Any) -> Any:
            return row

        return again

    first, second = define(), define()
    assert find_transform("again") is second is not first


async def awaits(row: Any) -> Any:
    return row


def yields(row: Any) -> Any:
    yield row


def takes_two(row: Any, other: Any) -> Any:
    return row, other


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (awaits, "must return its rows, not await or yield them"),
        (yields, "must return its rows, not await or yield them"),
        (takes_two, r"must take one row and nothing else, not \(row: 'Any', other: 'Any'\)"),
        (lambda: None, r"must take one row and nothing else, not \(\)"),
        (dict, "is no function"),
        ("text", "is no function"),
    ],
)
def test_what_is_no_transform(made: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        transform("t")(made)
    with pytest.raises(Unusable):
        find_transform("t")


class NoBase:
    @classmethod
    def get_data(cls) -> Any:
        return [], None


class NoData(BaseDataset): ...


class NotOfTheClass(BaseDataset):
    def get_data(self) -> Any:  # type: ignore[override] # the fault that is refused
        return [], None


class NoIndex(BaseDataset):
    @classmethod
    def get_data(cls) -> Any:
        return [], None

    def get_sample(self) -> Any:  # type: ignore[override] # the fault that is refused
        return {}


class OneKey(BaseDataset):
    must_have_keys = "text"  # type: ignore[assignment] # the fault that is refused

    @classmethod
    def get_data(cls) -> Any:
        return [], None


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (NoBase, "must be a class that inherits from BaseDataset"),
        (takes_two, "must be a class that inherits from BaseDataset"),
        (NoData, "has no get_data"),
        (NotOfTheClass, "get_data of dataset `d` needs @classmethod"),
        (NoIndex, "get_sample of dataset `d` must take an index"),
        (OneKey, "must_have_keys of dataset `d` must be a tuple"),
    ],
)
def test_what_is_no_data_set_class(made: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dataset("d")(made)


@pytest.mark.parametrize("name", ["", "two words", "a/b", "-x"])
def test_names_that_cannot_stand_in_settings(name: str) -> None:
    with pytest.raises(ValueError, match="is not letters, digits"):
        dataset(name)


def test_a_decorator_without_its_name() -> None:
    with pytest.raises(ValueError, match=r'needs a name: @transform\("my_name"\)'):
        transform(takes_two)  # type: ignore[arg-type] # the fault that is refused


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "identified.py"
    path.write_text(
        "from llmforge.sources.functions import transform\n"
        "@transform('it')\ndef it(row):\n    return row\n"
    )
    yield path
    sys.modules.pop("identified", None)


def test_identity_is_the_digest_of_the_source_file(module: Path) -> None:
    importlib.import_module("identified")
    assert identity(find_transform("it")) == hashlib.sha256(module.read_bytes()).hexdigest()


def test_identity_of_a_file_that_was_changed_after_its_import(module: Path) -> None:
    importlib.import_module("identified")
    module.write_text(module.read_text() + "# changed\n")
    with pytest.raises(Unusable, match="changed after this process imported it"):
        identity(find_transform("it"))


def test_identity_of_what_has_no_source_file() -> None:
    def typed(row: Any) -> Any:
        return row

    typed.__module__ = "a_notebook"
    transform("typed")(typed)
    with pytest.raises(Unusable, match="is in no source file"):
        identity(typed)
