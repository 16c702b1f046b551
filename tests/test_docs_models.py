"""`docs/models.md`: its commands and its Python are run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_the_page(work: Path, llmforge: Callable[[str], Any], capsys: Any, tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    (work / "prompts.txt").write_text("Who are you?\nWhat is two plus two?\nWhy?\n")
    told = []
    for body in CONSOLE.findall(text):
        for part in re.split(r"^\$ llmforge ", body, flags=re.MULTILINE)[1:]:
            ran = llmforge(part.strip())
            assert ran.code == 0, f"{part}\n{ran.err}"
            told.append(ran)
    assert len(told) == 7
    versions, answer, names = told[1].out, json.loads(told[3].out), json.loads(told[5].out)
    assert versions.splitlines()[1].split()[:4] == ["3", "best,", "last", "final"]
    assert answer["model"].endswith(", step 4")
    assert [(one["name"], one["versions"]) for one in names] == [("bot", 3)]
    rows = [json.loads(line) for line in (work / "answers.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows][2] == "Why?"

    (code,) = PYTHON.findall(text)
    capsys.readouterr()
    exec(compile(code, str(PAGE), "exec"), {})  # noqa: S102 - the page's own example
    assert re.search(r"\d+ (turn|stop|length)$", capsys.readouterr().out.strip())
    assert tmp_path == work
