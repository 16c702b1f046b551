"""The report for people: numbers that sum, and text of the data that stays text."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from rich.console import Console

from llmforge.build.preview import Shown
from llmforge.run.folder import RunFolder
from llmforge.stages.prepare import prepare
from llmforge.stages.report import PAGE, draw, keep, page, sides, tell

EVIL = "<script>alert(1)</script> & <b>bold</b>"


def chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question},
                         {"role": "assistant", "content": answer}]}  # fmt: skip


ROWS = [chat(f"{n}?", "yes " * (n % 3 + 1)) for n in range(20)]
FAULTY = [chat("long?", "yes " * 90), {"messages": [{"role": EVIL, "content": "a"}]},
          chat("why " * 90, "no")]  # fmt: skip


@pytest.fixture
def prepared(make_plan):
    """`prepared(rows, {...})`: plan, prepared data."""

    def run(rows: list[Any] | None = None, changes: dict[str, Any] | None = None):
        plan = make_plan({"data.max_bad_rows": None, **(changes or {})},
                         rows=[*ROWS, *FAULTY] if rows is None else rows)  # fmt: skip
        return plan, prepare(plan)

    return run


def shown(text: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=200, color_system=None).print(text)
    return out.getvalue()


def number(text: str) -> int:
    return int(text.replace(",", ""))


class Elements(HTMLParser):
    """What a browser makes of a page: tags by name, and the text of each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.pre = ""
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:  # noqa: ARG002 - the base's own
        self.tags.append(tag)
        self._open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "td" in self._open:
            self.cells[-1] += data
        if "pre" in self._open:
            self.pre += data


def test_rows_in_are_rows_used_and_rejected_by_reason(prepared):
    _, data = prepared()
    text = shown(tell(data.report))

    lines = re.findall(r"(\w+) +([\d,]+) rows = ([\d,]+) used \+ ([\d,]+) rejected(.*)", text)
    assert [name for name, *_ in lines] == ["training", "eval"]
    for _, rows, used, rejected, reasons in lines:
        assert number(rows) == number(used) + number(rejected)
        assert number(rejected) == sum(map(int, re.findall(r"(\d+) [a-z]", reasons)))
    assert sum(number(rows) for _, rows, *_ in lines) == 23
    tokens = re.findall(r"of ([\d,]+) tokens: ([\d,]+) trained, ([\d,]+) masked", text)
    for whole, trained, masked in tokens:
        assert number(whole) == number(trained) + number(masked)


def test_packing_is_told_with_its_padding(prepared):
    _, data = prepared(ROWS, {"collator.packing": "best_fit"})
    packing, train = data.report["packing"], data.report["train"]
    padding = packing["packs"] * 64 - train["tokens"]
    told = {"tokens": padding, "share": 0.25, "batches": "packed rows"}

    text = shown(tell({**data.report, "padding": told}))

    assert f"{packing['packs']:,} rows of 64 tokens, {packing['efficiency']:.2%} full" in text
    assert f"{padding:,} of an epoch's places (25.0%) hold no token, in packed rows" in text
    assert packing["efficiency"] == pytest.approx(train["tokens"] / (packing["packs"] * 64))
    assert packing["fewest_possible"] <= packing["packs"] == len(data.training_set())


def test_doubles_and_overlap_are_told(prepared, tmp_path):
    held = tmp_path / "held.jsonl"
    held.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(chat("new?", "yes")) + "\n")
    _, data = prepared([*ROWS, ROWS[0]], {"data.evaluation": str(held)})

    text = shown(tell(data.report))

    assert "1 training samples stand there twice, 1 evaluation rows stand in training" in text


def test_text_of_the_data_is_escaped_in_the_page(prepared, tmp_path):
    rows = [chat(f"{EVIL} {n}", f"{EVIL} {n}") for n in range(8)] + FAULTY
    plan, data = prepared(rows, {"collator.max_length": 120})
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()

    keep(plan, run, data, preview=20)

    text = (run.path / PAGE).read_text(encoding="utf-8")
    found = Elements(text)
    assert not {"script", "b"} & set(found.tags)
    receipt = found.pre[found.pre.index('{"set"') :]
    assert EVIL in found.pre, "a reader sees what stands in the data"
    assert EVIL in receipt
    assert "http" not in text.replace("</html>", ""), "nothing is loaded from elsewhere"


def test_the_page_counts_what_the_report_counts(prepared):
    plan, data = prepared()
    cells = Elements(page(plan, data.report, data.folder)).cells

    for name, side in sides(data.report):
        row = cells[cells.index(name) :][:7]
        rows, used, rejected, cut, samples = map(number, row[1:6])
        assert (rows, used, cut, samples) == (
            side["rows"], side["used"], side["truncated"], side["samples"],
        )  # fmt: skip
        assert rows == used + rejected
        assert rejected == sum(map(int, re.findall(r"\d+", row[6])))
        fates = cells[cells.index(name, cells.index(name) + 1) :][1:4]
        expected = [side[f"tokens_{fate}"] for fate in ("trained", "masked", "cut")]
        assert [number(fate) for fate in fates] == expected
    classes = data.report["train"]["lengths"]["samples"]
    histogram = cells[-3 * max(n + 1 for n, count in enumerate(classes) if count) :]
    assert sum(map(number, histogram[1::3])) == data.report["train"]["samples"]


def test_the_receipt_is_quoted_or_said_to_be_empty(prepared):
    plan, data = prepared()
    lines = (data.folder / "receipt.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert Elements(page(plan, data.report, data.folder)).pre == "\n".join(lines) + "\n"

    plan, clean = prepared(ROWS, {"data.split_seed": 1})
    assert "No row was left out or cut." in page(plan, clean.report, clean.folder)


def test_samples_are_drawn_with_their_trained_tokens_coloured(prepared, tmp_path):
    plan, data = prepared(ROWS)
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()

    samples = keep(plan, run, data, preview=2)
    drawn = draw(samples)

    assert len(samples) == 2
    for item in samples:
        trained = next(piece for piece, state in item.pieces if state == "trained")
        assert "yes" in trained
        spans = [s for s in drawn.spans if drawn.plain[s.start : s.end] == trained]
        assert any("green" in str(span.style) for span in spans)
    told = json.loads((run.path / "prepare.json").read_text())
    assert told["train"] == data.report["train"]
    assert told["reused"] is False


def test_what_steers_a_terminal_is_shown_and_not_sent():
    piece = "clear\x1b[2J\x07\r\nnext\ttab \x9b"
    drawn = draw([Shown("sample 0", [(piece, "trained")], 1, 0, 0)]).plain

    assert "clear␛[2J␇␍\nnext\ttab �" in drawn
    assert not {"\x1b", "\x07", "\r", "\x9b"} & set(drawn)
