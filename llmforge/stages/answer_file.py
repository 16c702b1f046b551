"""Many prompts at once: a file of them in, a file of answers out, line by line.

In: `.jsonl` (`{"prompt": ...}`, `{"messages": [...]}` or a bare text on each line; other columns go
along) or `.txt` (one prompt a line). Out: JSON lines in the prompts' order, each written as soon as
its batch is answered; a file that is there already is gone on with when it begins with the same
prompts. A prompt that cannot be answered has an `error` and no answer.

Answering is `generate.py`'s.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmforge.stages.generate import Answer, Prompt, answers, context_of, prompt_ids

Row = dict[str, Any]


class PromptsUnusable(ValueError):
    """A file of prompts, or of answers to go on with, is not what it should be."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Told:
    """What came of a file."""

    answered: int
    """Prompts that have an answer, earlier attempts included."""
    failed: int
    """Prompts that have none."""
    kept: int
    """Lines that an earlier attempt had written."""


def read_prompts(path: Path) -> list[Row]:
    """The rows of a file of prompts.

    Raises:
        PromptsUnusable: it cannot be read, is empty, or a line is no prompt; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptsUnusable(f"{path} cannot be read: {error}") from error
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise PromptsUnusable(f"{path} holds no prompts")
    if path.suffix == ".txt":
        return [{"prompt": line} for _, line in lines]
    return [_row(path, number, line) for number, line in lines]


def _row(path: Path, number: int, line: str) -> Row:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise PromptsUnusable(
            f"{path}:{number} is no JSON: {error}; a file of plain prompts ends in .txt"
        ) from error
    if isinstance(found, str):
        return {"prompt": found}
    if not isinstance(found, dict):
        raise PromptsUnusable(f"{path}:{number} is neither a text nor an object")
    if isinstance(found.get("prompt"), str):
        return found
    talk = found.get("messages")
    if isinstance(talk, list) and talk and all(_is_message(one) for one in talk):
        return found
    raise PromptsUnusable(f"{path}:{number} has no `prompt` (a text) and no `messages` (a talk)")


def _is_message(one: Any) -> bool:
    return isinstance(one, Mapping) and isinstance(one.get("role"), str) and "content" in one


def asked(row: Row) -> Prompt:
    """The prompt of a row."""
    return row["prompt"] if isinstance(row.get("prompt"), str) else row["messages"]  # type: ignore[no-any-return]


def answer_file(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    target: Path,
    generation: Mapping[str, Any],
    progress: Callable[[int], None] | None = None,
) -> Told:
    """Answer all rows into `target`, or those that it lacks.

    Args:
        model: as `llmforge.load` gives it.
        tokenizer: the model's.
        rows: see `read_prompts`.
        target: JSON lines: the row, `answer`, `tokens` and `ended` (see `Answer`); or `error`.
        generation: the section; `batch` prompts are answered at once.
        progress: told how many are done.

    Raises:
        PromptsUnusable: `target` holds something else than answers to the first of these rows.
    """
    done = _kept(target, rows)
    failed = sum("error" in line for line in done)
    batch = int(generation.get("batch", 1))
    with target.open("a", encoding="utf-8") as stream:
        for start in range(len(done), len(rows), batch):
            part = rows[start : start + batch]
            for line in _answered(model, tokenizer, part, _seeded(generation, start)):
                failed += "error" in line
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
            stream.flush()
            if progress is not None:
                progress(min(start + batch, len(rows)))
    return Told(len(rows) - failed, failed, len(done))


def _seeded(generation: Mapping[str, Any], start: int) -> dict[str, Any]:
    """So that an answer does not depend on where an earlier attempt had stopped."""
    seed = generation.get("seed")
    return {**generation, "seed": None if seed is None else int(seed) + start}


def _answered(
    model: Any, tokenizer: Any, rows: Sequence[Row], generation: Mapping[str, Any]
) -> Iterator[Row]:
    faults = [_fault(model, tokenizer, row, generation.get("system")) for row in rows]
    good = [asked(row) for row, fault in zip(rows, faults, strict=True) if fault is None]
    found: Iterator[Answer] = iter(answers(model, tokenizer, good, generation) if good else ())
    for row, fault in zip(rows, faults, strict=True):
        if fault is not None:
            yield {**row, "answer": None, "error": fault}
            continue
        one = next(found)
        yield {**row, "answer": one.text, "tokens": one.tokens, "ended": one.ended}


def _fault(model: Any, tokenizer: Any, row: Row, system: str | None) -> str | None:
    """Why a prompt cannot be answered; one bad row must not cost the others their answers."""
    try:
        ids = prompt_ids(tokenizer, asked(row), system)
    except ValueError as error:
        return str(error)
    context = context_of(model)
    if not ids:
        return "an empty prompt has nothing to continue"
    if context is not None and len(ids) >= context:
        return f"the prompt has {len(ids)} tokens and the model sees {context}"
    return None


def _kept(target: Path, rows: Sequence[Row]) -> list[Row]:
    """Answers of an earlier attempt; half a line that it left is cut off."""
    if not target.exists():
        return []
    content = target.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    lines: list[Row] = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            found = json.loads(line)
            same = number <= len(rows) and asked(found) == asked(rows[number - 1])
        except (ValueError, KeyError, TypeError, AttributeError):
            same = False
        if not same:
            raise PromptsUnusable(
                f"{target}:{number} is no answer to prompt {number}; it holds something else",
                f"rm {target}",
            )
        lines.append(found)
    if len(whole) != len(content):
        with target.open("r+b") as stream:
            stream.truncate(len(whole))
    return lines
