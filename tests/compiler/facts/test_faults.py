"""Every faulty row with its place, its sample, the key to blame and a hint to paste."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from llmforge.compiler.facts.data import DataFacts, look_at
from llmforge.diagnostics import Diagnostic
from llmforge.schema.data import Rows

GOOD = '{"prompt": "How many legs has a spider?", "completion": "8"}\n'
CHAT = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
CACHE = Path(".llmforge")


def look(spec: Rows) -> DataFacts:
    facts, found = look_at(spec, CACHE)
    assert facts is not None, found
    assert found == []
    return facts


def findings(spec: Rows) -> list[Diagnostic]:
    facts, found = look_at(spec, CACHE)
    assert (facts is None) == any(finding.is_error for finding in found)
    return found


def faults(spec: Rows) -> list[tuple[str, str]]:
    return [(finding.code, finding.message) for finding in findings(spec)]


def rows(*lines: str, name: str = "rows.jsonl") -> None:
    Path(name).write_text("".join(f"{line.strip()}\n" for line in lines), encoding="utf-8")


# -- what is wrong -----------------------------------------------------------------------------


def test_missing_file(data):
    Path("rows.jsonl").write_text(GOOD)

    (found,) = findings(data(train="row.jsonl"))

    assert (found.code, found.message) == ("LF501", "data file row.jsonl does not exist")
    assert found.hint == "data.train=rows.jsonl"


def test_folder_is_the_files_in_it(data):
    Path("set").mkdir()
    for name in ("b.jsonl", "a.jsonl", "notes.txt"):
        Path("set", name).write_text(GOOD)

    facts = look(data(train="set", eval_fraction=0.0))

    assert [part.name for part in facts.sources[""].train] == ["set/a.jsonl", "set/b.jsonl"]


@pytest.mark.parametrize("role", ["train", "evaluation"])
def test_a_list_of_no_files_is_not_a_source(role, data):
    with pytest.raises((ValidationError, AssertionError), match="at least 1"):
        data(**{role: []})


def test_both_sets_are_looked_at(data):
    assert faults(data(train="a.jsonl", evaluation="b.jsonl")) == [
        ("LF501", "data file a.jsonl does not exist"),
        ("LF501", "data file b.jsonl does not exist"),
    ]


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_empty_file(content, data):
    Path("rows.jsonl").write_text(content)

    assert faults(data()) == [("LF502", "rows.jsonl holds no rows")]


def test_conditions_that_leave_nothing_say_how_many_they_cost(data):
    rows(*['{"text": "x", "lang": "de"}'] * 3)

    (found,) = findings(data(select=['lang == "en"']))

    assert found.code == "LF502"
    assert found.message == "rows.jsonl has no row that can be used: 3 not selected"
    assert found.hint == "data.select=[]"


def test_condition_that_cannot_be_read(data):
    rows('{"text": "x"}')

    (found,) = findings(data(select=["lang = en"]))

    assert (found.code, found.key) == ("LF516", "data.select")
    assert "expected COLUMN OPERATOR VALUE" in found.message


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
def test_other_encodings(encoding, message, note, data):
    Path("rows.jsonl").write_text(GOOD * 2 + '{"prompt": "Tür"}\n', encoding=encoding)

    (found,) = findings(data())

    assert (found.code, found.message, found.notes[-1]) == ("LF503", message, note)
    assert found.hint.startswith(f"iconv -f {note.rpartition(' ')[2]} -t UTF-8 rows.jsonl")


def test_malformed_line_4711(data):
    Path("rows.jsonl").write_text(GOOD * 4710 + GOOD.replace("}", "") + GOOD * 10)

    (found,) = findings(data())

    assert found.code == "LF504"
    assert found.message == (
        "rows.jsonl:4711, column 60 is not valid JSON: Expecting ',' delimiter"
    )
    assert found.hint == "mend or remove that line: sed -n 4711p rows.jsonl"


def test_column_that_one_row_lacks(data):
    rows(GOOD, '{"prompt": "2+2?", "answer": "4"}')

    (found,) = findings(data())

    assert (found.code, found.message) == ("LF505", "rows.jsonl:2 has no `completion`")
    assert found.notes == (
        'it reads: {"prompt": "2+2?", "answer": "4"}',
        "columns there: `prompt`, `answer`",
    )
    assert (found.key, found.hint) == ("data.fields.completion", "data.fields.completion=answer")


def test_value_of_another_type_names_the_column_and_what_stands_there(data):
    rows(GOOD, '{"prompt": "2+2?", "completion": 6}')

    (found,) = findings(data())

    assert (found.code, found.message) == (
        "LF505",
        "rows.jsonl:2: `completion` is a number, not text",
    )
    assert found.notes == ("it reads: 6",)
    assert found.hint == "mend or remove that row, or let it go with data.max_bad_rows=1"


def test_fold_and_evaluation_set_contradict_each_other(data):
    rows(GOOD)

    (found,) = findings(data(fold="_fold", evaluation="rows.jsonl"))

    assert (found.code, found.hint) == ("LF511", "data.fold=null")


def test_five_faults_are_told_and_the_rest_counted(data):
    rows(GOOD, *["{"] * 30, GOOD, "[]")

    found = findings(data())

    assert [d.message.partition(",")[0] for d in found] == [f"rows.jsonl:{n}" for n in range(2, 7)]
    assert found[-1].notes[-1] == "26 more faulty rows in rows.jsonl"


def test_one_finding_for_the_same_mistake_on_every_line(data):
    rows(*['{"a": 1}'] * 1000)

    assert [code for code, _ in faults(data(max_bad_rows=None))] == ["LF506"]


# -- rows that may be left out -----------------------------------------------------------------


@pytest.mark.parametrize("limit", [3, "30%", 10, "100%", None])
def test_as_many_bad_rows_as_allowed_are_a_warning(limit, data):
    rows(*[GOOD] * 7, *["{"] * 3)

    facts, (warning,) = look_at(data(max_bad_rows=limit, eval_fraction=0.0), CACHE)

    assert facts.train_rows == 7
    assert facts.sources[""].train[0].dropped == {"bad": 3}
    assert (warning.code, warning.is_error) == ("LF512", False)
    assert warning.message == "3 of 10 rows cannot be used and are left out"
    assert "rows.jsonl:8" in warning.notes[0]


@pytest.mark.parametrize("limit", [1, 2, "29%", "0.1%"])
def test_one_more_than_allowed_is_refused_with_the_rows(limit, data):
    rows(*[GOOD] * 7, *["{"] * 3)

    *each, whole = findings(data(max_bad_rows=limit))

    assert [d.code for d in each] == ["LF504"] * 3
    assert (whole.code, whole.hint) == ("LF512", "data.max_bad_rows=3")
    assert whole.message == f"3 of 10 rows cannot be used; {limit} may be left out"


def test_bad_rows_of_all_sources_are_counted_together(data, source):
    rows(*[GOOD] * 4, "{", name="a.jsonl")
    rows(*[GOOD] * 4, "{", name="b.jsonl")
    sources = {"a": source(train="a.jsonl"), "b": source(train="b.jsonl")}

    (warning,) = findings(data("mix", sources=sources, max_bad_rows="20%"))
    refused = faults(data("mix", sources=sources, max_bad_rows=1))

    assert warning.message == "2 of 10 rows cannot be used and are left out"
    assert refused[-1] == ("LF512", "2 of 10 rows cannot be used; 1 may be left out")


def test_weights_name_every_source(data, source):
    rows(GOOD)
    (found,) = findings(
        data("mix", sources={"a": source(), "b": source()}, weights={"a": 1.0, "c": 2.0})
    )

    assert (found.code, found.key) == ("LF518", "data.weights.c")
    assert found.notes == ("no weight: b", "no such source: c")
    assert found.hint == "'++data.weights={a:1.0,b:1.0}' ~data.weights.c"
