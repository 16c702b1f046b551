"""Composed values in which a field means something, and values of other kinds in their sections.

In: the folder with a model and data, from the shared fixtures. Out: `Bases`: values for a field by
its section and kind, composed as seldom as can be, since composing takes a third of a second.
"""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import yaml
from dead_key_effects import Values, place
from dead_key_fields import Field
from dead_key_tables import BESIDES, KINDS
from omegaconf import OmegaConf

from llmforge.compose import compose, options
from llmforge.compose.library import config_root
from llmforge.schema import SECTIONS

BASE = (
    "model=folder", "model.path=tiny", "data=jsonl", "data.train=qa.jsonl",
    "data.fields.prompt=question", "data.fields.completion=answer", "data.eval_fraction=0.1",
    "hardware=h200",
)  # fmt: skip
"""What fields are changed in unless it is about a section of these."""


class Bases:
    """`bases(field)`: composed values, a copy of one's own."""

    def __init__(self, folder: Path, every_kind: dict[str, tuple[str, ...]]) -> None:
        self.folder = folder
        self._every_kind = every_kind
        make_presets(folder)

    def __call__(self, field: Field, *more: str) -> Values:
        words: tuple[str, ...] = ()
        if field.section == "data":
            words = self.data(str(field.kind))
        elif field.kind is not None:
            option = self.option(field.section, field.kind)
            chosen = KINDS.get((field.section, field.kind), ())
            words = (f"{field.section}={option}", *chosen)
        beside = (*BESIDES.get(field.own, ()), *BESIDES.get(field.full, ()))
        return self.values(*words, *beside, *more)

    def data(self, kind: str) -> tuple[str, ...]:
        """Words that read the bench folder's questions as this kind of data."""
        return (f"data={kind}",) if kind.startswith("builtin") else self._every_kind[kind]

    def values(self, *words: str) -> Values:
        """The base with `group=option` and `dotted.key=value` in it, values as YAML has them."""
        values = copy.deepcopy(composed(*BASE))
        for word in words:
            key, _, text = word.partition("=")
            if key in SECTIONS:
                values[key] = copy.deepcopy(section_of(key, text))
            else:
                place(values, key, yaml.safe_load(text))
        return values

    def option(self, section: str, kind: str) -> str:
        """The first shipped option of a kind."""
        for name, values in shipped(section):
            if values.get("kind") == kind:
                return name
        raise AssertionError(f"no option of conf/{section} has kind `{kind}`")

    def other_options(self, field: Field) -> list[Any]:
        """What other shipped options of the same kind have in a field of their section."""
        if field.section == "" or field.key.count(".") > 1:
            return []
        found = [
            values[field.name]
            for _, values in shipped(field.section)
            if values.get("kind", field.kind) == field.kind and field.name in values
        ]
        return [each for each in found if "???" not in str(each) and "${" not in str(each)]


@functools.cache
def composed(*words: str) -> Values:
    """Composed once; not to be changed."""
    return dict(compose(words).values)


@functools.cache
def shipped(section: str) -> list[tuple[str, Values]]:
    """Options of a group with what their files say, what they build on left out."""
    return [(option.name, _file(option.path)) for option in options(section)]


def _file(path: Path) -> Values:
    """What a file says, read as Hydra reads it: `3e-3` is a number."""
    found: Any = OmegaConf.to_container(OmegaConf.load(path))
    return dict(found)


@functools.cache
def section_of(section: str, option: str) -> Values:
    """A section as an option has it: its file alone where that says everything."""
    values = _file(config_root() / section / f"{option}.yaml")
    if "defaults" in values or "${" in str(values):
        return dict(composed(f"{section}={option}")[section])
    return values


def make_presets(folder: Path) -> None:
    """Two JSON presets each of an optimizer, an adapter and ZeRO, which differ."""
    presets: dict[str, list[Values]] = {
        "optimizer": [
            {"optimizer_name": "AdamW", "learning_rate": rate, "weight_decay": 0.1,
             "gradient_clip": 1.0}
            for rate in (0.1, 0.2)
        ],
        "lora": [
            {"lora_r": rank, "lora_alpha": 8, "lora_dropout": 0.1, "bias": "none",
             "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
            for rank in (4, 8)
        ],
        "deepspeed": [{"zero_optimization": {"stage": stage}} for stage in (2, 3)],
    }  # fmt: skip
    for section, (one, two) in presets.items():
        (folder / f"{section}_one.json").write_text(json.dumps(one), encoding="utf-8")
        (folder / f"{section}_two.json").write_text(json.dumps(two), encoding="utf-8")
