"""Renamed arguments, both ways, by signatures of the older and of the newer version."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import pytest
from transformers import TrainingArguments

from llmforge.build.library_names import RENAMED, current_names


@dataclass
class Older:
    """As transformers 5.17 has it."""

    output_dir: str
    gradient_checkpointing: bool = False
    gradient_checkpointing_kwargs: dict[str, Any] | None = None


@dataclass
class Between:
    """As transformers 5.23 has it: the older name is a deprecated alias."""

    output_dir: str
    activation_checkpointing: bool | None = None
    activation_checkpointing_kwargs: dict[str, Any] | None = None
    gradient_checkpointing: bool | None = None
    gradient_checkpointing_kwargs: dict[str, Any] | None = None


@dataclass
class Newer:
    """As it was announced for transformers 6."""

    output_dir: str
    activation_checkpointing: bool = False
    activation_checkpointing_kwargs: dict[str, Any] | None = field(default=None)


OLD = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
NEW = {"activation_checkpointing": True, "activation_checkpointing_kwargs": OLD[
    "gradient_checkpointing_kwargs"]}  # fmt: skip


@pytest.mark.parametrize("asked", [OLD, NEW], ids=["older names", "newer names"])
@pytest.mark.parametrize(
    ("version", "wanted"), [(Older, OLD), (Between, NEW), (Newer, NEW)], ids=lambda v: str(v)[:20]
)
def test_every_version_gets_its_own_names(asked, version, wanted):
    named = current_names(version, {"output_dir": "here", **asked})

    assert named == {"output_dir": "here", **wanted}
    made = version(**named)
    assert all(getattr(made, name) == value for name, value in wanted.items())


def test_the_installed_version_warns_of_nothing_that_the_table_knows(tmp_path, recwarn):
    made = TrainingArguments(output_dir=str(tmp_path), **current_names(TrainingArguments, OLD))

    assert not [w for w in recwarn if "deprecated" in str(w.message) and "checkpointing" in
                str(w.message)]  # fmt: skip
    assert getattr(made, RENAMED["gradient_checkpointing"], None) or made.gradient_checkpointing


def test_what_nobody_knows_is_left_for_the_library_to_refuse():
    named = current_names(Newer, {"output_dir": "here", "nonsense": 1})

    with pytest.raises(TypeError, match="nonsense"):
        Newer(**named)


def test_functions_have_signatures_too():
    def enable(activation_checkpointing_kwargs: Any = None) -> Any:
        return activation_checkpointing_kwargs

    assert current_names(enable, {"gradient_checkpointing_kwargs": 1}) == {
        "activation_checkpointing_kwargs": 1
    }


def test_no_row_of_the_table_is_dead():
    # a renamed argument stays in the table as long as some supported version has either name
    known = inspect.signature(TrainingArguments).parameters
    assert all(old in known or new in known for old, new in RENAMED.items())
