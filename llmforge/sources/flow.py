"""Raw rows to rows of a shape: select, transform, fold, check. Nothing is left out without a word.

In: a part and its source's settings. Out: for each raw row one or more `Row`s, or a `Dropped` that
says why. The compiler runs it to count and to refuse, the worker runs it again to tokenise, so both
see the same rows in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from llmforge.schema.data import Source
from llmforge.sources.base import Fault, Part, Raw, Row, excerpt
from llmforge.sources.pairs import pair_of
from llmforge.sources.select import condition, lookup
from llmforge.sources.shapes import detect, no_shape, values_of

Transform = Callable[[dict[str, Any]], Any]

HELD_OUT = ("valid", "validation", "eval", "evaluation", "test")
"""Values of the fold column that hold a row out; `train` trains on it."""


class Kept(NamedTuple):
    """A row to use."""

    row: Row
    held_out: bool = False
    """The fold column puts it into the evaluation set."""


class Dropped(NamedTuple):
    """A row that is not used, and why."""

    source: str
    line: int
    reason: str
    """`not_selected`, `transformed_away`, or `bad` with a fault."""
    fault: Fault | None = None

    @property
    def place(self) -> str:
        return f"{self.source}:{self.line}"


class Flow:
    """The way of a source's rows. `shape` is the settings', or becomes the first row's."""

    def __init__(
        self, source: Source, shape: str | None = None, transform: Transform | None = None
    ) -> None:
        """`transform` is the function that `source.transform` names."""
        self._source = source
        self._conditions = [condition(text) for text in source.select]
        self._transform = transform
        self.shape = shape if shape is not None or source.shape == "auto" else source.shape

    def read(self, part: Part) -> Iterator[Kept | Dropped]:
        """Every row of a part.

        Raises:
            Unusable: the part as a whole cannot be read.
        """
        for raw in part.rows():
            yield from self._one(part.name, raw)

    def _one(self, name: str, raw: Raw) -> Iterator[Kept | Dropped]:
        if raw.values is None:
            yield Dropped(name, raw.line, "bad", raw.fault)
            return
        if not all(condition.meets(raw.values) for condition in self._conditions):
            yield Dropped(name, raw.line, "not_selected")
            return
        if self._transform is None:
            yield self._shaped(name, raw.line, raw.values)
            return
        made, fault = self._transformed(self._transform, raw.values)
        if fault is not None:
            yield Dropped(name, raw.line, "bad", fault)
        elif not made:
            yield Dropped(name, raw.line, "transformed_away")
        for values in made:
            yield self._shaped(name, raw.line, values)

    def _transformed(
        self, transform: Transform, values: Mapping[str, Any]
    ) -> tuple[list[Mapping[str, Any]], Fault | None]:
        called = self._source.transform
        try:
            found = transform(dict(values))
        except Exception as error:  # it is the user's code and may raise anything
            what = f"makes transform `{called}` raise {type(error).__name__}: {excerpt(str(error))}"
            return [], Fault("LF515", what, sample=excerpt(str(dict(values))), key="transform",
                             hint="mend the function, or that row")  # fmt: skip
        rows = [] if found is None else found if isinstance(found, list) else [found]
        if not all(isinstance(row, Mapping) for row in rows):
            what = (
                f"becomes {type(found).__name__} by transform `{called}`, not a row, rows or null"
            )
            return [], Fault("LF515", what, key="transform", ends=True,
                             hint="return a mapping, a list of mappings, or None")  # fmt: skip
        return rows, None

    def _shaped(self, name: str, line: int, values: Mapping[str, Any]) -> Kept | Dropped:
        held_out, fault = self._fold(values)
        if fault is not None:
            return Dropped(name, line, "bad", fault)
        if self.shape is None:
            self.shape = detect(values, self._source.fields)
            if self.shape is None:
                return Dropped(name, line, "bad", no_shape(values, self._source.fields))
        if self.shape == "preference":
            found, fault = pair_of(values, self._source)
        else:
            found, fault = values_of(values, self.shape, self._source)
        if found is None:
            return Dropped(name, line, "bad", fault)
        return Kept(Row(name, line, found), held_out)

    def _fold(self, values: Mapping[str, Any]) -> tuple[bool, Fault | None]:
        column = self._source.fold
        if column is None:
            return False, None
        said = lookup(values, column)
        if said == "train" or said in HELD_OUT:
            return said != "train", None
        return False, Fault(
            "LF511",
            f"`{column}` is {excerpt(str(said))!r}, neither train nor valid",
            sample=excerpt(str(dict(values))),
            key="fold",
            hint="fold=null" if said is None else "write train or valid there",
            notes=(f"held out are: {', '.join(HELD_OUT)}",),
        )
