"""A stream gives the samples that preparation would have written, and loses no more rows either."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from traceback import clear_frames
from typing import Any

import pytest

from llmforge.build import stream
from llmforge.build.batches import ROWS
from llmforge.build.errors import DataChanged, DataRefused
from llmforge.build.stream import StreamedDataset, first_rows
from llmforge.plan import Plan
from llmforge.sources.base import Row
from llmforge.sources.flow import Dropped
from llmforge.stages.prepare import prepare

torch = pytest.importorskip("torch")

MANY = ROWS + 500
"""More rows than are looked at when the plan is made."""

BROKEN = {"prompt": "no completion"}
UNTRAINED = {"prompt": "What is longer than the longest sample? " * 9, "completion": "This."}


def question(number: int) -> dict[str, str]:
    return {"prompt": f"{number} + {number}?", "completion": f"{2 * number}"}


QUESTIONS = [question(number) for number in range(MANY)]

SETTINGS = {
    "data.streaming": True,
    "data.shuffle": False,
    "data.eval_fraction": 0.0,
    "data.max_untrained_rows": 0,
    "collator.kind": "completion",
    "collator.prefix_end": None,
    "model.vocabulary": 300,
}

MakeStream = Callable[..., StreamedDataset]


def with_broken(**rows: dict[str, Any]) -> list[dict[str, Any]]:
    """The questions, and at places far behind those that are looked at (`at1200=...`) others."""
    changed = {int(place.removeprefix("at")): row for place, row in rows.items()}
    return [changed.get(number, row) for number, row in enumerate(QUESTIONS)]


@pytest.fixture
def planned(make_plan, gpt2_like: Path) -> Callable[..., Plan]:
    """`planned(rows, **{"data.shuffle": True})`: a plan that streams these rows."""

    def make(rows: list[Any] | None = None, **changes: Any) -> Plan:
        own = {"tokenizer.source": str(gpt2_like)}
        return make_plan(SETTINGS | own | changes, QUESTIONS if rows is None else rows)

    return make


@pytest.fixture
def streamed(planned) -> MakeStream:
    """`streamed(rows)`: their samples, by a tokenizer that was prepared."""

    def make(rows: list[Any] | None = None, **changes: Any) -> StreamedDataset:
        found = prepare(planned(rows, **changes)).training_set()
        assert isinstance(found, StreamedDataset)
        return found

    return make


def answers(samples: Any) -> list[tuple[list[int], list[int]]]:
    return [(list(sample["input_ids"]), list(sample["labels"])) for sample in samples]


def one_pass(dataset: StreamedDataset) -> list[tuple[list[int], list[int]]]:
    return answers(islice(dataset, MANY))


def loaded(dataset: StreamedDataset, workers: int, count: int = MANY) -> list[Any]:
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=None, num_workers=workers, collate_fn=lambda sample: sample
    )
    samples = iter(loader)
    try:
        return answers(islice(samples, count))
    except Exception as error:
        # The frames of a failure hold the loader in a cycle. Collecting a cycle closes the loader's
        # queues first, so its processes would never hear that they should end: 5 s for each.
        del samples
        clear_frames(error.__traceback__)
        raise


def lines(dataset: StreamedDataset, worker: int = 0) -> list[dict[str, Any]]:
    text = dataset.receipt_file(worker).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


# which samples, in which order


def test_the_samples_are_those_that_preparation_writes(planned):
    whole = prepare(planned(**{"data.streaming": False}))
    dataset = StreamedDataset(planned(), whole.tokenizer_folder, whole.folder / "receipt.jsonl")

    assert one_pass(dataset) == answers(whole.train)


def test_passes_follow_each_other_without_end(streamed):
    dataset = streamed(QUESTIONS[:5])

    thrice = answers(islice(dataset, 15))
    assert thrice == thrice[:5] * 3


def test_each_iteration_begins_at_the_first_sample(streamed):
    dataset = streamed(QUESTIONS[:5], **{"data.shuffle": True})

    assert answers(islice(dataset, 7)) == answers(islice(dataset, 7))


def test_each_pass_has_its_own_seeded_order(streamed):
    rows = QUESTIONS[:50]
    plain = answers(islice(streamed(rows), 50))
    shuffled = answers(islice(streamed(rows, **{"data.shuffle": True}), 100))
    other = answers(islice(streamed(rows, **{"data.shuffle": True, "seed": 8}), 50))

    first, second = shuffled[:50], shuffled[50:]
    assert sorted(first) == sorted(second) == sorted(plain) == sorted(other)
    assert len({str(order) for order in (first, second, plain, other)}) == 4


def test_a_sample_comes_no_earlier_than_the_buffer_is_long(streamed, monkeypatch):
    monkeypatch.setattr(stream, "BUFFER", 20)
    rows = QUESTIONS[:200]
    place = {str(sample): number for number, sample in enumerate(one_pass(streamed(rows))[:200])}

    shuffled = answers(islice(streamed(rows, **{"data.shuffle": True}), 200))

    early = [place[str(sample)] - number for number, sample in enumerate(shuffled)]
    assert 0 < max(early) < 20
    assert sorted(place[str(sample)] for sample in shuffled) == list(range(200))


@pytest.mark.parametrize("most", [7, ROWS, ROWS + 200])
def test_max_train_rows_holds_behind_the_rows_looked_at(streamed, most):
    plain = one_pass(streamed())
    dataset = streamed(**{"data.max_train_rows": most})

    assert one_pass(dataset) == (plain[:most] * (MANY // most + 1))[:MANY]


def test_rows_behind_the_last_one_used_are_not_read():
    def rows() -> Any:
        yield Row("a", 1, {})
        yield Dropped("a", 2, "bad")
        yield Row("a", 3, {})
        raise AssertionError("read on")

    assert [item.line for item in first_rows(rows(), 2)] == [1, 2, 3]


def test_two_data_loader_processes_give_every_sample_once_a_pass(streamed):
    dataset = streamed(**{"trainer.workers": 2})

    assert sorted(loaded(dataset, 2)[:MANY]) != sorted(one_pass(dataset)), "their passes mingle"
    # 1,000 and 500 samples in turns: after 500 of each, the second process begins anew
    assert sorted(loaded(dataset, 2, 1000)) == sorted(
        one_pass(dataset)[:500] + one_pass(dataset)[1000:]
    )
    assert loaded(dataset, 2) == loaded(dataset, 2), "the same number gives the same order"


def test_a_process_without_rows_leaves_them_to_the_other(streamed):
    dataset = streamed(QUESTIONS[:30], **{"trainer.workers": 2})

    assert loaded(dataset, 2, 60) == answers(islice(dataset, 60))


# what is lost


def test_a_row_that_is_left_out_has_a_line_in_the_receipt(streamed):
    rows = with_broken(at1200=BROKEN, at1300=UNTRAINED)
    dataset = streamed(rows, **{"data.max_bad_rows": 1, "data.max_untrained_rows": 1})

    assert len(answers(islice(dataset, MANY - 2))) == MANY - 2
    assert [(line["line"], line["reason"]) for line in lines(dataset)] == [
        (1201, "bad"),
        (1301, "no_trained_token"),
    ]


def test_the_receipt_begins_anew_with_each_iteration(streamed):
    rows = with_broken(at1200=BROKEN)
    dataset = streamed(rows, **{"data.max_bad_rows": 1})

    for _ in range(2):
        assert len(answers(islice(dataset, 2 * MANY))) == 2 * MANY  # a row is told once, not twice
        assert len(lines(dataset)) == 1


def test_each_process_and_each_run_has_a_receipt_of_its_own(streamed):
    rows = with_broken(at10=BROKEN, at1200=BROKEN)
    changes = {"data.max_bad_rows": 2, "trainer.workers": 2}
    dataset, other = streamed(rows, **changes), streamed(rows, **changes, name="other")

    loaded(dataset, 2, 2000)
    assert [[line["line"] for line in lines(dataset, worker)] for worker in (0, 1)] == [
        [11],
        [1201],
    ]
    assert dataset.receipt_file() != other.receipt_file()


@pytest.mark.parametrize(
    ("rows", "limits", "told"),
    [
        pytest.param(
            {"at1200": BROKEN},
            {"data.max_bad_rows": 0},
            r"1 of the first [\d,]+ training rows cannot be used \(data.max_bad_rows is 0\), "
            r"the last .*train.jsonl:1201; .* hint: data.max_bad_rows=1%",
            id="no bad row is allowed",
        ),
        pytest.param(
            {"at1200": BROKEN, "at1300": BROKEN},
            {"data.max_bad_rows": 1},
            r"2 of the first [\d,]+ training rows cannot be used",
            id="one more than allowed",
        ),
        pytest.param(
            {f"at{number}": BROKEN for number in range(1200, 1216)},
            {"data.max_bad_rows": "1%"},
            r"1[16] of the first [\d,]+ training rows .* hint: data.max_bad_rows=[2-4]%",
            id="more than a share of the rows read",
        ),
        pytest.param(
            {"at1200": UNTRAINED},
            {"data.max_untrained_rows": 0},
            r"1 of the first [\d,]+ training rows have no token to learn",
            id="a row without a token to learn",
        ),
        pytest.param(
            {f"at{number}": UNTRAINED for number in range(1000, 1500)},
            {"data.max_untrained_rows": None, "data.max_cut_tokens": "5%"},
            r"tokens are cut \(data.max_cut_tokens is 5%\)",
            id="more tokens cut than allowed",
        ),
    ],
)
def test_over_a_limit_the_stream_ends_the_run(streamed, rows, limits, told):
    if "data.max_cut_tokens" in limits:
        limits = limits | {"collator.truncation": "left"}
    dataset = streamed(with_broken(**rows), **limits)

    with pytest.raises(DataRefused, match=told):
        one_pass(dataset)


def test_a_share_within_its_limit_passes(streamed):
    fifteen = {f"at{number}": BROKEN for number in range(1200, 1215)}
    dataset = streamed(with_broken(**fifteen), **{"data.max_bad_rows": "1%"})

    assert len(one_pass(dataset)) == MANY


def test_limits_count_over_all_processes(streamed):
    """One bad row in the batch of each process: each alone would be within the limit."""
    rows = with_broken(at10=BROKEN, at1200=BROKEN)
    dataset = streamed(rows, **{"data.max_bad_rows": 2, "trainer.workers": 2})
    assert loaded(dataset, 2)

    dataset = streamed(rows, **{"data.max_bad_rows": 1, "trainer.workers": 2})
    with pytest.raises(DataRefused, match=r"2 of the first [\d,]+ training rows cannot be used"):
        loaded(dataset, 2)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_row_too_long_is_told_in_one_line(streamed, workers):
    rows = with_broken(at1200=UNTRAINED)
    changes = {"collator.truncation": "refuse", "trainer.workers": workers}
    dataset = streamed(rows, **changes)

    with pytest.raises(DataRefused, match=r"^\S*train.jsonl:1201 has \d+ tokens, .*=right$"):
        loaded(dataset, workers)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_gone_is_told_in_one_line(streamed, tmp_path: Path, workers):
    dataset = streamed(**{"trainer.workers": workers})
    (tmp_path / "train.jsonl").unlink()

    with pytest.raises(DataChanged, match=r"^[^\n]*train.jsonl[^\n]*when the plan was made$"):
        loaded(dataset, workers)
