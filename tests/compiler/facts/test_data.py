"""Data as the compiler looks at them: shapes, counts, and every part read once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

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


# -- what is found -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ({"text": "Once."}, "text"),
        ({"prompt": "2+2?", "completion": "4"}, "prompt_completion"),
        (json.loads(CHAT), "messages"),
        ({"instruction": "Add.", "output": "4"}, "instruction"),
        ({"text_parts": ["2+2?", "4"]}, "text_parts"),
        ({"prompt": "2+2?", "completion": "4", "id": 7, "text": "also"}, "prompt_completion"),
    ],
)
def test_shape_follows_from_the_columns(row, shape, data):
    rows(*[json.dumps(row)] * 20)

    facts = look(data()).to_dict()

    assert facts["shape"] == facts["sources"]["data"]["shape"] == shape
    assert facts["rows"] == {"train": 19, "evaluation": 1}
    assert facts["sets"] == {"eval": 1}


def test_columns_of_other_names_by_fields(data):
    rows(*['{"question": "2+2?", "answer": "4"}'] * 10)

    assert look(data(fields={"prompt": "question", "completion": "answer"})).shape == (
        "prompt_completion"
    )


@pytest.mark.parametrize(
    ("changes", "train", "sets"),
    [
        ({"eval_fraction": 0.1}, 90, {"eval": 10}),
        ({"eval_fraction": 0.0}, 100, {}),
        ({"eval_fraction": 0.001}, 99, {"eval": 1}),  # at least one
        ({"eval_fraction": 0.99}, 1, {"eval": 99}),  # never all
        ({"eval_fraction": 0.1, "max_train_rows": 20}, 20, {"eval": 10}),
        ({"eval_fraction": 0.1, "max_eval_rows": 5}, 90, {"eval": 5}),
        (
            {"eval_fraction": 0.1, "max_eval_rows": 5, "eval_surplus": "train"}, 95, {"eval": 5},
        ),
        ({"evaluation": "held.jsonl"}, 100, {"eval": 30}),
        ({"evaluation": ["held.jsonl", "held.jsonl"]}, 100, {"eval": 60}),
        (
            {"evaluation": {"near": "held.jsonl", "far": "held.jsonl"}, "max_eval_rows": 7},
            100, {"near": 7, "far": 7},
        ),
        ({"eval_fraction": 0.1, "train": ["rows.jsonl", "held.jsonl"]}, 117, {"eval": 13}),
    ],
)  # fmt: skip
def test_rows_are_counted_as_they_will_be_used(changes, train, sets, data):
    Path("rows.jsonl").write_text(GOOD * 100)
    Path("held.jsonl").write_text(GOOD * 30)

    facts = look(data(**changes))

    assert (facts.train_rows, facts.sets) == (train, sets)


def test_blank_lines_byte_order_mark_and_crlf_are_no_faults(data):
    Path("rows.jsonl").write_bytes(
        b"\xef\xbb\xbf" + (GOOD.replace("\n", "\r\n") + "\r\n").encode() * 10
    )

    facts = look(data())

    assert facts.train_rows + facts.evaluation_rows == 10


def test_conditions_and_fold_are_counted_by_part(data):
    rows(*[json.dumps({"text": "x", "lang": lang, "_fold": fold})
           for lang in ("en", "de") for fold in ("train", "train", "valid")])  # fmt: skip

    facts = look(data(select=['lang == "en"'], fold="_fold"))
    (part,) = facts.sources[""].train

    assert (facts.train_rows, facts.sets) == (2, {"eval": 1})
    assert (part.rows, part.folded, part.dropped) == (2, 1, {"not_selected": 3})


def test_generated_conversations(data):
    nothing_held = look(data("builtin", eval_fraction=0.0, rows=300))
    some_held = look(data("builtin", eval_fraction=0.1, rows=300, max_eval_rows=5))

    assert (nothing_held.train_rows, nothing_held.sets) == (300, {})
    assert some_held.train_rows < 300
    assert some_held.sets == {"eval": 5}


def test_sources_of_a_mix_have_shapes_and_sets_of_their_own(data, source):
    rows(*[GOOD] * 20, name="qa.jsonl")
    rows(*[CHAT] * 10, name="chats.jsonl")
    facts = look(
        data(
            "mix",
            eval_fraction=0.1,
            sources={
                "qa": source(train="qa.jsonl"),
                "chats": source(train="chats.jsonl", evaluation={"near": "chats.jsonl"}),
            },
        )
    )

    assert facts.shapes == ("prompt_completion", "messages")
    assert facts.sets == {"qa": 2, "chats_near": 10}
    assert facts.train_rows == 18 + 10


# -- reading once ------------------------------------------------------------------------------


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """Names of the parts that are really read, from now on."""
    from llmforge.compiler.facts import data as module

    scan, seen = module._scan, []

    def watched(part: Any, *rest: Any) -> Any:
        seen.append(part.name)
        return scan(part, *rest)

    monkeypatch.setattr(module, "_scan", watched)
    return seen


def test_second_look_does_not_read_the_file_again(data, read):
    rows(*[GOOD] * 50, "{")

    first, second = (look_at(data(max_bad_rows=1), CACHE) for _ in range(2))

    assert first == second
    assert read == ["rows.jsonl"]


def test_faults_are_remembered_until_the_file_is_mended(data, read):
    rows(GOOD, "{")
    assert faults(data()) == faults(data())
    assert len(read) == 1

    rows(GOOD, GOOD)

    assert faults(data()) == []
    assert len(read) == 2


def test_rewritten_file_is_read_again(data, read):
    path = Path("rows.jsonl")
    path.write_text(GOOD * 50)
    before = look(data())
    stat = path.stat()

    path.write_text(GOOD.replace("8", "9") * 50)  # of the same size
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    after = look(data())

    assert read == ["rows.jsonl"] * 2
    assert after.identity() != before.identity()


@pytest.mark.parametrize(
    "changes", [{"shape": "text"}, {"select": ['text == "c"']}, {"fields": {"prompt": "text"}}]
)
def test_other_settings_of_rows_look_again(changes, data, read):
    rows(*['{"prompt": "a", "completion": "b", "text": "c"}'] * 9)

    look(data())
    look(data(**changes))
    look(data())

    assert len(read) == 2


def test_another_share_or_cap_does_not_read_again(data, read):
    rows(*[GOOD] * 50)

    counts = [look(data(eval_fraction=0.1 * n, max_train_rows=9 * n)).train_rows for n in (1, 2)]

    assert counts == [9, 18]
    assert len(read) == 1


def test_cache_that_cannot_be_written_costs_only_time(data):
    Path("rows.jsonl").write_text(GOOD * 50)
    Path("blocked").write_text("a file where the cache folder should be")

    facts, found = look_at(data(eval_fraction=0.1), Path("blocked"))

    assert (facts.train_rows, found) == (45, [])


@pytest.mark.parametrize("content", ["{", "[]", '{"other": 1}', "\x00"])
def test_damaged_cache_is_ignored(content, data):
    Path("rows.jsonl").write_text(GOOD * 50)
    Path("cache").mkdir()
    Path("cache/scans.json").write_text(content)

    facts, _ = look_at(data(eval_fraction=0.1), Path("cache"))

    assert facts.train_rows == 45
