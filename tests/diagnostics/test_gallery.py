"""The gallery of findings: one page per code, executed.

A page shows files, a command, what llmforge says, and the same command with the hint pasted,
which must be accepted. Fenced blocks, run in order in an empty folder:

    ```files         first line: a path (see `write`); the rest: its content
    ```missing       packages that are not installed while the page runs
    ```console       `$ llmforge ...` lines and exactly what they print
    ```quiet         commands whose output is left out

`LLMFORGE_UPDATE_GALLERY=1 pytest tests/diagnostics` writes what is printed now into the pages;
read the difference before you keep it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from llmforge import installed, plugins, registry
from llmforge.codes import CODES, known_codes
from llmforge.compiler.rules import RULES
from llmforge.sources import functions

PAGES = sorted(Path(__file__).parent.glob("LF*.md"))

# found by a worker or by `--plan` on another machine: their tests stand beside the runner
AT_RUN_TIME = {code for code in CODES if code[:3] in ("LF8", "LF9")} | {"LF408", "LF729"}
# of a sweep's record and of a re-run, which need trials: tests/sweep/test_record.py,
# tests/run/test_repeat.py
AT_RUN_TIME |= {"LF740", "LF744"}
# of a sweep's folder and of its trials: tests/sweep/test_driver.py
AT_RUN_TIME |= {"LF713", "LF714", "LF716", "LF717"}
# of a launcher at work: tests/sweep/test_launchers.py
AT_RUN_TIME |= {"LF732"}
# of `evaluate --run`, which needs a run with its weights: tests/run/test_measure.py
AT_RUN_TIME |= {f"LF{number}" for number in range(224, 229)}

# of a model that another run has not trained yet: tests/run/test_bases.py
AT_RUN_TIME |= {"LF625"}

# of launchers that find nobody, of nodes that differ, and of a run that another goes on from:
# tests/run/starting, tests/run/test_resharding.py
AT_RUN_TIME |= {f"LF{number}" for number in range(460, 469)}

BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Example:
    """One command of a page, and what it printed."""

    command: str
    output: str
    exit_code: int

    @property
    def words(self) -> list[str]:
        """The arguments after `llmforge VERB`."""
        return shlex.split(self.command)[2:]

    @property
    def refused(self) -> bool:
        return re.search(r"^error\[", self.output, re.MULTILINE) is not None

    @property
    def hints(self) -> list[str]:
        return re.findall(r"^hint: (.*)$", self.output, re.MULTILINE)


def write(block: str, checkpoint: Callable[..., Path]) -> None:
    """One ```files block.

    First lines: `conf/mine.yaml`; `rows.jsonl x 300` repeats the content; `rows.txt in utf-16`
    encodes it; `chats.db from sql` makes an SQLite file by the statements below; `tiny/ holds a
    llama` makes a model folder, the content being JSON that changes its config.json.
    """
    head, _, body = block.partition("\n")
    name, _, rest = head.partition(" ")
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if rest == "holds a llama":
        checkpoint(path, **json.loads(body.strip() or "{}"))
    elif rest == "from sql":
        with closing(sqlite3.connect(path)) as database:
            database.executescript(body)
            database.commit()
    elif rest.startswith("in "):
        path.write_bytes(body.encode(rest.removeprefix("in ")))
    else:
        times = int(rest.removeprefix("x ")) if rest else 1
        path.write_text(body * times, encoding="utf-8")


def examples(console: str) -> Iterator[tuple[str, str]]:
    """`$ command` and the lines below it, pair by pair."""
    for part in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(autouse=True)
def plugins_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a page's modules register ends with the page."""
    for known in (plugins, "_loaded"), (functions, "_transforms"), (functions, "_datasets"):
        monkeypatch.setattr(*known, dict(getattr(*known)))
    components = {section: dict(kinds) for section, kinds in registry._components.items()}
    monkeypatch.setattr(registry, "_components", components)
    before = set(sys.modules)
    yield
    for name in {name for name in sys.modules if name.startswith("gallery_")} - before:
        del sys.modules[name]


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Packages that only sweeps ask for, and that are not installed either."""
    found: set[str] = set()
    real = installed.installed_version
    monkeypatch.setattr(
        installed, "installed_version", lambda name: None if name in found else real(name)
    )
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page(page, work, llmforge, checkpoint, everything_installed, hidden):
    text = page.read_text(encoding="utf-8")
    shown: list[Example] = []

    def run(block: re.Match[str]) -> str:
        kind, body = block.groups()
        if kind == "files":
            write(body, checkpoint)
        elif kind == "missing":
            for package in body.split():
                if everything_installed.pop(package, None) is None:
                    hidden.add(package)
        elif kind in ("console", "quiet"):
            printed = ""
            for command, _ in examples(body):
                ran = llmforge(command.removeprefix("llmforge "))
                output = (ran.err + ran.out).replace(str(work), "<here>")
                shown.append(Example(command, output, ran.code))
                printed += f"$ {command}\n{output if kind == 'console' else ''}"
            return f"```{kind}\n{printed}```"
        return block[0]

    now = BLOCK.sub(run, text)
    if os.environ.get("LLMFORGE_UPDATE_GALLERY"):
        page.write_text(now, encoding="utf-8")
    else:
        assert now == text

    code = page.stem
    assert [e.exit_code for e in shown] == [2 if e.refused else 0 for e in shown]
    assert re.search(rf"^(error|warning|note)\[{code}\]", shown[0].output, re.MULTILINE)
    assert f"[{code}]" not in shown[-1].output, "the page must end with what is accepted"
    assert not shown[-1].refused
    for bad, good in pairwise(shown):
        assert_pasted(bad, good)


def assert_pasted(bad: Example, good: Example) -> None:
    """The next command is the refused one with its hints in place of what they correct."""
    wanted: list[str] = []
    for hint in bad.hints:
        if hint.startswith("llmforge train "):
            return  # a page trains nothing
        if hint.startswith("llmforge "):
            assert good.command == hint
            return
        if re.match(r"[\w.]+=|--\w", hint):
            # `<...>` in a hint is for the user to fill in
            wanted += shlex.split(re.sub(r"<[^>]*>", "<>", hint))
    for word in wanted:
        pattern = re.sub(r"<[^>]*>", "[^<>]+", re.escape(word).replace("\\ ", " "))
        assert any(re.fullmatch(pattern, other) for other in good.words), f"{word} was not pasted"
    if wanted:
        added = [w for w in good.words if w not in bad.words and w not in wanted]
        assert all("<" in "".join(wanted) for _ in added), f"more than the hint: {added}"


def test_every_code_has_a_page():
    assert {page.stem for page in PAGES} == set(known_codes()) - AT_RUN_TIME


def test_every_rule_explains_itself():
    assert [rule.code for rule in RULES if not rule.text.strip()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_title(page):
    title, _, why = page.read_text(encoding="utf-8").partition("\n\n")
    assert title == f"# {page.stem}: {known_codes().get(page.stem)}"
    assert 40 < len(why.partition("```")[0].strip()) < 500
