"""Every hostile file through the command line: told with code, place, sample and fix, or accepted.

A hundred files are read by one command: each is a source of a mix, and one refusal has to tell of
all of them. A file of each kind is read by itself as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from corpus_cases import Case

Command = Callable[[str], Any]
"""The fixture `llmforge`: code, out and err of one command."""

# what nobody can read on from: no allowance of bad rows covers it
ENDS = {
    "pretty.jsonl", "list_of_rows.jsonl", "page.jsonl", "latin1.jsonl", "windows.jsonl",
    "koi8.jsonl", "utf16.jsonl", "utf16le.jsonl", "utf16be.jsonl", "utf32.jsonl",
    "latin1_late.jsonl", "columns.jsonl", "open.json", "cut.json", "trailing.json",
    "no_comma.json", "extra.json", "nul.json", "lists.json", "scalar.json", "latin1.json",
    "utf16.json", "swallow.csv", "mac.csv", "latin1.csv", "utf16.csv", "latin1.txt", "utf16.txt",
    "binary.parquet",
}  # fmt: skip

NUMBERED = {"prompt": "1", "completion": "2"}
"""Columns of a file without a header, so that its rows are looked at."""


def source(case: Case) -> dict[str, Any]:
    """The case as a source of a mix."""
    kind, *settings = case.overrides
    made: dict[str, Any] = {"kind": kind.removeprefix("data=")}
    if made["kind"] == "tsv":
        made |= {"kind": "csv", "delimiter": "\t"}
    for setting in settings:
        key, _, value = setting.removeprefix("data.").partition("=")
        made[key] = {"null": None, "false": False}.get(value, value.strip('"'))
    if "header" in made:
        made["fields"] = NUMBERED
    return made


@pytest.fixture
def mix(
    corpus: tuple[Path, list[Case]],
    llmforge: Command,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., tuple[Any, dict[str, Case]]]:
    """`mix("check", cases)`: one command over many cases; returns them by the source's name."""
    monkeypatch.chdir(corpus[0])

    def run(verb: str, cases: Sequence[Case], *more: str) -> tuple[Any, dict[str, Case]]:
        named = {f"case{number}": case for number, case in enumerate(cases)}
        sources = {name: source(case) for name, case in named.items()}
        option = work / "conf" / "experiment" / "corpus.yaml"
        option.parent.mkdir(parents=True, exist_ok=True)
        body = json.dumps({"defaults": [{"override /data": "mix"}], "data": {"sources": sources}})
        option.write_text(f"# @package _global_\n# The corpus.\n{body}\n", encoding="utf-8")
        words = (verb, f"--config-dir {work}/conf", "experiment=corpus",
                 f"paths.cache={work}/.llmforge", "hardware=cpu", *more)  # fmt: skip
        return llmforge(" ".join(words)), named

    return run


def by_source(output: str) -> dict[str, list[dict[str, Any]]]:
    """Errors of `--format json` by the source that they blame."""
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in json.loads(output)["findings"]:
        if finding["severity"] == "error":
            assert finding["key"].startswith("data.sources."), finding
            found.setdefault(finding["key"].split(".")[2], []).append(finding)
    return found


def check(case: Case, findings: list[dict[str, Any]]) -> None:
    """Are these the findings that the case asks for?"""
    first = findings[0]
    message, hint, notes = first["message"], first["hint"], first["notes"]
    assert first["code"] == case.code
    assert message.isprintable()
    assert all(note.isprintable() for note in notes)
    if case.place is None:
        assert hint or notes, "what can be done"
        if case.checked_by != "command":
            assert case.file in message
        return
    assert message.partition(" ")[0].rstrip(":,") == case.place
    assert hint, "what can be done"
    assert any(note.startswith(("it reads: ", "columns there: ")) for note in notes), "a sample"
    if "sed -n" in hint:
        line = hint.partition("sed -n ")[2].split("p ")[0]
        assert f"sed -n {line}p {case.file}" in hint


def test_every_hostile_file_is_told_by_one_command(
    corpus: tuple[Path, list[Case]], mix: Callable[..., Any]
) -> None:
    ran, named = mix("check", [case for case in corpus[1] if case.code], "--format json")

    assert ran.code == 2
    found = by_source(ran.out)
    assert {named[name].file for name in named.keys() - found.keys()} == set(), "not refused"
    wrong = []
    for name, case in named.items():
        try:
            check(case, found[name])
        except AssertionError as error:
            wrong.append(
                f"{case.file} ({case.words}): {error}\n{json.dumps(found[name], indent=1)}"
            )
    assert not wrong, "\n\n".join(wrong)
    assert len(named) > 100


def test_files_that_only_look_hostile_are_accepted(
    corpus: tuple[Path, list[Case]], mix: Callable[..., Any]
) -> None:
    ran, named = mix("plan", [case for case in corpus[1] if not case.code], "--json")

    assert ran.code == 0, ran.err
    assert "LF5" not in ran.err
    sources = json.loads(ran.out)["facts"]["data"]["sources"]
    for name, case in named.items():
        (part,) = sources[name]["train"]
        assert (case.file, part["rows"], part["dropped"]) == (case.file, case.good, {})


def test_single_faulty_rows_may_be_left_out_and_are_counted(
    corpus: tuple[Path, list[Case]], mix: Callable[..., Any]
) -> None:
    cases = [case for case in corpus[1] if case.place and case.file not in ENDS]
    ran, named = mix("plan", cases, "--json", "data.max_bad_rows=100%")

    assert ran.code == 0, ran.err
    bad, good = sum(case.bad for case in cases), sum(case.good for case in cases)
    assert f"warning[LF512]: {bad} of {bad + good} rows cannot be used and are left out" in ran.err
    assert "error" not in ran.err
    sources = json.loads(ran.out)["facts"]["data"]["sources"]
    for name, case in named.items():
        (part,) = sources[name]["train"]
        counts = part["rows"], part["dropped"]
        assert (case.file, *counts) == (case.file, case.good, {"bad": case.bad})
    assert len(named) > 50


def test_no_allowance_covers_a_file_that_cannot_be_read_on(
    corpus: tuple[Path, list[Case]], mix: Callable[..., Any]
) -> None:
    cases = [case for case in corpus[1] if case.file in ENDS]
    ran, named = mix("check", cases, "data.max_bad_rows=null", "--format json")

    assert ran.code == 2
    assert {case.file for case in named.values()} == ENDS
    assert by_source(ran.out).keys() == named.keys()
    assert "max_bad_rows" not in ran.out, "no hint that would not help"


@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("control.jsonl", "control.jsonl:2, column 56"),
        ("latin1.json", "latin1.json:2"),
        ("quote.csv", "quote.csv:4"),
        ("ragged.tsv", "ragged.tsv:3"),
        ("nul_paragraph.txt", "nul_paragraph.txt:3"),
        ("latin1.parquet", "latin1.parquet:2"),
        ("cut.arrow", "cut.arrow"),
        ("chat_role.jsonl", "chat_role.jsonl:2"),
        ("saved_state", "saved_state"),
        ("text.db", "the database sqlite:///text.db"),
        ("down", "the database postgresql+psycopg://nobody@127.0.0.1:9/chats"),
    ],
)
def test_a_file_of_each_kind_by_itself(
    file: str,
    place: str,
    corpus: tuple[Path, list[Case]],
    llmforge: Command,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, cases = corpus
    (case,) = (case for case in cases if case.file == file)
    monkeypatch.chdir(folder)
    overrides = " ".join(f"'{override}'" for override in case.overrides)

    ran = llmforge(f"check {overrides} paths.cache={work}/.llmforge")

    assert ran.code == 2
    assert ran.err.startswith(f"error[{case.code}]: {place}")
    assert "\nhint: " in ran.err
    assert ran.err.endswith("1 error; nothing was started\n")
    printed = ran.err.replace("\n", "")
    assert printed.isprintable(), "nothing that would colour a terminal"
