"""The part of the corpus that is no text: archives, tables, databases, and paths to nothing.

In: a corpus that is being filled. Out: `add_binary_files`. Damage is done to sound files, at places
that are told.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
import sqlite3
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from corpus_cases import Case, Corpus

ROWS = [{"prompt": f"How many legs have {n} spiders?", "completion": str(8 * n)} for n in range(90)]


def add_binary_files(corpus: Corpus) -> None:
    """Every case of this module."""
    add_archives(corpus)
    add_parquet(corpus)
    add_arrow(corpus)
    add_saved(corpus)
    add_databases(corpus)
    add_paths(corpus)


def _lines() -> bytes:
    # random words, so that a packed file is long enough to be cut in its middle
    noise = random.Random(0)  # noqa: S311 - test data, not secrets
    words = (f'{{"prompt": "{noise.random()}", "completion": "8"}}\n' for _ in range(2000))
    return "".join(words).encode()


def add_archives(corpus: Corpus) -> None:
    """Packed files that are damaged; rows before the damage are not counted as read."""
    lines = _lines()
    packed = gzip.compress(lines, mtime=0)
    refused: dict[str, tuple[bytes, str]] = {
        "no.jsonl.gz": (b'{"prompt": "a", "completion": "b"}\n', "not packed at all"),
        "cut.jsonl.gz": (packed[: len(packed) // 2], "gzip cut in its middle"),
        "sum.jsonl.gz": (packed[:-8] + b"\0\0\0\0" + packed[-4:], "gzip with a wrong checksum"),
        "flip.jsonl.gz": (packed[:900] + b"\xff" * 9 + packed[909:], "gzip with damaged bytes"),
        "tail.jsonl.gz": (packed + b"tail", "gzip with other data behind it"),
        "cut.jsonl.bz2": (bz2.compress(lines)[:9000], "bzip2 cut in its middle"),
        "cut.jsonl.xz": (lzma.compress(lines)[:9000], "xz cut in its middle"),
    }
    for name, (content, words) in refused.items():
        corpus.add(name, content, words, code="LF501", rows=(0, 0))
    corpus.add("packed.jsonl.gz", gzip.compress(b'{"prompt": "a", "completion": "b"}\n', mtime=0),
               "sound gzip", code=None, rows=(1, 0))  # fmt: skip
    corpus.add("hidden.jsonl", packed, "gzip without its suffix", rows=(0, 0))


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="none", use_dictionary=False)
    return bytes(sink.getvalue())


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=30)
    return bytes(sink.getvalue())


def _file(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=30)
    return bytes(sink.getvalue())


def _not_utf8() -> pa.Table:
    """Three texts, the second of which is Latin-1: Arrow takes a writer's word for the encoding."""
    raw = pa.array([b"one", b"J\xf6rg", b"three"])
    return pa.table({"text": pa.Array.from_buffers(pa.string(), 3, raw.buffers())})


def add_parquet(corpus: Corpus) -> None:
    """Parquet files."""
    table = pa.Table.from_pylist(ROWS)
    sound = _parquet(table)
    page = sound.index(b"How many legs have 40")
    refused: dict[str, tuple[bytes, str]] = {
        "text.parquet": (b'{"prompt": "a"}\n', "JSON lines under .parquet"),
        "cut.parquet": (sound[:-40], "cut before its end"),
        "footer.parquet": (sound[:-30] + b"\xff" * 22 + sound[-8:], "damaged list of columns"),
        "arrow.parquet": (_file(table), "an Arrow file under .parquet"),
        "packed.parquet.gz": (gzip.compress(sound, mtime=0), "packed from outside"),
        "names.parquet": (
            _parquet(pa.Table.from_arrays([pa.array(["a"])] * 2, names=["text", "text"])),
            "a column name twice",
        ),
    }
    for name, (content, words) in refused.items():
        corpus.add(name, content, words, rows=(0, 0), data="parquet")
    corpus.add("page.parquet", sound[: page - 4] + b"\xff\xff\xff\x7f" + sound[page:],
               "damaged length inside a page", rows=(0, 0))  # fmt: skip
    corpus.add("latin1.parquet", _parquet(_not_utf8()), "text that is Latin-1", code="LF503",
               line=2)  # fmt: skip
    corpus.add("empty.parquet", _parquet(table.slice(0, 0)), "columns without rows",
               code="LF502", rows=(0, 0), by="flow")  # fmt: skip
    chat = [{"messages": [{"role": "user", "content": "a"},
                          {"role": "assistant", "content": "b", "train": True}]}]  # fmt: skip
    corpus.add("nulls.parquet", _parquet(pa.Table.from_pylist(chat)), "keys of one turn only",
               code=None, rows=(1, 0))  # fmt: skip
    corpus.add("binary.parquet", _parquet(pa.table({"text": [b"raw"]})), "bytes where text is due",
               code="LF506", line=1, rows=(0, 1), by="flow")  # fmt: skip
    corpus.add("parquet.jsonl", sound, "Parquet under .jsonl", rows=(0, 0))


def add_arrow(corpus: Corpus) -> None:
    """Arrow files, streams, Feather files."""
    table = pa.Table.from_pylist(ROWS)
    stream = _stream(table)
    corpus.add("cut.arrow", stream[:-700], "stream cut in its last batch", rows=(60, 0))
    corpus.add("cut_file.arrow", _file(table)[:-60], "file cut before its end", rows=(0, 0))
    corpus.add("text.arrow", "prompt,completion\na,b\n", "CSV under .arrow", rows=(0, 0))
    corpus.add("old.feather", b"FEA1" + b"\0" * 60 + b"FEA1", "Feather of version 1",
               rows=(0, 0), data="arrow")  # fmt: skip
    corpus.add("latin1.arrow", _stream(_not_utf8()), "text that is Latin-1", code="LF503", line=2)
    corpus.add("stream.arrow", stream, "sound stream", code=None, rows=(90, 0))


def _case(corpus: Corpus, file: str, overrides: tuple[str, ...], code: str, words: str,
          by: Any = "reader") -> None:  # fmt: skip
    corpus.cases.append(Case(file, overrides, code, None, 0, 0, words, by))


def add_saved(corpus: Corpus) -> None:
    """Folders like those of `datasets.save_to_disk`."""
    stream = _stream(pa.Table.from_pylist(ROWS))
    state = json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})

    def folder(name: str, files: dict[str, bytes | str]) -> None:
        for file, content in files.items():
            path = corpus.folder / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    def case(name: str, split: str, code: str, words: str) -> None:
        overrides = ("data=saved", f"data.path={name}", f"data.train={split}")
        _case(corpus, name, overrides, code, words)

    splits: dict[str, bytes | str] = {
        "dataset_dict.json": '{"splits": ["train"]}',
        "train/state.json": state,
        "train/data-00000-of-00001.arrow": stream,
    }
    folder("saved_splits", splits)
    case("saved_splits", "trian", "LF501", "no such split")
    case("saved_splits", "null", "LF501", "split not chosen")
    folder("saved_shard", {"state.json": state})
    case("saved_shard", "null", "LF501", "a listed file is missing")
    folder("saved_state", {"state.json": '{"_data_files": '})
    case("saved_state", "null", "LF504", "state.json cut short")
    elsewhere = {"_data_files": [{"filename": "../saved_splits/train/data-00000-of-00001.arrow"}]}
    folder("saved_outside", {"state.json": json.dumps(elsewhere)})
    case("saved_outside", "null", "LF504", "a listed file outside the folder")
    folder("saved_not", {"notes.md": "hello"})
    case("saved_not", "train", "LF501", "a folder of something else")
    case("saved_nowhere", "train", "LF501", "no such folder")


def add_databases(corpus: Corpus) -> None:
    """Databases; only the command reads them here."""
    path = corpus.folder / "chats.db"
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE questions (prompt TEXT, completion TEXT)")
        database.execute("INSERT INTO questions VALUES ('a', 'b')")
    database.close()
    (corpus.folder / "text.db").write_text("this is no database, but text\n" * 9, encoding="utf-8")

    def case(file: str, url: str, train: str, words: str) -> None:
        overrides = ("data=sql", f"data.url={url}", f'data.train="{train}"')
        _case(corpus, file, overrides, "LF514", words, by="command")

    case("chats.db", "sqlite:///chats.db", "question", "no such table")
    case("chats.db", "sqlite:///chats.db", "SELECT nothing FROM questions", "no such column")
    case("chats.db", "sqlite:///chats.db", "SELEC prompt FROM questions", "mistake in the SQL")
    case("text.db", "sqlite:///text.db", "questions", "not a database")
    case("down", "postgresql+psycopg://nobody@127.0.0.1:9/chats", "questions", "database down")


def add_paths(corpus: Corpus) -> None:
    """Paths that lead to no file."""
    inside = corpus.folder / "rows"
    inside.mkdir(exist_ok=True)
    (inside / "notes.md").write_text("no rows\n", encoding="utf-8")
    (corpus.folder / "nothing").mkdir(exist_ok=True)
    pipe = corpus.folder / "pipe.jsonl"
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    dangling = corpus.folder / "dangling.jsonl"
    dangling.unlink(missing_ok=True)
    dangling.symlink_to(Path("gone.jsonl"))
    paths = {
        "brase.jsonl": "a typing error",
        "elsewhere/train.jsonl": "no such folder",
        "rows": "a folder without such files",
        "nothing": "an empty folder",
        "rows/*.jsonl": "a glob without a match",
        "pipe.jsonl": "a pipe",
        "dangling.jsonl": "a link to nothing",
        "brace.jsonl/rows.jsonl": "a file in place of a folder",
    }
    for file, words in paths.items():
        _case(corpus, file, ("data=jsonl", f"data.train={file}"), "LF501", words)
