"""Deriving a composition gives what composing gives: values, origins, choices, findings."""

from __future__ import annotations

import random
from itertools import zip_longest
from pathlib import Path

import pytest

from llmforge.compose import Draft, compose, config_root
from llmforge.compose.library import Library
from llmforge.compose.overrides import override_text
from llmforge.compose.references import references
from llmforge.compose.variants import Variants
from llmforge.origins import leaves

LIBRARY = Library((config_root(),))
GROUPS = [g for g in LIBRARY.groups() if g not in ("experiment", "sweep") and "/" not in g]


def rounds() -> list[list[str]]:
    """Every option of every group, as many at a time as there are groups."""
    columns = [[f"{group}={name}" for name in LIBRARY.option_names(group)] for group in GROUPS]
    return [[text for text in row if text] for row in zip_longest(*columns)]


def plain_keys(draft: Draft) -> list[str]:
    return [
        key
        for key, value in leaves(draft.values)
        if isinstance(value, bool | int | float) and all(p.isidentifier() for p in key.split("."))
    ]


def texts(values: dict[str, object]) -> list[str]:
    return [text for key, value in values.items() if (text := override_text(key, value))]


def changed(value: object) -> object:
    return (not value) if isinstance(value, bool) else 17


def assert_same(found: Draft, wanted: Draft) -> None:
    assert found.values == wanted.values
    assert found.origins.chains == wanted.origins.chains
    assert found.choices == wanted.choices
    assert found.diagnostics == wanted.diagnostics
    assert found.overrides == wanted.overrides


@pytest.mark.parametrize("choices", rounds(), ids=lambda c: c[0])
def test_every_option_of_every_group(choices):
    draft = compose(choices)
    picked = random.Random(choices[0]).sample(plain_keys(draft), 6)  # noqa: S311 - no secret
    before = texts(dict.fromkeys(picked, 3))
    values = {key: value for key, value in leaves(draft.values) if key in picked}
    after = texts({key: changed(values[key]) for key in picked})
    variants = Variants()
    variants.compose([*choices, *before])

    assert_same(variants.compose([*choices, *after]), compose([*choices, *after]))


def count_compositions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []

    def counted(*args: object) -> Draft:
        made.append(1)
        return compose(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("llmforge.compose.variants.compose", counted)
    return made


def test_a_hundred_learning_rates_are_composed_once(monkeypatch):
    made = count_compositions(monkeypatch)
    variants = Variants()

    found = [variants.compose(["lora=small", f"optimizer.lr={n}e-5"]) for n in range(1, 101)]

    assert len(made) == 1
    rates = [float(f"{n}e-5") for n in range(1, 101)]
    assert [draft.values["optimizer"]["lr"] for draft in found] == rates


@pytest.mark.parametrize(
    "points",
    [
        # an interpolation reads the key
        [["+copy=${seed}", "seed=1"], ["+copy=${seed}", "seed=2"]],
        # and one that cannot be told what it reads
        [["name=${oc.env:HOME}", "seed=1"], ["name=${oc.env:HOME}", "seed=2"]],
        # the value itself refers to another key
        [["trainer.epochs=1"], ["trainer.epochs=${seed}"]],
        # a later override writes the same key
        [["seed=1", "++seed=3"], ["seed=2", "++seed=3"]],
        # the key is not there
        [["trainer.epoch=1"], ["trainer.epoch=2"]],
        # it is a section
        [["trainer=default"], ["trainer=finetune"]],
        # a list
        [["data.train=[a]"], ["data.train=[b]"]],
        # an experiment that loses to it
        [["experiment=gsm8k", "trainer.epochs=1"], ["experiment=gsm8k", "trainer.epochs=2"]],
        [["optimizer.lr=1", "~optimizer.lr"], ["optimizer.lr=2", "~optimizer.lr"]],
        [["seed='1'"], ['seed="a,b"']],
        [["seed=null"], ["seed=nan"]],
    ],
    ids=lambda points: " ".join(points[0]),
)
def test_what_changes_more_than_a_value_is_composed(points):
    variants = Variants()
    for overrides in points:
        found, wanted = variants.compose(overrides), compose(overrides)
        if "nan" in overrides[0]:
            assert repr(found) == repr(wanted)
        else:
            assert_same(found, wanted)


def test_own_options_count_as_well(tmp_path: Path):
    folder = tmp_path / "lora"
    folder.mkdir()
    (folder / "mine.yaml").write_text("defaults: [small]\nalpha: ${.r}\n")
    variants = Variants([tmp_path])
    variants.compose(["lora=mine", "lora.r=4"])

    found = variants.compose(["lora=mine", "lora.r=24"])

    assert found.values["lora"]["alpha"] == 24
    assert_same(found, compose(["lora=mine", "lora.r=24"], [tmp_path]))


def test_references_are_told_from_the_top():
    raw = {"a": {"b": "${.c} and ${..d}", "c": 1}, "d": "${e.f}", "l": ["${a.c}"]}

    assert references(raw) == {"a.c", "d", "e.f"}
    assert references({"a": "${oc.env:HOME}"}) is None
    assert references({"a": "${b.${c}}"}) is None
