"""`docs/resume.md`: its commands are run, and its verdicts on changed settings are the code's."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmforge import compile as compile_plan
from llmforge.codes import known_codes
from llmforge.run.resume import Verdict, judge

PAGE = Path(__file__).parents[1] / "docs" / "resume.md"
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ROW = re.compile(r"^\| `([^`]+)` \| (safe|unsafe|refused) \|$", re.MULTILINE)

BEFORE = ("hardware=cpu", "launch.threads=1", "data.rows=200", "trainer.log_every=2")


def test_every_command(work: Path, llmforge: Callable[[str], Any]) -> None:
    del work  # the folder the commands run in
    ran = 0
    for body in CONSOLE.findall(PAGE.read_text(encoding="utf-8")):
        for part in re.split(r"^\$ llmforge ", body, flags=re.MULTILINE)[1:]:
            command, *shown = part.splitlines()
            told = llmforge(command)
            ran += 1
            assert told.code == 0, f"{command}\n{told.err}"
            for line in shown:
                assert line in told.out
    assert ran == 1


def test_verdicts(work: Path) -> None:
    del work
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    assert {verdict for _, verdict in rows} == set(Verdict)
    before = compile_plan(BEFORE)
    for override, verdict in rows:
        after = compile_plan([*BEFORE, override])
        key = override.partition("=")[0]
        found = {str(judged.change.key): judged.verdict for judged in judge(before, after)}
        assert found[key] == verdict, override
        # what is refused has a folder of its own, unless somebody copies it
        same = before.stages["train"] == after.stages["train"]
        assert same == (verdict != Verdict.REFUSED), override


def test_codes_exist() -> None:
    told = set(re.findall(r"LF\d{3}", PAGE.read_text(encoding="utf-8")))
    assert told
    assert told <= set(known_codes())
