"""Parquet and Arrow files: rows out of columns, as JSON values.

In: a file. Out: `ParquetPart` and `ArrowPart`, their rows. Columns that hold null stay, binary ones
are left out; what else a value becomes is told in `arrow_values.py`. Which columns a row needs is
checked elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from llmforge.sources.arrow_values import Binary, Convert, converter, same
from llmforge.sources.base import Fault, Raw, Unusable, excerpt
from llmforge.sources.files import PACKED, check_regular, foreign, unusable

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types

_BATCH = 1024
"""Rows turned into Python values at a time."""


class _Table:
    """What the columns of a file become, and the rows of its batches."""

    def __init__(self, name: str, schema: pa.Schema) -> None:
        self._name, self._row = name, 0
        twice = next((c for c in schema.names if schema.names.count(c) > 1), None)
        if twice is not None:
            what, hint = f"has two columns `{excerpt(twice)}`", "rename one of them"
            raise unusable(name, what, code="LF504", hint=hint)
        self._columns: list[tuple[int, str, Convert]] = []
        for index, field in enumerate(schema):
            try:
                self._columns.append((index, field.name, converter(field.type)))
            except Binary:
                continue

    def all(self, batches: Iterator[pa.RecordBatch]) -> Iterator[Raw]:
        """The rows of batches of any size.

        Raises:
            Unusable: the file breaks off.
        """
        while True:
            try:
                batch = next(batches, None)
            except damage() as error:
                raise _damaged(self._name, self._row, error) from error
            if batch is None:
                return
            for start in range(0, batch.num_rows, _BATCH):
                yield from self._some(batch.slice(start, _BATCH))

    def _some(self, batch: pa.RecordBatch) -> Iterator[Raw]:
        try:
            # a file may say that text or offsets stand where none do
            batch.validate(full=True)
            columns = [_values(batch, index, convert) for index, _, convert in self._columns]
        except damage() as error:
            if batch.num_rows > 1:
                for row in range(batch.num_rows):
                    yield from self._some(batch.slice(row, 1))
                return
            self._row += 1
            yield Raw(self._row, None, self._fault(batch, error))
            return
        names = [name for _, name, _ in self._columns]
        for values in zip(*columns, strict=True) if columns else [()] * batch.num_rows:
            self._row += 1
            yield Raw(self._row, dict(zip(names, values, strict=True)))

    def _fault(self, batch: pa.RecordBatch, error: Exception) -> Fault:
        """Of a batch of one row."""
        code, what, sample = "LF504", f"cannot be read: {excerpt(str(error))}", f"row {self._row}"
        for index, name, convert in self._columns:
            try:
                _values(batch, index, convert)
            except UnicodeDecodeError as wrong:
                byte = f"byte 0x{wrong.object[wrong.start]:02x} at position {wrong.start}"
                code, what = "LF503", f"is not UTF-8 in `{excerpt(name)}`: {byte}"
                sample = excerpt(wrong.object[:400])
                break
            except damage() as wrong:
                what = f"cannot be read in `{excerpt(name)}`: {excerpt(str(wrong))}"
                break
        return Fault(code, what, sample=sample, hint="write the file again, without that row")


def _values(batch: pa.RecordBatch, index: int, convert: Convert) -> list[Any]:
    column = batch.column(index)
    if hasattr(column, "storage"):  # of an extension type
        column = column.storage
    values: list[Any] = column.to_pylist()
    return values if convert is same else [convert(value) for value in values]


def damage() -> tuple[type[Exception], ...]:
    """What pyarrow raises for a file that is not what it seems."""
    import pyarrow as pa

    return (pa.ArrowException, OSError, ValueError, KeyError, OverflowError, NotImplementedError)


def _begin(name: str, path: Path, own: bytes) -> bytes:
    """The first bytes of a file, which are none of an empty one.

    Raises:
        Unusable: no file, packed from outside, or of another kind by its first bytes.
    """
    check_regular(path, name)
    packed = PACKED.get(path.suffix.lower())
    if packed is not None:
        what = f"is packed with {packed}; such files are packed inside"
        raise unusable(name, what, code="LF504", hint=f"{packed} -d {quote(name)}")
    try:
        with path.open("rb") as file:
            start = file.read(32)
    except OSError as error:
        raise unusable(f"data file {name}", f"cannot be read: {error.strerror}") from error
    other = None if start.startswith(own) else foreign(name, start)
    if other is not None:
        raise other
    return start


def _no_table(name: str, kind: str, start: bytes, error: Exception) -> Unusable:
    reason = excerpt(str(error))
    hint = "fetch or write the file again"
    if start.startswith((b"PAR1", b"ARROW1")):
        return unusable(name, f"is cut short or damaged: {reason}", code="LF504", hint=hint)
    if start.lstrip()[:1] in (b"{", b"["):
        hint = "data=jsonl" if start.lstrip()[:1] == b"{" else "data=json"
    return unusable(name, f"is not {kind}: {reason}", code="LF504", hint=hint)


def _damaged(name: str, row: int, error: Exception) -> Unusable:
    what = f"is damaged after row {row}: {excerpt(str(error))}"
    return unusable(name, what, code="LF504", hint="fetch or write the file again")


@dataclass(frozen=True)
class ParquetPart:
    """The rows of one Parquet file. `Raw.line` is a row's number from 1."""

    name: str
    path: Path

    @property
    def file(self) -> Path:
        return self.path

    def rows(self) -> Iterator[Raw]:
        """Every row; see `Part.rows`."""
        start = _begin(self.name, self.path, b"PAR1")
        if not start:
            return
        from pyarrow import parquet

        try:
            # a buffer, so that a column of a row group is not read whole
            file = parquet.ParquetFile(self.path, buffer_size=1 << 20, pre_buffer=False)
        except damage() as error:
            raise _no_table(self.name, "a Parquet file", start, error) from error
        with file:
            table = _Table(self.name, file.schema_arrow)
            batches = file.iter_batches(_BATCH, use_threads=False)
            yield from table.all(batches)


@dataclass(frozen=True)
class ArrowPart:
    """The rows of one Arrow file, stream or Feather file. `Raw.line` is a row's number from 1."""

    name: str
    path: Path

    @property
    def file(self) -> Path:
        return self.path

    def rows(self) -> Iterator[Raw]:
        """Every row; see `Part.rows`."""
        start = _begin(self.name, self.path, b"ARROW1")
        if not start:
            return
        if start.startswith(b"FEA1"):
            hint = "pyarrow.feather.write_feather(pyarrow.feather.read_table(old), new)"
            what = "is a Feather file of version 1, which is no Arrow file"
            raise unusable(self.name, what, code="LF504", hint=hint)
        import pyarrow as pa

        with pa.OSFile(str(self.path)) as source:
            try:
                if start.startswith(b"ARROW1"):
                    file = pa.ipc.open_file(source)
                    batches = (file.get_batch(index) for index in range(file.num_record_batches))
                else:
                    file = pa.ipc.open_stream(source)
                    batches = iter(file)
            except damage() as error:
                raise _no_table(self.name, "an Arrow file", start, error) from error
            yield from _Table(self.name, file.schema).all(batches)
