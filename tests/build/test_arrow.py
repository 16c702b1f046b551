"""Sides on disk: what the file, the report and the receipt say of the same rows."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmforge.build import batches
from llmforge.build.arrow import HISTOGRAM_EDGES, Side
from llmforge.build.batches import Makers
from llmforge.build.errors import DataRefused
from llmforge.build.tokenizer import open_tokenizer
from llmforge.sources.base import Row
from llmforge.sources.flow import Dropped
from llmforge.stages.prepare import prepare


def chat(line: int, words: int, answer: str = "yes ") -> Row:
    said = [("user", f"{line}?"), ("assistant", answer * words)]
    return Row("x", line, {"messages": [{"role": r, "content": c} for r, c in said]})


@pytest.fixture
def makers(make_plan) -> Any:
    """`makers("drop")`: makers of one process with that truncation."""
    folder = prepare(make_plan()).tokenizer_folder
    tokenizer = open_tokenizer(folder)
    return lambda truncation: Makers(
        make_plan({"collator.truncation": truncation}), tokenizer, folder
    )


@pytest.fixture
def write(makers, tmp_path):
    """`write({"train": [...]}, "drop")`: the report, the table and the receipt."""

    def run(streams: dict[str, list[Any]], truncation: str = "right", prompts: bool = False):
        path, receipt = tmp_path / "side.arrow", io.StringIO()
        side = Side(path, receipt, 64, prompts)
        with makers(truncation) as made:
            side.write(streams, made)
        table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
        lines = [json.loads(line) for line in receipt.getvalue().split("\n")[:-1]]
        return side.report(), table, lines

    return run


def test_columns_and_their_owners_over_several_batches(write, monkeypatch):
    monkeypatch.setattr(batches, "ROWS", 3)
    items = [chat(n, 1) if n % 4 else Dropped("x", n, "not_selected") for n in range(1, 11)]
    report, table, lines = write({"near": items, "far": items[:2]}, prompts=True)
    assert table.column_names == ["input_ids", "labels", "length", "source_row", "set", "prompt"]
    kept = [n - 1 for n in range(1, 11) if n % 4]
    assert table["source_row"].to_pylist() == [*kept, 0, 1], "numbers of the rows of each set"
    assert table["set"].to_pylist() == [0] * 8 + [1] * 2
    assert table["prompt"].to_pylist()[:2] == ["1?", "2?"]
    assert [(line["set"], line["line"]) for line in lines] == [("near", 4), ("near", 8)]
    assert {name: side["rows"] for name, side in report["sets"].items()} == {"near": 10, "far": 2}


def test_digest_is_that_of_ids_and_labels(write):
    report, table, _ = write({"train": [chat(1, 1), chat(2, 2)]})
    digest = hashlib.sha256()
    for column in ("input_ids", "labels"):
        digest.update(np.asarray(table[column].combine_chunks().values, np.int32).tobytes())
    assert report["token_digest"] == digest.hexdigest()
    assert report["token_digest"] != write({"train": [chat(2, 2), chat(1, 1)]})[0]["token_digest"]


def test_duplicates_are_samples_of_the_same_tokens(write):
    assert write({"train": [chat(1, 1), chat(2, 1), chat(1, 1), chat(1, 1)]})[0]["duplicates"] == 2
    assert write({"train": [chat(1, 1), chat(2, 1)]})[0]["duplicates"] == 0


def test_a_side_without_a_sample_can_be_opened(write):
    report, table, _ = write({"train": [Dropped("x", 1, "not_selected")]})
    assert (table.num_rows, report["longest"], report["used"]) == (0, 0, 0)
    assert report["rejected"] == {"not_selected": 1}


def test_refused_rows_are_named_and_the_rest_counted(write):
    items = [chat(n, 100) for n in range(1, 8)]
    with pytest.raises(DataRefused, match=r"7 rows are longer than collator.max_length=64: x:1 "
                                          r"\(\d+ tokens\), .* and 2 more; hint:"):  # fmt: skip
        write({"train": items}, "refuse")


DROPPED = st.builds(
    Dropped,
    st.just("x"),
    st.integers(1, 99),
    st.sampled_from(["not_selected", "transformed_away"]),
    st.none(),
)
CHATS = st.builds(chat, st.integers(1, 99), st.sampled_from([1, 5, 40, 80]), st.just("yes "))
ITEMS = st.lists(CHATS | DROPPED, max_size=12)


@settings(max_examples=30, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(
    streams=st.dictionaries(st.sampled_from(["a", "b"]), ITEMS, min_size=1),
    truncation=st.sampled_from(["right", "left", "drop", "split"]),
)
def test_rows_and_tokens_add_up(streams, truncation, write):
    report, table, lines = write(streams, truncation)
    assert_adds_up(report)
    assert report["rows"] == sum(len(items) for items in streams.values())
    assert report["samples"] == table.num_rows == sum(report["lengths"]["samples"])
    assert report["tokens"] == sum(table["length"].to_pylist())
    labels = [label for row in table["labels"].to_pylist() for label in row]
    assert report["tokens_trained"] == sum(label != -100 for label in labels)
    for name, side in report["sets"].items():
        assert_adds_up(side)
        said = [line["reason"] for line in lines if line["set"] == name]
        assert {reason: said.count(reason) for reason in set(said) - {"cut"}} == side["rejected"]
        assert said.count("cut") == side["truncated"]
    for key in ("rows", "used", "samples", "tokens", "tokens_cut", "ends_trained"):
        assert report[key] == sum(side[key] for side in report["sets"].values())


def assert_adds_up(told: dict[str, Any]) -> None:
    assert told["rows"] == told["used"] + sum(told["rejected"].values())
    assert told["tokens"] == told["tokens_trained"] + told["tokens_masked"]
    assert told["samples"] >= told["used"]


def test_lengths_fall_into_their_classes(write):
    report, table, _ = write({"train": [chat(n, n) for n in range(1, 30)]})
    expected: list[int] = []
    edges: Iterator[tuple[int, float]] = zip(
        (0, *HISTOGRAM_EDGES), (*HISTOGRAM_EDGES, np.inf), strict=True
    )
    for above, upto in edges:
        expected.append(sum(above < n <= upto for n in table["length"].to_pylist()))
    assert report["lengths"] == {"up_to": list(HISTOGRAM_EDGES), "samples": expected}
