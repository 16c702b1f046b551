"""Data files as the compiler looks at them: every faulty line with its place, each read once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from llmforge.compiler.facts.data import held_out, look_at
from llmforge.schema.data import BuiltinData, DataSpec, JsonlData

GOOD = '{"prompt": "How many legs has a spider?", "completion": "8"}\n'
FIELDS = {"text": "text", "prompt": "prompt", "completion": "completion", "messages": "messages"}


def data(train: str | list[str] = "rows.jsonl", **changes: Any) -> JsonlData:
    values = {
        "kind": "jsonl", "shape": "auto", "eval_fraction": 0.1, "max_train_rows": None,
        "max_eval_rows": None, "shuffle": True, "train": train, "evaluation": None,
        "fields": FIELDS, **changes,
    }  # fmt: skip
    for name in JsonlData.model_fields:
        values.setdefault(name, 0)  # fields that do not matter here
    return JsonlData.model_validate(values)


def faults(spec: DataSpec) -> list[tuple[str, str]]:
    """Code and message of each finding."""
    facts, found = look_at(spec, Path(".llmforge"))
    assert (facts is None) == bool(found)
    return [(d.code, d.message) for d in found]


def rows(*lines: str) -> None:
    Path("rows.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@pytest.fixture(autouse=True)
def here(work):
    return work


# -- what is found -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ({"text": "Once."}, "text"),
        ({"prompt": "2+2?", "completion": "4"}, "prompt_completion"),
        ({"messages": [{"role": "assistant", "content": "Hi."}]}, "messages"),
        ({"prompt": "2+2?", "completion": "4", "id": 7, "text": "also"}, "prompt_completion"),
    ],
)
def test_shape_follows_from_the_columns(row, shape):
    rows(*[json.dumps(row)] * 20)

    facts, found = look_at(data(), Path(".llmforge"))

    assert found == []
    assert facts.to_dict()["shape"] == shape
    assert facts.to_dict()["rows"] == {"train": 18, "evaluation": 2}


def test_columns_of_other_names_by_fields():
    rows(*['{"question": "2+2?", "answer": "4"}'] * 10)

    facts, found = look_at(
        data(fields={**FIELDS, "prompt": "question", "completion": "answer"}), Path(".llmforge")
    )

    assert (facts.shape, found) == ("prompt_completion", [])


@pytest.mark.parametrize(
    ("changes", "train", "evaluation"),
    [
        ({}, 90, 10),
        ({"eval_fraction": 0.0}, 100, 0),
        ({"eval_fraction": 0.001}, 99, 1),  # at least one
        ({"eval_fraction": 0.99}, 1, 99),  # never all
        ({"max_train_rows": 20}, 20, 10),
        ({"max_eval_rows": 5}, 90, 5),
        ({"evaluation": "held.jsonl"}, 100, 30),
        ({"evaluation": ["held.jsonl", "held.jsonl"]}, 100, 60),
        ({"train": ["rows.jsonl", "held.jsonl"]}, 117, 13),
    ],
)
def test_rows_are_counted_as_they_will_be_used(changes, train, evaluation):
    Path("rows.jsonl").write_text(GOOD * 100)
    Path("held.jsonl").write_text(GOOD * 30)

    facts, _ = look_at(data(**changes), Path(".llmforge"))

    assert (facts.train_rows, facts.evaluation_rows) == (train, evaluation)


@pytest.mark.parametrize(
    ("count", "fraction", "expected"), [(1, 0.5, 0), (2, 0.5, 1), (10, 0.04, 1), (10, 0.96, 9)]
)
def test_held_out(count, fraction, expected):
    assert held_out(count, fraction) == expected


def test_blank_lines_byte_order_mark_and_crlf_are_no_faults():
    Path("rows.jsonl").write_bytes(
        b"\xef\xbb\xbf" + (GOOD.replace("\n", "\r\n") + "\r\n").encode() * 10
    )

    facts, found = look_at(data(), Path(".llmforge"))

    assert (facts.train_rows + facts.evaluation_rows, found) == (10, [])


def test_generated_conversations():
    spec = BuiltinData.model_validate(
        dict.fromkeys(BuiltinData.model_fields, 0)
        | {"kind": "builtin", "shape": "messages", "eval_fraction": 0.0, "max_train_rows": None,
           "max_eval_rows": 5, "shuffle": True, "rows": 300, "generator_seed": 0}
    )  # fmt: skip

    nothing_held, _ = look_at(spec, Path(".llmforge"))
    some_held, _ = look_at(spec.model_copy(update={"eval_fraction": 0.1}), Path(".llmforge"))

    assert (nothing_held.train_rows, nothing_held.evaluation_rows) == (300, 0)
    assert some_held.train_rows < 300
    assert some_held.evaluation_rows == 5


# -- what is wrong -----------------------------------------------------------------------------


def test_missing_file():
    Path("rows.jsonl").write_text(GOOD)

    assert faults(data("row.jsonl")) == [("LF501", "data file row.jsonl does not exist")]
    assert look_at(data("row.jsonl"), Path(".llmforge"))[1][0].hint == "data.train=rows.jsonl"


def test_missing_folder():
    assert look_at(data("far/rows.jsonl"), Path(".llmforge"))[1][0].notes == (
        "there is no folder far",
    )


def test_folder_instead_of_a_file():
    Path("set").mkdir()
    Path("set/train.jsonl").write_text(GOOD)

    (found,) = look_at(data("set"), Path(".llmforge"))[1]

    assert (found.code, found.hint) == ("LF501", "data.train=set/train.jsonl")


@pytest.mark.parametrize("role", ["train", "evaluation"])
def test_a_list_of_no_files_is_not_a_source(role):
    with pytest.raises(ValidationError, match="at least 1 item"):
        data(**{role: []})


def test_both_sets_are_looked_at():
    assert faults(data("a.jsonl", evaluation="b.jsonl")) == [
        ("LF501", "data file a.jsonl does not exist"),
        ("LF501", "data file b.jsonl does not exist"),
    ]


def test_file_that_cannot_be_read(monkeypatch):
    Path("rows.jsonl").write_text(GOOD)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("llmforge.compiler.facts.data._read_rows", refuse)

    assert faults(data()) == [("LF501", "data file rows.jsonl cannot be read: Permission denied")]


@pytest.mark.parametrize(("content", "note"), [("", "the file is empty"),
                                               ("\n \n", "only blank lines")])  # fmt: skip
def test_empty_file(content, note):
    Path("rows.jsonl").write_text(content)

    (found,) = look_at(data(), Path(".llmforge"))[1]

    assert (found.code, found.notes) == ("LF502", (note,))


@pytest.mark.parametrize(
    ("encoding", "message", "note"),
    [
        ("utf-16", "rows.jsonl:1 is not UTF-8: byte 0xff at position 0", "it looks like UTF-16"),
        (
            "latin-1",
            "rows.jsonl:3 is not UTF-8: byte 0xfc at position 13",
            "it looks like ISO-8859-1",
        ),
    ],
)
def test_other_encodings(encoding, message, note):
    Path("rows.jsonl").write_text(GOOD * 2 + '{"prompt": "Tür"}\n', encoding=encoding)

    (found,) = look_at(data(), Path(".llmforge"))[1]

    assert (found.code, found.message, found.notes) == ("LF503", message, (note,))
    assert found.hint.startswith(f"iconv -f {note.rpartition(' ')[2]} -t UTF-8 rows.jsonl")


def test_malformed_line_4711():
    Path("rows.jsonl").write_text(GOOD * 4710 + GOOD.replace("}", "") + GOOD * 10)

    (found,) = look_at(data(), Path(".llmforge"))[1]

    assert found.code == "LF504"
    assert found.message == (
        "rows.jsonl:4711, column 60 is not valid JSON: Expecting ',' delimiter"
    )
    assert found.hint == "mend or remove that line: sed -n 4711p rows.jsonl"


@pytest.mark.parametrize("line", ["[1, 2]", '"text"', "7", "null"])
def test_line_that_is_no_object(line):
    rows(GOOD.strip(), line)

    assert faults(data()) == [("LF504", "rows.jsonl:2 is not a JSON object")]


def test_line_nested_too_deeply():
    rows(GOOD.strip(), '{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}")

    ((code, message),) = faults(data())

    assert code == "LF504"
    assert message.startswith("rows.jsonl:2")


def test_column_that_one_row_lacks():
    rows(GOOD.strip(), '{"prompt": "2+2?", "answer": "4"}')

    (found,) = look_at(data(), Path(".llmforge"))[1]

    assert (found.code, found.message) == ("LF505", "rows.jsonl:2 has no `completion`")
    assert found.notes == ("columns there: `prompt`, `answer`",)
    assert found.key == "data.fields.completion"


@pytest.mark.parametrize(
    ("columns", "hint"),
    [
        (("question", "answer"), "data.fields.prompt=question data.fields.completion=answer"),
        (("instruction", "output"), "data.fields.prompt=instruction data.fields.completion=output"),
        (("prompt", "response"), "data.fields.completion=response"),
        (("promt", "completions"), "data.fields.prompt=promt data.fields.completion=completions"),
        (("content",), "data.fields.text=content"),
        (("conversations",), "data.fields.messages=conversations"),
        (("a", "b"), None),
    ],
)
def test_columns_of_other_names_are_guessed(columns, hint):
    rows(json.dumps(dict.fromkeys(columns, "x")))

    (found,) = look_at(data(), Path(".llmforge"))[1]

    assert (found.code, found.hint) == ("LF506", hint)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("6", "`completion` is a number, not text"),
        ("true", "`completion` is true or false, not text"),
        ("null", "`completion` is null, not text"),
        ("[]", "`completion` is an empty list, not text"),
        ("{}", "`completion` is a mapping, not text"),
    ],
)
def test_text_of_another_type(value, fault):
    rows(GOOD.strip(), f'{{"prompt": "2+2?", "completion": {value}}}')

    assert faults(data()) == [("LF505", f"rows.jsonl:2: {fault}")]


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        ("Hi", "is text, not a list of messages"),
        ([], "is an empty list, not a list of messages"),
        (["Hi"], "message 0 is not {role, content} with text as content"),
        ([{"role": "user"}], "message 0 is not {role, content} with text as content"),
        (
            [{"role": "human", "content": "Hi"}],
            "message 0 has role 'human'; known are system, user, assistant, tool",
        ),
        ([{"role": "user", "content": "Hi"}], "has no assistant turn, so nothing to learn"),
    ],
)
def test_conversations_that_teach_nothing(messages, fault):
    rows(json.dumps({"messages": messages}))

    assert faults(data()) == [("LF505", f"rows.jsonl:1: `messages` {fault}")]


def test_five_faults_are_told_and_the_rest_counted():
    rows(GOOD.strip(), *["{"] * 30, GOOD.strip(), "[]")

    _, found = look_at(data(), Path(".llmforge"))

    assert [d.message.partition(",")[0] for d in found] == [f"rows.jsonl:{n}" for n in range(2, 7)]
    assert found[-1].notes[-1] == "26 more faulty lines in rows.jsonl"


def test_one_finding_for_the_same_mistake_on_every_line():
    rows(*['{"a": 1}'] * 1000)

    assert [code for code, _ in faults(data())] == ["LF506"]


# -- reading once ------------------------------------------------------------------------------


def scans(monkeypatch) -> list[Path]:
    """Files that are really read, from now on."""
    from llmforge.compiler.facts import data as module

    read, seen = module._read_rows, []
    monkeypatch.setattr(
        module, "_read_rows", lambda path, *a: (seen.append(path), read(path, *a))[1]
    )
    return seen


def test_second_look_does_not_read_the_file_again(monkeypatch):
    Path("rows.jsonl").write_text(GOOD * 50)
    read = scans(monkeypatch)

    first, second = (look_at(data(), Path(".llmforge")) for _ in range(2))

    assert first == second
    assert read == [Path("rows.jsonl")]


def test_rewritten_file_is_read_again(monkeypatch):
    path = Path("rows.jsonl")
    path.write_text(GOOD * 50)
    before, _ = look_at(data(), Path(".llmforge"))
    stat = path.stat()
    read = scans(monkeypatch)

    path.write_text(GOOD.replace("8", "9") * 50)  # of the same size
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    after, _ = look_at(data(), Path(".llmforge"))

    assert read == [path]
    assert after.files["rows.jsonl"].sha256 != before.files["rows.jsonl"].sha256


def test_other_columns_are_looked_at_again(monkeypatch):
    rows(*['{"prompt": "a", "completion": "b", "text": "c"}'] * 9)
    read = scans(monkeypatch)

    shapes = [look_at(data(shape=s), Path(".llmforge"))[0].shape for s in ("auto", "text", "auto")]

    assert shapes == ["prompt_completion", "text", "prompt_completion"]
    assert len(read) == 2


def test_faulty_file_is_read_again_since_somebody_is_mending_it(monkeypatch):
    rows("{")
    read = scans(monkeypatch)

    assert faults(data()) == faults(data())
    assert len(read) == 2


def test_cache_that_cannot_be_written_costs_only_time():
    Path("rows.jsonl").write_text(GOOD * 50)
    Path("blocked").write_text("a file where the cache folder should be")

    facts, found = look_at(data(), Path("blocked"))

    assert (facts.train_rows, found) == (45, [])


@pytest.mark.parametrize("content", ["{", "[]", '{"other": 1}', "\x00"])
def test_damaged_cache_is_ignored(content):
    Path("rows.jsonl").write_text(GOOD * 50)
    Path("cache").mkdir()
    Path("cache/scans.json").write_text(content)

    facts, _ = look_at(data(), Path("cache"))

    assert facts.train_rows == 45
