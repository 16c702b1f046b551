"""`docs/after-training.md`: its commands have flags that the verbs know, its codes are known."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from llmforge.cli import _parser
from llmforge.codes import known_codes

PAGE = Path(__file__).parents[1] / "docs" / "after-training.md"
COMMAND = re.compile(r"^(?:    |\$ )llmforge (\w.*)$", re.MULTILINE)


def test_commands_of_the_page_are_the_verbs_own() -> None:
    commands = COMMAND.findall(PAGE.read_text(encoding="utf-8"))
    verbs = [command.split()[0] for command in commands]
    assert verbs.count("serve") == 3
    assert verbs.count("push") == 4
    assert verbs.count("run") == 5
    assert verbs.count("fuse") >= 3
    for command in commands:
        _, rest = _parser().parse_known_args(shlex.split(command))
        assert [word for word in rest if word.startswith("-")] == [], command


def test_codes_of_the_page_are_known() -> None:
    named = set(re.findall(r"LF\d{3}", PAGE.read_text(encoding="utf-8")))
    assert {"LF914", "LF915", "LF931", "LF932"} <= named <= set(known_codes())
