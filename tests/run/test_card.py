"""The model card: valid for the hub, whatever settings and data are called."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import llmforge
from llmforge.plan import Plan
from llmforge.run.card import card, escape
from llmforge.run.journal import Journal


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    file = tmp_path / "metrics.jsonl"
    log = Journal(file)
    log.attempt(1, 0)
    log.append({"baseline_eval_loss": 5.5, "baseline_eval_perplexity": 244.7}, 0)
    log.append({"train_loss": 5.0, "learning_rate": 1e-3, "epoch": 0.5}, 2)
    log.append({"train_loss": 4.0, "learning_rate": 5e-4, "epoch": 1.0}, 4)
    log.append({"eval_loss": 3.5, "eval_perplexity": 33.1, "exact_match": 0.25}, 4)
    return file


def rows(text: str) -> dict[str, list[str]]:
    """First cell of a table's row -> the others."""
    found = [line.strip("| ").split(" | ") for line in text.splitlines() if line[:1] == "|"]
    return {first: others for first, *others in found}


def test_what_a_reader_finds(tiny: Callable[..., Plan], journal: Path) -> None:
    plan = tiny("tracking=none", "card.license=apache-2.0", "card.language=en", "card.tags=[sums]")

    text = card(plan, journal, "me/model", adapter=False)

    data = ModelCard(text).data
    assert (data.license, data.language, data.library_name) == ("apache-2.0", "en", "transformers")
    assert data.tags == ["llmforge", "sums"]
    assert plan.fingerprint in text
    table = rows(text)
    assert table[r"eval\_loss"] == ["5.5", "3.5", "4"]
    assert table[r"exact\_match"] == ["", "0.25", "4"]
    assert table["learning rate"] == [str(plan.settings["optimizer"]["lr"])]
    assert "learning_rate" not in text
    assert 'from_pretrained("me/model")' in text
    assert "peft" not in ModelCard(text).text.partition("## Versions")[0]


def test_licence_and_language_are_left_out_when_nobody_chose(
    tiny: Callable[..., Plan], journal: Path
) -> None:
    data = ModelCard(card(tiny("tracking=none"), journal, ".", adapter=False)).data
    assert data.license is None
    assert data.language is None


def test_an_adapter_is_loaded_over_its_base(tiny: Callable[..., Plan], journal: Path) -> None:
    plan = tiny("tracking=none", "lora=small")

    text = card(plan, journal, "me/model", adapter=True)

    assert ModelCard(text).data.library_name == "peft"
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code
    compile(code[1], "card", "exec")
    assert 'folder = snapshot_download("me/model")' in code[1]
    assert "PeftModel.from_pretrained(model, folder)" in code[1]
    assert 'folder = "model"' in card(plan, journal, "model", adapter=True)


@pytest.mark.parametrize(
    "evil",
    [
        "a\n---\nlicense: mit",
        "x | y\n\n# Buy now",
        "```\n<script>alert(1)</script>",
        "[a](http://b)",
    ],
)
def test_no_value_breaks_the_page(evil: str, tiny: Callable[..., Plan], journal: Path) -> None:
    plan = tiny("tracking=none", "lora=small", "card.tags=[sums]")
    plan.settings["card"]["tags"] = [evil]
    plan.settings["model"] = {"kind": "folder", "path": f"/home/ann/{evil}"}

    text = card(plan, journal, evil, adapter=True)

    data = ModelCard(text).data
    assert data.license is None
    assert data.tags[0] == "llmforge"
    assert data.tags[1].splitlines() == evil.splitlines()
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [
        "# tiny", "## Results", "## Recipe", "## Data", "## Loading", "## Versions",
    ]  # fmt: skip
    assert "<script>" not in re.sub(r"```python.*?```", "", ModelCard(text).text, flags=re.DOTALL)
    assert ModelCard(text).text.count("```") == 6, "no block was opened or closed by the value"


def test_own_text_stands_there_as_it_is(
    tiny: Callable[..., Plan], journal: Path, work: Path
) -> None:
    own = work / "about.md"
    own.write_text("For the **harbour**: {{ 7 * 7 }}.\n", encoding="utf-8")
    text = card(tiny("tracking=none", f"card.text={own}"), journal, ".", adapter=False)
    assert "For the **harbour**: {{ 7 * 7 }}." in text


def test_a_card_before_anything_was_measured(tiny: Callable[..., Plan], tmp_path: Path) -> None:
    text = card(tiny("tracking=none"), tmp_path / "metrics.jsonl", ".", adapter=False)
    assert "Nothing was measured yet." in text
    assert "after 0 of 12 optimizer steps" in text


def test_files_of_rows_are_named_without_their_folder(journal: Path, work: Path) -> None:
    file = work / "secret_place" / "rows.jsonl"
    file.parent.mkdir()
    file.write_text('{"text": "How many legs has a spider? 8"}\n' * 60, encoding="utf-8")
    words = ("data=jsonl", f"data.train={file}", "data.max_overlap=100%", "collator=lm")
    plan = llmforge.compile(["hardware=cpu", *words])

    text = card(plan, journal, ".", adapter=False)

    assert "secret_place" not in text
    assert str(work) not in text
    (part,) = plan.data_parts()
    assert rows(text)["rows.jsonl"][2] == part["sha256"]


def test_escape() -> None:
    assert escape("a|b\n`c`\x1b[2J") == r"a\|b \`c\` \[2J"
