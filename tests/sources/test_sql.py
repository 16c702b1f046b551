"""Rows of databases: real SQLite files, a real PostgreSQL; what goes wrong is told, not hidden."""

from __future__ import annotations

import importlib.util
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from llmforge.schema.data import Fields, SqlSource
from llmforge.sources.base import Fault, Unusable
from llmforge.sources.sql import forget, part_name, sql_part
from llmforge.sources.statement import Statement

# test folders are no packages, so the helper is loaded by path
_spec = importlib.util.spec_from_file_location(
    "llmforge_postgres", Path(__file__).with_name("postgres.py")
)
assert _spec
assert _spec.loader
_postgres = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _postgres
_spec.loader.exec_module(_postgres)

Cluster = _postgres.Cluster

FIELDS = Fields(**{name: name for name in Fields.model_fields})


def source(url: str, train: str | None = "questions", **more: Any) -> SqlSource:
    given: dict[str, Any] = {
        "kind": "sql", "shape": "auto", "fields": FIELDS, "roles": {}, "strict_turns": True,
        "select": [], "transform": None, "fold": None, "evaluation": None, "parameters": {},
    }  # fmt: skip
    return SqlSource(**given | {"url": url, "train": train} | more)


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    forget()
    yield
    forget()


@pytest.fixture
def db(tmp_path: Path) -> str:
    with sqlite3.connect(tmp_path / "chats.db") as made:
        made.executescript("""
            create table questions (id integer primary key, question text, answer text, lang text);
            insert into questions values (3, 'c?', 'C', 'de'), (1, 'a?', 'A', 'en'),
                                         (2, 'b: 100%?', 'B', 'en');
            create table notes (text text, at datetime);
            insert into notes values ('z', '2024-01-01'), ('a', 'yesterday');
            create view short as select answer as text from questions;
            create table "odd name: ü" ("a:b" text primary key, "select" text) without rowid;
            insert into "odd name: ü" values ('k:1', 'x');
        """)
    made.close()
    return "sqlite:///chats.db"


def rows(spec: SqlSource, statement: str | None = None) -> list[Any]:
    part = sql_part(spec, statement or str(spec.train), Path(".llmforge"))
    found = list(part.rows())
    assert [raw.line for raw in found] == list(range(1, len(found) + 1))
    return [raw.values for raw in found]


def fault(spec: SqlSource, statement: str | None = None) -> tuple[str, Fault]:
    with pytest.raises(Unusable) as raised:
        sql_part(spec, statement or str(spec.train), Path(".llmforge"))
    return str(raised.value), raised.value.fault


# --- tables and queries -------------------------------------------------------------------------


def test_a_table_is_read_in_the_order_of_its_primary_key(db: str) -> None:
    assert rows(source(db)) == [
        {"id": 1, "question": "a?", "answer": "A", "lang": "en"},
        {"id": 2, "question": "b: 100%?", "answer": "B", "lang": "en"},
        {"id": 3, "question": "c?", "answer": "C", "lang": "de"},
    ]


def test_a_table_without_a_key_is_read_in_its_own_order_and_dates_stay_text(db: str) -> None:
    expected = [{"text": "z", "at": "2024-01-01"}, {"text": "a", "at": "yesterday"}]
    assert rows(source(db, "notes")) == expected


def test_a_view_is_ordered_by_all_its_columns(db: str) -> None:
    assert rows(source(db, "short")) == [{"text": "A"}, {"text": "B"}, {"text": "C"}]


@pytest.mark.parametrize("name", ["main.questions", '"questions"', " questions "])
def test_ways_to_write_the_name_of_a_table(db: str, name: str) -> None:
    assert len(rows(source(db, name))) == 3


def test_names_that_need_quotes(db: str) -> None:
    assert rows(source(db, "odd name: ü")) == [{"a:b": "k:1", "select": "x"}]


@pytest.mark.parametrize(
    "statement",
    [
        "select answer from questions where lang = 'en' order by id desc",
        "-- newest first; :not_a_parameter\n SELECT answer FROM questions\n"
        "WHERE lang = 'en' AND question <> ':neither' /* 'nor: */ ORDER BY id DESC;",
        "with e as (select * from questions where lang = 'en') "
        "select answer from e order by id desc",
        "select answer from questions where lang = :lang order by id desc",
        "select answer from questions where lang = :lang and question like '%a?' or "
        "lang = :lang and question like '%100\\%?' escape '\\' order by id desc",
    ],
)
def test_queries(db: str, statement: str) -> None:
    given = {"lang": "en"} if " :lang" in statement else {}
    assert rows(source(db, statement, parameters=given)) == [{"answer": "B"}, {"answer": "A"}]


def test_values_as_rows(db: str) -> None:
    assert rows(source(db, "values ('a', 1), ('b', null)")) == [
        {"column1": "a", "column2": 1},
        {"column1": "b", "column2": None},
    ]


def test_a_query_without_rows_is_an_empty_part(db: str) -> None:
    assert rows(source(db, "select * from questions where id > 5")) == []


def test_names_of_parts() -> None:
    assert part_name("chat.questions") == "table chat.questions"
    assert part_name('"My Table"') == "table My Table"
    assert part_name("select\n  a from t") == "query `select a from t`"
    assert len(part_name("select " + "a, " * 90)) < 60


# --- the snapshot -------------------------------------------------------------------------------


def change(statement: str) -> None:
    with sqlite3.connect("chats.db") as opened:
        opened.execute(statement)
    opened.close()


def test_a_part_keeps_its_rows_when_the_database_moves_on(db: str) -> None:
    part = sql_part(source(db), "questions", Path(".llmforge"))
    change("delete from questions")
    assert len(list(part.rows())) == 3


def test_the_database_is_read_once_per_process_until_forgotten(db: str) -> None:
    first = sql_part(source(db), "questions", Path(".llmforge"))
    change("insert into questions values (4, 'd?', 'D', 'en')")
    assert sql_part(source(db), "questions", Path(".llmforge")) == first
    forget()
    second = sql_part(source(db), "questions", Path(".llmforge"))
    assert second.file != first.file
    assert len(list(second.rows())) == 4


def test_other_parameters_are_another_reading(db: str) -> None:
    query = "select answer from questions where lang = :lang order by id"
    assert len(rows(source(db, query, parameters={"lang": "en"}))) == 2
    assert len(rows(source(db, query, parameters={"lang": "de"}))) == 1


def test_unchanged_rows_are_not_written_twice(db: str) -> None:
    first = sql_part(source(db), "questions", Path(".llmforge")).file
    assert first
    before = first.stat().st_mtime_ns
    forget()
    second = sql_part(source(db), "questions", Path(".llmforge")).file
    assert second == first
    assert second.stat().st_mtime_ns == before


def test_a_snapshot_that_was_removed_is_made_again(db: str) -> None:
    part = sql_part(source(db), "questions", Path(".llmforge"))
    assert part.file
    part.file.unlink()
    assert len(rows(source(db))) == 3


# --- only reading -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("delete from questions", "DELETE would change"),
        ("-- harmless\n/* really */ DROP TABLE questions", "DROP would change"),
        ("update questions set answer = 'x'", "UPDATE would change"),
        ("attach database 'x.db' as x", "ATTACH would change"),
        ("pragma writable_schema = 1", "PRAGMA would change"),
        ("select 1; drop table questions", "more than one statement"),
        ("with x as (select 1) delete from questions", "refused by the database"),
    ],
)
def test_nothing_is_changed(db: str, statement: str, said: str) -> None:
    before = Path("chats.db").read_bytes()
    text, found = fault(source(db, statement))
    assert said in text
    assert found.code == "LF514"
    assert Path("chats.db").read_bytes() == before
    assert not Path("x.db").exists()


@pytest.mark.parametrize("url", ["sqlite:///chats.dbb", "sqlite:///sub/chats.db"])
def test_a_missing_sqlite_file_is_told_and_not_made(db: str, url: str, tmp_path: Path) -> None:
    text, found = fault(source(url))
    assert text == f"the database {url} does not exist"
    assert (found.code, found.key) == ("LF501", "url")
    assert found.hint == ("data.url=sqlite:///chats.db" if url.endswith("dbb") else None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["chats.db"]


def test_a_database_in_write_ahead_mode_is_read(db: str) -> None:
    change("pragma journal_mode = wal")
    assert len(rows(source(db))) == 3


# --- what a user may get wrong ------------------------------------------------------------------


def test_no_such_table(db: str) -> None:
    text, found = fault(source(db, "qestions"))
    assert text == "table qestions does not exist in the database"
    assert found.hint == "data.train=questions"
    assert "tables there: notes, odd name: ü, questions, short" in found.notes


def test_no_such_table_of_an_evaluation_set(db: str) -> None:
    spec = source(db, evaluation={"dev": "shrt"})
    assert fault(spec, "shrt")[1].hint == "data.evaluation.dev=short"
    assert fault(source(db, evaluation="shrt"), "shrt")[1].hint == "data.evaluation=short"


def test_no_such_table_in_a_query(db: str) -> None:
    text, found = fault(source(db, "select answer\nfrom qestions"))
    assert text.endswith("was refused by the database: no such table: qestions")
    assert found.notes == ("line 2, column 6 of the statement", "did you mean `questions`?")
    assert found.hint == "data.train='select answer from questions'"
    assert (found.sample, found.column) == ("from qestions", 6)


def test_a_syntax_error_and_its_place(db: str) -> None:
    text, found = fault(source(db, "select answer\nform questions"))
    assert 'refused by the database: near "questions": syntax error' in text
    assert found.notes == ("line 2, column 6 of the statement",)


def test_a_missing_and_a_useless_parameter(db: str) -> None:
    query = "select answer from questions where lang = :lang"
    text, found = fault(source(db, query, parameters={"lnag": "en"}))
    assert "asks for `:lang`, which data.parameters does not give" in text
    assert found.hint == "+data.parameters.lang=<value>"
    assert found.notes == ("did you mean `lnag`?",)
    text, found = fault(source(db, query, parameters={"lang": "en", "year": 3}))
    assert "does not ask for `:year`" in text
    assert found.hint == "~data.parameters.year"


def test_a_parameter_of_another_statement_is_not_useless(db: str) -> None:
    held_out = "select answer from questions where lang = :lang"
    spec = source(db, "questions", evaluation=held_out, parameters={"lang": "de"})
    assert len(rows(spec, "questions")) == 3
    assert rows(spec, held_out) == [{"answer": "C"}]


def test_columns_of_one_name(db: str) -> None:
    text, found = fault(source(db, "select a.id, b.id from questions a, questions b"))
    assert "has several columns of the name `id`" in text
    assert found.hint
    assert " AS " in found.hint


def test_bytes_in_a_column(db: str) -> None:
    text, found = fault(source(db, "select id, x'00ff' as blob from questions"))
    assert "column `blob`: 2 bytes" in text
    assert found.hint == "name only the columns you need: data.train='SELECT ...'"


def test_text_that_is_not_utf8(db: str) -> None:
    change("insert into questions values (9, cast(x'ff41' as text), 'x', 'en')")
    assert "Could not decode" in fault(source(db))[0]


@pytest.mark.parametrize(
    ("url", "said", "hint"),
    [
        ("chats.db", "is not named by a database URL", None),
        ("sqlite://", "names no SQLite file", "data.url=sqlite:///chats.db"),
        ("sqlite:///:memory:", "names no SQLite file", "data.url=sqlite:///chats.db"),
        ("sqlite+aiosqlite:///chats.db", "needs the plain driver", None),
        ("sqllite:///chats.db", "is of an unknown kind: sqllite", "data.url=sqlite://..."),
        ("duckdb:///x.db", "not installed: duckdb", "pip install duckdb-engine"),
        ("mysql+nosuchdriver://u@h/d", "has an unknown driver: nosuchdriver", None),
        ("mysql+pymysql://u@h/d", "needs the driver pymysql", "pip install pymysql"),
        ("postgresql+psycopg2://u@h/d", "needs the driver psycopg2", "pip install psycopg2-binary"),
        ("env:NO_SUCH_VARIABLE", "NO_SUCH_VARIABLE is not set here", None),
    ],
)
def test_urls(url: str, said: str, hint: str | None) -> None:
    text, found = fault(source(url))
    assert said in text
    assert (found.code, found.key) == ("LF514", "url")
    assert hint is None or found.hint == hint


def test_a_folder_and_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.db").write_text("no database at all, but long enough to be looked at" * 9)
    assert "is a folder" in fault(source("sqlite:///folder"))[0]
    assert "file is not a database" in fault(source("sqlite:///text.db"))[0]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@host/db",
        "postgresql+psycopg://me@host/db?password=hunter2",
        "mysql://me:hunter2@host:port/db",
    ],
)
def test_a_password_in_the_settings_is_refused_and_not_repeated(url: str) -> None:
    from llmforge import render
    from llmforge.compiler.passes import check

    checked = check(["data=sql", f"data.url='{url}'", "data.train=questions"])

    told = render.findings_text(checked.diagnostics, colour=False)
    assert "error[LF114]" in told
    assert "data.url=env:DATABASE_URL" in told
    assert "hunter2" not in told


def test_nothing_listens_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg", reason="the driver is not installed")
    monkeypatch.setenv("DB", "postgresql://me:hunter2@127.0.0.1:1/db")
    text, found = fault(source("env:DB"))
    assert text.startswith("the database of env:DB cannot be opened: ")
    assert "onnection refused" in text
    assert "\n" not in text
    assert "hunter2" not in f"{text} {found}"
    assert found.key == "url"


# --- statements ---------------------------------------------------------------------------------


def test_what_a_statement_is() -> None:
    assert Statement("questions").is_query is False
    assert Statement("select").is_query is False  # a table may be called so
    assert Statement("(select 1)").is_query is True
    assert Statement("update").is_order is False
    assert Statement("select ';' -- ;\n ; ").is_single is True
    assert Statement("select $$;:no$$, e'\\';:no', \";:no\" from t").is_single is True
    assert Statement("select $$:no$$, e'\\':no', x::int, :yes, :yes").parameters == ["yes"]


# --- PostgreSQL ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    reason = _postgres.why_not()
    if reason:
        pytest.skip(reason)
    with _postgres.cluster() as running:
        yield running


@pytest.fixture
def run(server: Any) -> Iterator[Callable[[str], None]]:
    """Runs statements in a database of their own making; drops everything afterwards."""
    import psycopg

    where = f"host={server.folder} port={server.port} user={_postgres.USER} dbname=postgres"
    with psycopg.connect(where, autocommit=True) as opened:
        opened.execute("drop schema public cascade; create schema public")
        yield lambda text: opened.execute(text) and None  # type: ignore[call-overload] # any text


def test_postgres_gives_the_same_rows_as_sqlite(
    db: str, server: Any, run: Callable[[str], None]
) -> None:
    run("create table questions (id int primary key, question text, answer text, lang text)")
    run("insert into questions values (3, 'c?', 'C', 'de'), (1, 'a?', 'A', 'en')")
    run("insert into questions values (2, 'b: 100%?', 'B', 'en')")
    there = sql_part(source(server.socket_url), "questions", Path(".llmforge"))
    here = sql_part(source(db), "questions", Path(".llmforge"))
    assert there.file == here.file  # named by content
    query = "select question from questions where question like '%100%' and lang = :lang"
    assert rows(source(server.socket_url, query, parameters={"lang": "en"})) == [
        {"question": "b: 100%?"}
    ]


def test_postgres_types(server: Any, run: Callable[[str], None]) -> None:
    run(
        "create table t (m jsonb, j json, tags text[], at timestamptz, d date, n numeric(9,2),"
        " f float8, u uuid, ok bool, mood text)"
    )
    run(
        """insert into t values ('[{"role": "user", "content": "Hé"}]', '{"a": [1, null]}',
        '{x,y}', '2024-01-02 03:04:05+00', '2024-01-02', 1.5, 0.25,
        '00000000-0000-0000-0000-000000000005', true, null)"""
    )
    spec = source(server.socket_url + "&options=-ctimezone%3DUTC", "t")
    assert rows(spec) == [{
        "m": [{"role": "user", "content": "Hé"}], "j": {"a": [1, None]}, "tags": ["x", "y"],
        "at": "2024-01-02 03:04:05+00:00", "d": "2024-01-02", "n": "1.50", "f": 0.25,
        "u": "00000000-0000-0000-0000-000000000005", "ok": True, "mood": None,
    }]  # fmt: skip


def test_postgres_streams(server: Any, run: Callable[[str], None]) -> None:
    run(
        "create table many as "
        "select n as id, repeat('x', 100) as text from generate_series(1, 5000) n"
    )
    found = rows(source(server.socket_url, "many"))
    assert [row["id"] for row in found] == list(range(1, 5001))


def test_postgres_schemas_and_views(server: Any, run: Callable[[str], None]) -> None:
    run("drop schema if exists chat cascade; create schema chat")
    run("create table chat.logs (id int primary key, text text)")
    run("insert into chat.logs values (2, 'b'), (1, 'a')")
    run("create materialized view held as select text from chat.logs")
    assert [row["text"] for row in rows(source(server.socket_url, "chat.logs"))] == ["a", "b"]
    assert [row["text"] for row in rows(source(server.socket_url, "held"))] == ["a", "b"]
    assert fault(source(server.socket_url, "chat.log"))[1].hint == "data.train=chat.logs"


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("with gone as (delete from t returning text) select text from gone", "data-modifying"),
        ("select setval('s', 99)", "in a read-only transaction"),
        ("select text from t; commit; drop table t", "more than one statement"),
    ],
)
def test_postgres_is_not_changed(
    server: Any, run: Callable[[str], None], statement: str, said: str
) -> None:
    run("create table t (text text); insert into t values ('a'); create sequence s")
    text, found = fault(source(server.socket_url, statement))
    assert said in text
    assert found.code == "LF514"
    assert rows(source(server.socket_url, "t")) == [{"text": "a"}]
    assert rows(source(server.socket_url, "select last_value as v from s")) == [{"v": 1}]


def test_postgres_errors(server: Any, run: Callable[[str], None]) -> None:
    run("create table questions (id int, text text)")
    text, found = fault(source(server.socket_url, "select text\nfrom qestions"))
    assert text.endswith('was refused by the database: relation "qestions" does not exist')
    assert found.notes == ("line 2, column 6 of the statement", "did you mean `questions`?")
    assert found.hint == "data.train='select text from questions'"
    text, found = fault(source(server.socket_url, "select text form questions"))
    assert 'syntax error at or near "questions"' in text
    assert found.column == 18
    assert fault(source(server.socket_url, "qestions"))[1].hint == "data.train=questions"


def test_postgres_password_from_the_environment(
    server: Any, run: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run("create table questions (id int primary key, text text)")
    run("insert into questions values (1, 'a')")
    monkeypatch.setenv("DATABASE_URL", server.tcp_url(quote(_postgres.PASSWORD, safe="")))
    assert rows(source("env:DATABASE_URL")) == [{"id": 1, "text": "a"}]
    kept = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(kept) == 2
    assert not any(_postgres.PASSWORD.encode() in p.read_bytes() for p in kept)
    monkeypatch.setenv("DATABASE_URL", server.tcp_url("wrong-hunter2"))
    text, found = fault(source("env:DATABASE_URL"))
    assert "password authentication failed" in text
    assert "hunter2" not in f"{text} {found}"


def test_postgres_that_goes_away(
    server: Any, run: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.socket_url.replace(f"port={server.port}", "port=1")
    text, found = fault(source(url))
    assert "cannot be opened: connection" in text
    assert found.hint
    kill = "select pg_terminate_backend(pg_backend_pid())"
    text, found = fault(source(server.socket_url, kill))
    assert "was lost while it was read: " in text
    assert found.code == "LF514"
