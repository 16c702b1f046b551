"""`docs/conflicts.md`: every command is refused with its code, and its hints are then accepted."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from llmforge.codes import known_codes
from llmforge.compiler.passes import check
from llmforge.diagnostics import Diagnostic

PAGE = Path(__file__).parents[1] / "docs" / "conflicts.md"

ROW = re.compile(r"^\| ([^|]+) \| ([^|]+) \| (LF\d{3}) \| `([^`]+)` \|$", re.MULTILINE)
ROWS = [match.groups() for match in ROW.finditer(PAGE.read_text(encoding="utf-8"))]

WITHOUT = re.compile(r" \(without ([\w-]+)\)$")


@pytest.fixture
def folder(work: Path, checkpoint: Callable[..., Path]) -> Path:
    """What the page says the folder holds."""
    checkpoint(work / "tiny")
    checkpoint(work / "tied", tie_word_embeddings=True)
    quantized = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    checkpoint(work / "gptq", quantization_config=quantized)
    vocabulary = {"a": 0, "b": 1}
    write(work / "tiny/tokenizer.json", {"model": {"vocab": vocabulary}, "added_tokens": []})
    mark = {"id": 2, "content": "<|im_start|>"}
    write(work / "chat/tokenizer.json", {"model": {"vocab": vocabulary}, "added_tokens": [mark]})
    write(work / "adapter/adapter_config.json", {"base_model_name_or_path": "tiny"})
    for name, count in (("rows", 300), ("held_out", 20)):
        text = '{"text": "How many legs has a spider? 8"}\n' * count
        (work / f"{name}.jsonl").write_text(text, encoding="utf-8")
    (work / "empty.jsonl").touch()
    adamw = {"optimizer_name": "AdamW", "learning_rate": 2e-5, "gradient_clip": 1.0}
    write(work / "adamw.json", {**adamw, "weight_dacay": 0.04})
    lora = {"lora_r": 8, "lora_alpha": 32, "bias": "none", "task_type": "CAUSAL_LM"}
    write(work / "lora.json", {**lora, "lora_droput": 0.1, "target_modules": ["q_proj"]})
    write(work / "neox.json", {**lora, "lora_dropout": 0.1, "target_modules": ["query_key_value"]})
    return work


def write(path: Path, values: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def pasted(overrides: Sequence[str], findings: Sequence[Diagnostic]) -> list[str] | None:
    """The command with the hints of its findings in place of what they correct.

    None where a hint is something to do outside the command line, or to fill in.
    """
    words: list[str] = []
    for hint in (finding.hint for finding in findings):
        if hint is None or "<" in hint or not re.match(r"'?[\w.]+=", hint):
            return None
        words += shlex.split(hint)
    corrected = {key_of(word) for word in words}
    wrong = {finding.key for finding in findings if finding.code == "LF101"}
    kept = [word for word in overrides if key_of(word) not in corrected | wrong]
    return [*kept, *words]


@pytest.mark.parametrize(
    ("row", "what", "code", "command"), ROWS, ids=lambda text: text if len(text) < 24 else ""
)
def test_a_command_of_the_page(
    row: str, what: str, code: str, command: str, folder: Path, everything_installed: dict[str, str]
) -> None:
    if missing := WITHOUT.search(command):
        del everything_installed[missing[1]]
    overrides = shlex.split(WITHOUT.sub("", command))

    findings = check(overrides).diagnostics

    told = [finding for finding in findings if finding.code == code]
    assert told, f"{[f'{f.code}: {f.message}' for f in findings]}"
    assert all(finding.hint for finding in told) or code in NO_CURE, "a refusal says what helps"
    better = pasted(overrides, [f for f in findings if f.is_error or f.code == code])
    if better is not None:
        after = check(better).diagnostics
        assert [f.message for f in after if f.is_error or f.code == code] == [], better


NO_CURE = {"LF102"}
"""`optimizer=none` resembles no option, so nothing can be guessed."""


def test_most_hints_can_be_pasted(folder: Path, everything_installed: dict[str, str]) -> None:
    """The test above would be empty if they could not."""
    can = 0
    for _, _, code, command in ROWS:
        overrides = shlex.split(WITHOUT.sub("", command))
        findings = [f for f in check(overrides).diagnostics if f.is_error or f.code == code]
        can += bool(findings) and pasted(overrides, findings) is not None
    assert can > 0.7 * len(ROWS)


def test_every_row_of_the_seeds_is_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    wanted = [
        *(f"XB{number:02}" for number in range(1, 19)),
        *(f"SB{number:02}" for number in range(1, 10)),
        *(f"VB{number:02}" for number in range(1, 11)),
        "N06", "U23",
    ]  # fmt: skip
    assert [row for row in wanted if row not in text] == []
    assert len(ROWS) > 55


def test_codes_of_the_page_are_known() -> None:
    assert {code for _, _, code, _ in ROWS} <= set(known_codes())
