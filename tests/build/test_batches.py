"""Rows to arrays: what becomes of every row, the same in one process and in several."""

from __future__ import annotations

import json
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmforge.build import batches
from llmforge.build.batches import Maker, Makers, batched, trained, worker_count
from llmforge.build.tokenizer import open_tokenizer
from llmforge.sources.base import Fault, Row
from llmforge.sources.flow import Dropped
from llmforge.stages.prepare import prepare


def chat(question: str, answer: str, line: int = 1) -> Row:
    said = [("user", question), ("assistant", answer)]
    return Row("x", line, {"messages": [{"role": r, "content": c} for r, c in said]})


ITEMS = [
    Dropped("x", 1, "bad", Fault("LF505", "has no `messages`")),
    chat("a", "b", 2),
    chat("a", "b " * 100, 3),
    Dropped("x", 4, "not_selected"),
    chat("why " * 100, "b", 5),
    chat("c", "d", 6),
]


@pytest.fixture
def made(make_plan, tmp_path):
    """`made(truncation, items)`: what one maker makes of a batch."""

    def make(truncation: str, items: list[Any] = ITEMS, prompts: bool = True) -> batches.Made:
        plan = make_plan({"collator.truncation": truncation})
        tokenizer = open_tokenizer(prepare(make_plan()).tokenizer_folder)
        return Maker(plan, tokenizer)(items, prompts)

    return make


@pytest.mark.parametrize(
    ("truncation", "owners", "rejected", "cut", "too_long"),
    [
        ("right", [1, 2, 5], {0: "bad", 3: "not_selected", 4: "no_trained_token"}, {2}, []),
        ("left", [1, 2, 4, 5], {0: "bad", 3: "not_selected"}, {2, 4}, []),
        ("drop", [1, 5], {0: "bad", 2: "over_max_length", 3: "not_selected",
                          4: "over_max_length"}, set(), []),
        ("refuse", [1, 5], {0: "bad", 3: "not_selected"}, set(), [2, 4]),
    ],
)  # fmt: skip
def test_each_row_becomes_samples_or_a_reason(made, truncation, owners, rejected, cut, too_long):
    found = made(truncation)
    assert found.owners.tolist() == owners
    assert {row: reason for row, reason, _ in found.rejected} == rejected
    assert set(found.cut) == cut
    assert [row for row, _ in found.too_long] == too_long
    assert len(found.ids) == len(found.labels) == found.lengths.sum()
    assert len(found.prompts) == len(found.lengths) == len(owners)
    assert found.ids.dtype == found.labels.dtype == np.int32
    places = np.concatenate(([0], found.lengths.cumsum()[:-1]))
    assert set(found.labels[places]) == {-100}, "a first token is never predicted"
    assert trained(found.labels) == sum(found.labels != -100) > 0


def test_why_a_row_was_dropped_comes_along(made):
    assert made("right").rejected[0] == (0, "bad", "has no `messages`")


def test_pieces_of_a_split_row_belong_to_it(made):
    found = made("split")
    assert found.owners.tolist().count(2) > 1
    assert found.lengths.max() <= 64
    assert 4 in found.cut, "pieces without anything to learn are not samples"


def test_a_batch_of_nothing_but_drops(made):
    found = made("right", [ITEMS[0], ITEMS[3]])
    assert (len(found.ids), len(found.lengths), len(found.rejected)) == (0, 0, 2)


def test_rows_of_several_shapes_keep_their_order(made):
    items = [
        Row("x", 1, {"prompt": "a", "completion": "b"}),
        chat("c", "d"),
        Row("x", 3, {"instruction": "e", "input": "f", "output": "g"}),
        Row("x", 4, {"instruction": "e", "output": "g"}),
        Row("x", 5, {"prompt": "h", "completion": "i"}),
    ]
    found = made("right", items)
    assert found.owners.tolist() == [0, 1, 2, 3, 4]
    assert [prompt.split()[0] for prompt in found.prompts] == ["a", "c", "e", "e", "h"]


def test_ends_are_counted_by_what_carries_loss(made):
    assert made("right", [chat("a", "b"), chat("c", "d")]).ends == 2
    assert made("right", [chat("a", "b " * 100)]).ends == 0, "its end was cut off"


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (1000, [1000]),
                                              (2001, [1000, 1000, 1])])  # fmt: skip
def test_batches_are_of_a_thousand_rows(count, sizes):
    assert [len(batch) for batch in batched([chat("a", "b")] * count)] == sizes


def test_samples_are_the_same_for_any_number_of_processes(make_plan, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(batches, "ROWS", 7)  # many batches of few rows, answered out of order
    rows = [{"messages": chat(f"{n}?", "yes " * (n % 40 + 1)).values["messages"]}
            for n in range(60)] + [{"messages": "none"}]  # fmt: skip
    reports, receipts = [], []
    for workers in (1, 2):
        cache = tmp_path / f"cache-{workers}"
        given = {"data.workers": workers, "data.max_bad_rows": 1, "paths.cache": str(cache)}
        prepared = prepare(make_plan(given, rows=rows))
        reports.append(prepared.report)
        receipts.append((prepared.folder / "receipt.jsonl").read_text())
    one, two = reports
    assert one["train"]["token_digest"] == two["train"]["token_digest"]
    assert receipts[0] == receipts[1]
    assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_what_fails_in_another_process_is_raised_here(make_plan, tmp_path: Path):
    plan = make_plan({"data.workers": 2})
    tokenizer = open_tokenizer(prepare(make_plan()).tokenizer_folder)
    with (
        Makers(plan, tokenizer, tmp_path / "no tokenizer") as makers,
        pytest.raises(BrokenProcessPool),
    ):
        list(makers.made([chat("a", "b")], False))


def test_automatic_workers_hang_on_the_size_of_the_data(make_plan, monkeypatch):
    plan = make_plan({"data.workers": "auto"})
    assert worker_count(plan) == 1
    monkeypatch.setattr(batches, "_LARGE", 10)
    monkeypatch.setattr(batches.os, "cpu_count", lambda: 16)
    assert worker_count(plan) == 8
    assert worker_count(make_plan({"data.workers": 3})) == 3


def test_files_of_the_same_rows_give_the_same_tokens(make_plan, tmp_path: Path):
    """JSONL, CSV, TSV and Parquet: another reader, the same token stream."""
    import csv

    import pyarrow as pa
    from pyarrow import parquet

    rows = [{"prompt": f'"{n}", or\nwhat?', "completion": f"{n}\tü {n % 3}"} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, delimiter in (("csv", ","), ("tsv", "\t")):
        with (tmp_path / f"rows.{name}").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ("prompt", "completion"), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    extra = {"csv": {"delimiter": ",", "quote": '"', "header": True}}
    extra["tsv"] = {**extra["csv"], "delimiter": "\t"}
    found = {}
    for name in ("jsonl", "csv", "tsv", "parquet"):
        kind = {"tsv": "csv"}.get(name, name)
        given = {f"data.{key}": value for key, value in extra.get(name, {}).items()}
        plan = make_plan({"data.kind": kind, "data.train": str(tmp_path / f"rows.{name}"),
                          "collator.kind": "completion", **given})  # fmt: skip
        report = prepare(plan).report
        found[name] = (report["train"]["token_digest"], report["evaluation"]["token_digest"])
    assert len(set(found.values())) == 1, found
    assert report["train"]["used"] == 30
