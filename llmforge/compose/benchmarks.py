"""Benchmark tasks before they are run: is lm-eval there, are the tasks, and would they run code?

In: the words behind `--tasks`: names of lm-eval's own tasks, or folders with task files of one's
own. Out: findings (LF225-LF227). Task files are read as YAML events and never loaded: lm-eval's own
loader imports the functions that they name.

Whether lm-eval has a task of a name is known in the worker, which imports it (LF841).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from llmforge.diagnostics import Diagnostic

EXTRA = "benchmarks"
INSTALL = "pip install 'llmforge[benchmarks]'"

_CODE_KEYS = {
    "class": "a Python class",
    "hf_evaluate": "a metric that is downloaded with its code",
    "unsafe_code": "code that the model writes",
}
"""Keys of a task file that lead to code, beside the tag `!function`."""


@dataclass(frozen=True)
class Runs:
    """Something in a task file that runs code."""

    file: Path
    line: int
    what: str


def check_tasks(tasks: Sequence[str], trusted: bool) -> list[Diagnostic]:
    """What is wrong with the tasks.

    Args:
        tasks: names or folders.
        trusted: the user said that code of task files may run.
    """
    found = []
    if importlib.util.find_spec("lm_eval") is None:
        found.append(
            Diagnostic(
                "LF225", "benchmark tasks need lm-eval, which is not installed", hint=INSTALL
            )
        )
    for task in tasks:
        if not is_folder(task):
            continue
        folder = Path(task)
        if not folder.is_dir():
            found.append(Diagnostic("LF227", f"task folder {task} does not exist"))
        elif not any(folder.rglob("*.yaml")):
            message = f"{task} holds no task file (*.yaml)"
            found.append(Diagnostic("LF227", message))
        elif not names_in(folder):
            found.append(Diagnostic("LF227", f"the files of {task} define no task"))
        elif not trusted:
            found += [_runs_code(one) for one in code_of(folder)]
    return found


def is_folder(task: str) -> bool:
    """Does the word mean a folder? Names of tasks have no slash in them."""
    return "/" in task or task.startswith(".") or Path(task).is_dir()


def names_in(folder: Path) -> list[str]:
    """Names of the tasks and groups that the files of a folder define, by their file names."""
    found = []
    for path in sorted(folder.rglob("*.yaml")):
        for keys, value, _, _ in _scalars(path):
            if keys in (("task",), ("group",)):
                found.append(value)
    return found


def code_of(folder: Path) -> list[Runs]:
    """Everything in a folder's task files, and in those they include, that runs code."""
    found: list[Runs] = []
    seen: set[Path] = set()
    waiting = sorted(folder.rglob("*.yaml"))
    while waiting:
        path = waiting.pop(0).resolve()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        for keys, value, tag, line in _scalars(path):
            if tag == "!function":
                found.append(Runs(path, line, f"`!function {value}`"))
            elif keys and keys[-1] in _CODE_KEYS and value.lower() != "false":
                found.append(Runs(path, line, f"`{keys[-1]}`, {_CODE_KEYS[keys[-1]]}"))
            elif "include" in keys:
                waiting.append(path.parent / value)
    return found


def _runs_code(one: Runs) -> Diagnostic:
    return Diagnostic(
        "LF226",
        f"task file {one.file.name} runs code: {one.what}",
        notes=(f"in {one.file}:{one.line}", "it would run on this machine, with your rights"),
        hint="--trust-task-code",
    )


def _scalars(path: Path) -> Iterator[tuple[tuple[str, ...], str, str | None, int]]:
    """Keys above, text, tag and line of every scalar of a YAML file; nothing is constructed.

    What is no YAML ends the file: lm-eval passes such files over.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError):
        return
    if root is not None:
        yield from _walk(root, ())


def _walk(
    node: yaml.Node, keys: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], str, str | None, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _walk(value, (*keys, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _walk(value, keys)
    elif isinstance(node, yaml.ScalarNode):
        yield keys, str(node.value), node.tag, node.start_mark.line + 1
