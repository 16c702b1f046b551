"""`llmforge evaluate --run`: a finished run measured again, on other rows and by other weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llmforge.cli import main
from llmforge.plan import Plan
from llmforge.run import journal
from llmforge.run.folder import RunFolder


@pytest.fixture
def finished(tiny: Callable[..., Plan]) -> RunFolder:
    plan = tiny("tracking=none", "checkpoint.keep=9")
    outcome = plan.run(quiet=True)
    assert outcome.exit_code == 0, outcome.diagnostic
    return RunFolder(outcome.folder)


def rows(path: Path, count: int) -> Path:
    with path.open("w") as out:
        for number in range(count):
            talk = [
                {"role": "user", "content": f"What is {number} and {number}?"},
                {"role": "assistant", "content": str(2 * number)},
            ]
            out.write(json.dumps({"messages": talk}) + "\n")
    return path


def figures(run: RunFolder, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((run.path / "evaluations" / f"{name}.json").read_text())
    return found


def test_the_same_rows_other_rows_and_another_checkpoint(finished: RunFolder, work: Path, capfd):
    run, ref = finished, ["evaluate", "--run", str(finished.path)]
    before = {p.name: p.read_bytes() for p in run.path.iterdir() if p.suffix == ".json"}
    result = run.result()
    assert result is not None

    assert main([*ref, "--name", "again"]) == 0
    again = figures(run, "again")
    for key in ("eval_loss", "eval_tokens", "exact_match", "samples"):
        assert again[key] == pytest.approx(result[key]) if key != "samples" else result[key], key
    assert (again["checkpoint"], again["step"]) == ("final", 12)

    other = rows(work / "other.jsonl", 6)
    asked = ["data=jsonl", f"data.evaluation={other}", "metrics.token_accuracy.kind=token_accuracy"]
    assert main([*ref, *asked, "evaluation.exact_match_rows=6"]) == 0
    found = figures(run, "1")
    assert found["exact_match_rows"] == 6
    assert found["eval_loss"] != result["eval_loss"]
    assert 0 <= float(str(found["eval_token_accuracy"])) <= 1

    assert main([*ref, "--checkpoint", "4"]) == 0
    early = figures(run, "2")
    assert (early["checkpoint"], early["step"]) == ("4", 4)
    assert float(str(early["eval_loss"])) > float(str(again["eval_loss"]))

    assert journal.history(run.journal)["evaluations/2/eval_loss"] == {4: early["eval_loss"]}
    after = {name: (run.path / name).read_bytes() for name in before}
    changed = {name for name in before if before[name] != after[name]} - {"environment.json"}
    assert changed <= {"status.json"}  # its time of writing
    assert run.status().value == "FINISHED".lower() or run.status().name == "FINISHED"

    capfd.readouterr()
    for words, code, hint in (
        (["lora=small"], "LF224", "llmforge train lora=small"),
        (["trainer.max_steps=3"], "LF224", "llmforge train trainer.max_steps=3"),
        (["--name", "again"], "LF228", "--name 3"),
        (["--checkpoint", "5"], "LF809", "--checkpoint 4"),
        (["data.eval_fraction=0"], "LF228", "data.evaluation=<file>"),
    ):
        assert main([*ref, *words]) == 2, words
        told = capfd.readouterr().err
        assert f"error[{code}]" in told, told
        assert f"hint: {hint}" in told, told


def test_flags_of_a_run_need_a_run(work: Path, capfd):
    assert main(["evaluate", "--checkpoint", "best", "hardware=cpu"]) == 2
    assert "hint: --run last" in capfd.readouterr().err
