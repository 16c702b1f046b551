"""A connection that only reads, to the database that `data.url` names.

In: the URL as the settings hold it. Out: an open SQLAlchemy connection inside a transaction that is
rolled back, or `Unusable` that says what is wrong with the address, the driver or the server.

SQLite files are opened read-only and never made; in PostgreSQL the transaction is a read-only one.
Passwords come from the environment and are blotted out of whatever the database says.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from llmforge.diagnostics import near
from llmforge.sources.base import Fault, Unusable

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

CODE = "LF514"

_SECONDS_TO_CONNECT = 10
_VARIABLE = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)")
_SECRET = re.compile(r"pass|pwd|secret|token|credential|api_?key", re.IGNORECASE)
_HARMLESS = frozenset({"passfile", "sslpassfile"})
_PACKAGES = {
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
    "pymysql": "pymysql",
    "oracledb": "oracledb",
    "pyodbc": "pyodbc",
}
"""Module of a driver -> name of its package, where they differ or are asked for by default."""
_DIALECTS = {
    "bigquery": "sqlalchemy-bigquery",
    "clickhouse": "clickhouse-sqlalchemy",
    "duckdb": "duckdb-engine",
    "redshift": "sqlalchemy-redshift",
    "snowflake": "snowflake-sqlalchemy",
    "trino": "trino",
}
"""Dialects that are packages of their own."""
_BUILT_IN = ("sqlite", "postgresql", "mysql", "mariadb", "oracle", "mssql")
_ALIASES = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}


class Address:
    """Where a database is: the URL behind a setting, checked, and how to speak of it."""

    def __init__(self, setting: str) -> None:
        """Raises `Unusable` for what is no usable URL; no driver is loaded, nothing is opened."""
        variable = _VARIABLE.fullmatch(setting)
        self.setting = setting
        self.name = f"the database of {setting}" if variable else "the database"
        if variable:
            text = os.environ.get(variable[1], "")
            if not text:
                hint = f"export {variable[1]}=postgresql+psycopg://user@host/name"
                raise self.fault(f"is not known: {variable[1]} is not set here", hint=hint)
        else:
            text = setting
        self.url = self._parsed(text, in_settings=not variable)
        if not variable:
            self.name = f"the database {self.url.render_as_string(hide_password=True)}"

    def _parsed(self, text: str, in_settings: bool) -> URL:
        from sqlalchemy import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            url = make_url(text)
        except (ArgumentError, ValueError) as error:  # their words may repeat the URL
            hint = "data.url=sqlite:///chats.db, or env:NAME of a variable that holds the URL"
            raise self.fault("is not named by a database URL", hint=hint) from error
        secret = [k for k in url.query if _SECRET.search(k) and k not in _HARMLESS]
        if in_settings and (url.password or secret):
            what = "has a password in its URL, which plans and logs would show"
            note = "put the whole URL into an environment variable and name that"
            raise self.fault(what, hint="data.url=env:DATABASE_URL", notes=(note,))
        return url.set(drivername=_ALIASES.get(url.drivername, url.drivername))

    def fault(
        self,
        what: str,
        *,
        hint: str | None = None,
        notes: tuple[str, ...] = (),
        code: str = CODE,
    ) -> Unusable:
        """Something is wrong with the address itself."""
        return Unusable(self.name, Fault(code, what, hint=hint, key="url", notes=notes))

    def scrubbed(self, text: str) -> str:
        """What a database says, in one line and without the secrets of the URL."""
        query = [v for k, v in self.url.query.items() if _SECRET.search(k) and isinstance(v, str)]
        for secret in [str(self.url.password or ""), *query]:
            for form in (secret, quote(secret, safe=""), quote_plus(secret)):
                text = text.replace(form, "***") if form else text
        return " ".join(text.split())


@contextmanager
def reading(address: Address) -> Iterator[Connection]:
    """A connection inside a transaction that only reads and is rolled back.

    Raises:
        Unusable: no driver, no such file, or the server cannot be reached.
    """
    from sqlalchemy.exc import DBAPIError

    engine = _sqlite(address) if address.url.get_backend_name() == "sqlite" else _server(address)
    try:
        try:
            connection = engine.connect()
        except DBAPIError as error:
            raise unreached(address, error) from error
        with connection:
            if engine.dialect.name == "postgresql":
                connection = connection.execution_options(postgresql_readonly=True)
            try:
                yield connection
            finally:
                connection.rollback()
    finally:
        engine.dispose()


def unreached(address: Address, error: Any, what: str = "cannot be opened") -> Unusable:
    """The server or file did not open, or was lost; its own words, in one line."""
    said = address.scrubbed(str(error.orig))
    hint = None
    if address.url.get_backend_name() != "sqlite":
        hint = "start it, or mend host, port, user and database in data.url"
    return address.fault(f"{what}: {said}", hint=hint)


def _sqlite(address: Address) -> Engine:
    from sqlalchemy import NullPool, create_engine

    if address.url.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise address.fault("needs the plain driver", hint="data.url=sqlite:///<file>")
    given = address.url.database
    if not given or given == ":memory:" or given.startswith("file:"):
        raise address.fault("names no SQLite file", hint="data.url=sqlite:///chats.db")
    path = Path(given).absolute()
    if not path.is_file():
        raise _no_file(address, Path(given))

    def connect() -> sqlite3.Connection:
        # a URI, because only URIs can ask for read-only; without it SQLite makes missing files
        opened = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
        opened.execute("PRAGMA query_only = ON")
        return opened

    return create_engine("sqlite://", creator=connect, poolclass=NullPool)


def _no_file(address: Address, path: Path) -> Unusable:
    if path.is_dir():
        return address.fault("is a folder, not a SQLite file", code="LF501")
    parent = path.parent
    there = [p.name for p in parent.iterdir()] if parent.is_dir() else []
    guess = near(path.name, there, limit=1)
    note = f"looked from {Path.cwd()}" if parent.is_dir() else f"there is no folder {parent}"
    return address.fault(
        "does not exist",
        hint=f"data.url=sqlite:///{parent / guess[0]}" if guess else None,
        notes=(note, "three slashes lead to a relative path, four to an absolute one"),
        code="LF501",
    )


def _server(address: Address) -> Engine:
    from sqlalchemy import NullPool, create_engine
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    url = address.url
    options: dict[str, Any] = {}
    if url.get_backend_name() in ("postgresql", "mysql", "mariadb"):
        # the drivers' own default waits for ever on a host that does not answer
        options = {"connect_timeout": url.query.get("connect_timeout", _SECONDS_TO_CONNECT)}
    try:
        engine = create_engine(url, poolclass=NullPool, connect_args=options)
    except NoSuchModuleError as error:
        raise _no_dialect(address) from error
    except ImportError as error:
        module = (error.name or url.get_driver_name()).partition(".")[0]
        package = _PACKAGES.get(module, module)
        extra = "the extra `llmforge[sql]` brings it" if module == "psycopg" else ""
        hint = f"pip install '{package}'" if "[" in package else f"pip install {package}"
        notes = (extra,) if extra else ()
        what = f"needs the driver {module}, which is not installed"
        raise address.fault(what, hint=hint, notes=notes) from error
    except (ArgumentError, TypeError, ValueError) as error:
        what = f"cannot be opened: {address.scrubbed(str(error))}"
        raise address.fault(what) from error
    if engine.dialect.is_async:
        what = f"names the asynchronous driver {engine.driver}; rows are read in order, without one"
        raise address.fault(what, hint=f"data.url={url.get_backend_name()}://...")
    return engine


def _no_dialect(address: Address) -> Unusable:
    kind = address.url.get_backend_name()
    if kind in _BUILT_IN:
        return address.fault(f"has an unknown driver: {address.url.get_driver_name()}")
    if kind in _DIALECTS:
        what = f"is of a kind that is not installed: {kind}"
        return address.fault(what, hint=f"pip install {_DIALECTS[kind]}")
    guess = near(kind, [*_BUILT_IN, *_DIALECTS], limit=1)
    notes = (f"did you mean `{guess[0]}`?",) if guess else ()
    return address.fault(
        f"is of an unknown kind: {kind}", hint=f"data.url={guess[0]}://..." if guess else None,
        notes=notes,
    )  # fmt: skip
