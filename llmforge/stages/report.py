"""The report on prepared data, for people: as text in the terminal and as a page for MLflow.

In: the report of `prepare`, previews, the plan. Out: rich `Text`, or one HTML file without scripts.
Nothing is counted here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from llmforge.plan import Plan
from llmforge.run.folder import RunFolder
from llmforge.store import RECEIPT

if TYPE_CHECKING:
    from llmforge.build.padding import Padding
    from llmforge.build.prepared import Prepared
    from llmforge.build.preview import Shown

STYLES = {"trained": "bold green", "masked": "dim", "padding": "dim strike"}
"""How tokens are drawn in a terminal."""

PAGE = "data.html"
"""In the run folder; an artifact of its record."""

# what steers a terminal is drawn by its picture: data must not be able to clear the screen
_CONTROLS = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"}
_CONTROLS |= {0x7F: "\u2421"} | dict.fromkeys(range(0x80, 0xA0), "\ufffd")

_LINES, _SHOWN = 50, 5
"""Lines of the receipt and samples that the page shows."""


def tell(report: Mapping[str, Any]) -> Text:
    """Rows in = rows used + rows rejected, tokens by fate, packing, doubles."""
    text = Text()
    for name, side in sides(report):
        left = side["rows"] - side["used"]
        text.append(f"{name:<14}", style="bold")
        text.append(f"{side['rows']:,} rows = {side['used']:,} used + {left:,} rejected")
        reasons = ", ".join(f"{n:,} {_words(why)}" for why, n in side["rejected"].items())
        text.append(f" ({reasons})\n" if reasons else "\n")
        text.append(f"{'':<14}{side['samples']:,} samples of {side['tokens']:,} tokens: ")
        text.append(f"{side['tokens_trained']:,} trained", style="green")
        text.append(f", {side['tokens_masked']:,} masked, {side['tokens_cut']:,} cut\n")
    train, packing, padding = report["train"], report["packing"], report.get("padding")
    if packing:
        text.append(f"{'packing':<14}", style="bold")
        text.append(
            f"{packing['packs']:,} rows of {packing['capacity']:,} tokens, "
            f"{packing['efficiency']:.2%} full ({packing['fewest_possible']:,} would be the "
            "least)\n"
        )
    if padding:
        text.append(f"{'padding':<14}", style="bold")
        text.append(f"{padding['tokens']:,} of an epoch's places ({padding['share']:.1%}) hold no ")
        text.append(f"token, in {padding['batches']}\n")
    evaluation = report["evaluation"]
    overlap = f", {evaluation['overlap']:,} evaluation rows stand in training" if evaluation else ""
    text.append(f"{'doubles':<14}", style="bold")
    text.append(f"{train['duplicates']:,} training samples stand there twice{overlap}\n")
    text.append(f"{'longest':<14}", style="bold").append(f"{train['longest']:,} tokens")
    return text


def sides(report: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The training rows and every evaluation set, by name."""
    yield "training", report["train"]
    yield from (report["evaluation"] or {"sets": {}})["sets"].items()


def draw(shown: Sequence[Shown]) -> Text:
    """Samples with their trained tokens coloured."""
    text = Text()
    for item in shown:
        text.append(f"\n{item.title}", style="bold underline")
        text.append(
            f"  {item.trained} trained, {item.masked} masked, {item.padding} padding\n", "dim"
        )
        for piece, state in item.pieces:
            text.append(piece.translate(_CONTROLS), style=STYLES[state])
        text.append("\n")
    text.append("\ntrained", STYLES["trained"]).append("  masked", STYLES["masked"])
    return text.append("  padding", STYLES["padding"])


def page(plan: Plan, report: Mapping[str, Any], folder: Path, shown: Sequence[Shown] = ()) -> str:
    """The whole report as HTML; every text of the data is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    lengths = report["train"]["lengths"]
    longest = f"over {lengths['up_to'][-1]:,}"
    classes = [*(f"{edge:,}" for edge in lengths["up_to"]), longest]
    with (folder / RECEIPT).open(encoding="utf-8") as receipt:
        lines = list(islice(receipt, _LINES))
    return environment.from_string(template).render(
        name=plan.name,
        run_id=plan.run_id,
        fingerprint=plan.stages["prepare"],
        collator=plan.settings["collator"],
        sides=[(name, side, _shares(side)) for name, side in sides(report)],
        histogram=_bars(classes, lengths["samples"]),
        report=report,
        receipt=lines,
        shown=shown,
        words=_words,
    )


def keep(plan: Plan, run: RunFolder, prepared: Prepared, preview: int = 0) -> list[Shown]:
    """Write `prepare.json` and `data.html` into the run folder.

    Args:
        preview: samples to show on the page; 0 shows a few.

    Returns:
        The samples shown.
    """
    from llmforge.build.parts import data_collator
    from llmforge.build.preview import preview as show
    from llmforge.build.tokenizer import open_tokenizer

    tokenizer = open_tokenizer(prepared.tokenizer_folder)
    collator = data_collator(plan, tokenizer)
    samples = prepared.training_set() if prepared.packed else prepared.train
    shown = show(samples, collator, tokenizer, preview or _SHOWN, plan.spec.seed)
    report = {**prepared.report, "padding": asdict(padding_of(plan, prepared))}
    run.write_json("prepare.json", {**report, "reused": prepared.reused})
    text = page(plan, report, prepared.folder, shown)
    (run.path / PAGE).write_text(text, encoding="utf-8")
    return shown


def padding_of(plan: Plan, prepared: Prepared) -> Padding:
    """Padding of an epoch, with the plan's batches."""
    from llmforge.build.padding import foretell_padding

    packing = prepared.report["packing"]
    room = packing["packs"] * packing["capacity"] if packing else None
    return foretell_padding(plan, prepared.train["length"][:], room)


def _shares(side: Mapping[str, Any]) -> list[tuple[str, int, float]]:
    """Trained, masked and cut tokens with their share of all, in percent."""
    fates = [(fate, side[f"tokens_{fate}"]) for fate in ("trained", "masked", "cut")]
    total = sum(count for _, count in fates) or 1
    return [(fate, count, 100 * count / total) for fate, count in fates]


def _bars(classes: Sequence[str], counts: Sequence[int]) -> list[tuple[str, int, float]]:
    """Class, samples, length of the bar in percent; empty classes at the end left out."""
    last = max((place for place, count in enumerate(counts) if count), default=-1)
    top = max(counts, default=0) or 1
    pairs = list(zip(classes, counts, strict=True))[: last + 1]
    return [(name, count, 100 * count / top) for name, count in pairs]


def _words(reason: str) -> str:
    return reason.replace("_", " ")
