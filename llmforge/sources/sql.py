"""Rows of a database: a table or a SELECT, read once per plan into a snapshot.

In: a `SqlSource`, one of its statements, the cache folder. Out: a part that reads the snapshot.
The database is only read, in one transaction that is rolled back; rows stream through and are never
held in memory. A table is read in the order of its primary key; without one, in the order of its
rows in a SQLite file, and ordered by all its columns anywhere else.

What connects, and what is wrong with addresses, drivers and servers: `database.py`. What a
statement is: `statement.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Generator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.diagnostics import did_you_mean, near
from llmforge.schema.data import SqlSource
from llmforge.sources.base import Fault, Part, Unusable, excerpt
from llmforge.sources.database import CODE, Address, reading, unreached
from llmforge.sources.files import override
from llmforge.sources.jsonl import JsonlPart
from llmforge.sources.snapshot import snapshot, snapshot_facts
from llmforge.sources.statement import READING, Statement

if TYPE_CHECKING:
    from sqlalchemy import Connection, Inspector
    from sqlalchemy.exc import DBAPIError

_ROWS_AT_ONCE = 1000
_ROW_NUMBERS = ("rowid", "_rowid_", "oid")
"""Names under which SQLite numbers the rows of a table, each hidden by a column of that name."""
_UNORDERED = ("JSON", "XML", "POINT", "BLOB", "CLOB", "BYTEA")
"""Types that some database cannot order by; their text is taken instead."""

_NAMED = re.compile(
    r"no such (?:table|column): (?:\w+\.)?(?P<a>\w+)"  # SQLite
    r'|near "(?P<b>[^"]+)"'  # SQLite and PostgreSQL: syntax
    r'|(?:relation|column|function) "?(?P<c>[\w.]+)"?'  # PostgreSQL
)
"""What a database blames by name."""
_NO_TABLE = re.compile(r"(?i)no such table|relation .* does not exist|table .* doesn't exist")

_read: dict[str, Path] = {}
"""Digest of URL, statement, parameters and cache -> snapshot, for the life of this process: several
passes of one compilation see the same rows and the database is asked once."""


def sql_part(source: SqlSource, statement: str, cache: Path) -> Part:
    """Read a table or a query into a snapshot.

    Args:
        source: gives URL and parameters.
        statement: name of a table, `schema.table`, or a statement that begins with SELECT, WITH,
            VALUES or TABLE.
        cache: the cache folder, `.llmforge`.

    Raises:
        Unusable: LF514 for whatever the database or the statement is to blame for, LF501 for a
            SQLite file that is not there.
    """
    asked = Statement(statement)
    name = part_name(statement)
    _check(source, asked, name)
    address = Address(source.url)
    values = {key: source.parameters[key] for key in asked.parameters} if asked.is_query else {}
    memory = json.dumps(
        [str(Path.cwd()), str(cache), address.url.render_as_string(False), statement, values]
    )
    key = hashlib.sha256(memory.encode("utf-8")).hexdigest()
    known = _read.get(key)
    if known is None or snapshot_facts(known) is None:
        _read[key] = known = _snapshot(source, asked, values, address, name, cache)
    return JsonlPart(name, known)


def forget() -> None:
    """Read databases again at the next call, although this process read them before."""
    _read.clear()


def part_name(statement: str) -> str:
    """What people call a statement's rows: `table questions`, or the beginning of the query."""
    asked = Statement(statement)
    if asked.is_query or asked.is_order:
        words = " ".join(statement.split())
        return "query `" + (words if len(words) <= 48 else words[:45] + "...") + "`"
    return f"table {_unquoted(statement)}"


def _check(source: SqlSource, asked: Statement, name: str) -> None:
    if asked.is_order:
        what = f"is no reading: {asked.first_word.upper()} would change the database or its session"
        raise Unusable(name, Fault(CODE, what, hint="begin with SELECT, or name a table"))
    if not asked.is_single:
        what = "is more than one statement: something stands behind the semicolon"
        raise Unusable(name, Fault(CODE, what, hint="keep the SELECT only"))
    if not asked.is_query:
        return
    for wanted in asked.parameters:
        if wanted not in source.parameters:
            notes = did_you_mean(wanted, source.parameters)
            raise Unusable(name, Fault(
                CODE, f"asks for `:{wanted}`, which data.parameters does not give",
                hint=f"+data.parameters.{wanted}=<value>", key="parameters", notes=notes,
            ))  # fmt: skip
    others = [source.train, *_evaluations(source).values()]
    used = {p for text in others if text for p in Statement(text).parameters}
    for given in source.parameters:
        if given not in used:
            raise Unusable(name, Fault(
                CODE, f"does not ask for `:{given}`, nor does another statement of this source",
                hint=f"~data.parameters.{given}", key=f"parameters.{given}",
                notes=did_you_mean(given, used),
            ))  # fmt: skip


def _evaluations(source: SqlSource) -> dict[str, str]:
    """Setting -> statement of each evaluation set."""
    if isinstance(source.evaluation, Mapping):
        return {f"data.evaluation.{name}": text for name, text in source.evaluation.items()}
    return {} if source.evaluation is None else {"data.evaluation": source.evaluation}


def _setting(source: SqlSource, asked: Statement) -> str:
    """The setting that holds the statement, to be pasted in a hint."""
    if asked.text == source.train:
        return "data.train"
    found = [key for key, text in _evaluations(source).items() if text == asked.text]
    return found[0] if found else "data.train"


def _snapshot(
    source: SqlSource,
    asked: Statement,
    values: Mapping[str, Any],
    address: Address,
    name: str,
    cache: Path,
) -> Path:
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    hint = f"name only the columns you need: {_setting(source, asked)}='SELECT ...'"
    with reading(address) as connection:
        try:
            text = asked.to_bind if asked.is_query else _select(connection, source, asked, name)
            with closing(_rows(connection, text, values, name)) as rows:
                return snapshot(cache, None, rows, name=name, code=CODE, hint=hint)
        except DBAPIError as error:
            if error.connection_invalidated:
                raise unreached(address, error, "was lost while it was read") from error
            raise _refused(connection, source, asked, name, address, error) from error
        except SQLAlchemyError as error:
            what = f"cannot be read: {address.scrubbed(str(error))}"
            raise Unusable(name, Fault(CODE, what)) from error


def _rows(
    connection: Connection, text: str, values: Mapping[str, Any], name: str
) -> Generator[dict[str, Any], None, None]:
    from sqlalchemy import text as sql

    streaming = connection.execution_options(stream_results=True, yield_per=_ROWS_AT_ONCE)
    with streaming.execute(sql(text), dict(values)) as result:
        columns = list(result.keys())
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if twice:
            what = f"has several columns of the name {' and '.join(f'`{c}`' for c in twice)}"
            raise Unusable(name, Fault(CODE, what, hint="name each one apart: SELECT a.id AS a_id"))
        for row in result:
            yield dict(zip(columns, row, strict=True))


def _select(connection: Connection, source: SqlSource, asked: Statement, name: str) -> str:
    """The query that reads a whole table in an order that is the same every time."""
    from sqlalchemy import inspect

    inspector = inspect(connection)
    schema, table = _find(inspector, source, asked, name)
    quoted = connection.dialect.identifier_preparer.quote_identifier
    place = quoted(table) if schema is None else f"{quoted(schema)}.{quoted(table)}"
    key = inspector.get_pk_constraint(table, schema)["constrained_columns"]
    columns = {c["name"]: str(c["type"]).upper() for c in inspector.get_columns(table, schema)}
    order = [quoted(column) for column in key]
    if not order and connection.dialect.name == "sqlite":
        is_table = table in inspector.get_table_names(schema)
        hidden = {column.lower() for column in columns}
        order = [n for n in _ROW_NUMBERS if is_table and n not in hidden][:1]
    for column, kind in columns.items() if not order else ():
        odd = any(word in kind for word in _UNORDERED)
        order.append(f"CAST({quoted(column)} AS TEXT)" if odd else quoted(column))
    return f"SELECT * FROM {place} ORDER BY {', '.join(order)}".replace(":", "\\:")  # noqa: S608 - names come from the database itself and are quoted


def _find(
    inspector: Inspector, source: SqlSource, asked: Statement, name: str
) -> tuple[str | None, str]:
    """Schema and name of the table or view."""
    wanted = _unquoted(asked.text)
    first, dot, rest = wanted.partition(".")
    here = _tables(inspector, None)
    if wanted in here:
        return None, wanted
    if dot and first in inspector.get_schema_names():
        there = _tables(inspector, first)
        if rest in there:
            return first, rest
        here = [f"{first}.{table}" for table in there]
    guess = near(wanted, here, limit=1)
    shown = ", ".join(sorted(here)[:10]) + (", ..." if len(here) > 10 else "")
    hint = f"{_setting(source, asked)}=<table>"
    if guess:
        hint = override(_setting(source, asked), guess[0])
    elif len(wanted.split()) > 1:
        hint = f"begin with {' or '.join(READING).upper()}, or name a table"
    raise Unusable(name, Fault(
        CODE, "does not exist in the database",
        hint=hint,
        notes=(f"tables there: {shown}" if here else "there are no tables in it",),
    ))  # fmt: skip


def _tables(inspector: Inspector, schema: str | None) -> list[str]:
    found = [*inspector.get_table_names(schema), *inspector.get_view_names(schema)]
    if inspector.dialect.name == "postgresql":
        found += inspector.get_materialized_view_names(schema)
    return found


def _refused(
    connection: Connection,
    source: SqlSource,
    asked: Statement,
    name: str,
    address: Address,
    error: DBAPIError,
) -> Unusable:
    """The database did not like the statement: its own words, and where in the statement."""
    from sqlalchemy import inspect

    words = str(error.orig).splitlines()
    said = address.scrubbed(words[0] if words else type(error.orig).__name__)
    match = _NAMED.search(said)
    blamed = next((group for group in match.groups() if group), "") if match else ""
    place = asked.place_of(blamed)
    notes = [f"line {place[0]}, column {place[1]} of the statement"] if place else []
    line = asked.text.splitlines()[place[0] - 1] if place else asked.text
    hint = f"mend the statement in {_setting(source, asked)}"
    if "not a database" in said:  # SQLite looks at its file only when it is asked something
        return address.fault(f"cannot be opened: {said}", hint="data.url=sqlite:///<file>")
    if _NO_TABLE.search(said):
        connection.rollback()  # PostgreSQL answers nothing more in a transaction that failed
        guess = near(blamed, _tables(inspect(connection), None), limit=1)
        notes += [f"did you mean `{guess[0]}`?"] if guess else []
        if guess and place:
            mended = re.sub(rf"(?<!\w){re.escape(blamed)}(?!\w)", guess[0], asked.text)
            text = " ".join(mended.split())
            plain = re.fullmatch(r"[\w .*]+", text)  # Hydra takes it without quotes of its own
            setting = _setting(source, asked)
            hint = f"{setting}='{text}'" if plain else override(setting, text)
    fault = Fault(
        CODE, f"was refused by the database: {said}", place[1] if place else None,
        sample=excerpt(line), hint=hint, notes=tuple(notes),
    )  # fmt: skip
    return Unusable(name, fault)


def _unquoted(name: str) -> str:
    name = name.strip()
    quoted = len(name) > 2 and name[0] in "\"`'" and name[-1] == name[0]
    return name[1:-1] if quoted else name
