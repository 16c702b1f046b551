"""The text under a schema field is the user's help."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmforge.registry import kinds
from llmforge.schema import SECTIONS, SINGLE, Spec
from llmforge.schema.checkpoint import CheckpointSpec
from llmforge.schema.data import JsonlData
from llmforge.schema.docs import docs_of, field_doc, field_type
from llmforge.schema.evaluation import EvaluationSpec
from llmforge.schema.optim import AdamW
from llmforge.schema.run import Scalars
from llmforge.schema.train import LmTrainer


def all_specs() -> list[type[Spec]]:
    chosen = [c.spec for s in SECTIONS for c in kinds(s).values()]
    return [Scalars, *SINGLE.values(), *chosen]


def test_doc_of_a_field():
    assert field_doc(LmTrainer, ["micro_batch"]) == "Samples per device and forward pass."


def test_doc_is_inherited():
    assert docs_of(AdamW)["lr"] == docs_of(AdamW.__mro__[1])["lr"]


def test_doc_of_a_nested_field():
    assert field_doc(JsonlData, ["fields", "prompt"]) == (
        "What is given (shapes `prompt_completion` and `preference`; of the latter it may be "
        "missing, and is then what both answers begin with)."
    )


def test_doc_of_a_kind_is_that_of_the_component():
    assert field_doc(AdamW, ["kind"]).startswith("Which component this section is: AdamW")


@pytest.mark.parametrize("path", [["nothing"], ["fields", "nothing"]])
def test_no_field_no_doc(path):
    assert field_doc(JsonlData, path) == ""
    assert field_type(JsonlData, path) == "anything"


@pytest.mark.parametrize(
    ("spec", "path", "words"),
    [
        (LmTrainer, ["micro_batch"], "whole number >= 1 or `auto`"),
        (LmTrainer, ["epochs"], "number > 0 <= 100000 or `auto` or null"),
        (LmTrainer, ["label_smoothing"], "number >= 0 <= 1"),
        (LmTrainer, ["group_by_length"], "true or false or `auto`"),
        (AdamW, ["betas"], "list of number >= 0 < 1"),
        (CheckpointSpec, ["best_direction"], "`minimize` or `maximize`"),
        (JsonlData, ["train"], "text or list of text or null"),
        (EvaluationSpec, ["every"], "whole number or text or null"),
    ],
)
def test_types_in_plain_words(spec, path, words):
    assert field_type(spec, path) == words


def fields(spec: type[Spec]) -> Iterator[tuple[str, ...]]:
    for name, field in spec.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Spec):
            yield from ((name, *rest) for rest in fields(field.annotation))
        else:
            yield (name,)


@pytest.mark.parametrize("spec", all_specs(), ids=lambda s: s.__name__)
def test_every_field_is_explained(spec):
    assert [path for path in fields(spec) if not field_doc(spec, path)] == []
