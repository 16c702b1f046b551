"""What a hint offers divides: batches over processes, processes over the batch."""

from __future__ import annotations

import pytest

from llmforge.compiler.passes import check

SMALL = ("model=tiny_llama", "hardware=h200")


def hints(code: str, *words: str) -> list[str | None]:
    return [d.hint for d in check([*SMALL, *words]).diagnostics if d.code == code]


@pytest.mark.parametrize(
    ("code", "words", "hint"),
    [
        (
            "LF405",
            ("hardware.count=6", "launch=torchrun", "launch.processes=8"),
            "launch.processes=4",
        ),
        (
            "LF405",
            (
                "hardware.count=6",
                "launch=torchrun",
                "launch.processes=8",
                "trainer.global_batch=24",
            ),
            "launch.processes=6",
        ),
        (
            "LF452",
            ("hardware.count=8", "launch=torchrun", "launch.nodes=2", "launch.processes=15"),
            "launch.processes=8",
        ),
        ("LF232", ("+trainer.extra.per_device_train_batch_size=3",), None),
        (
            "LF232",
            ("trainer.micro_batch=32", "+trainer.extra.gradient_accumulation_steps=4"),
            "trainer.accumulation=4 trainer.micro_batch=auto",
        ),
    ],
    ids=str,
)
def test_what_is_offered_divides(code: str, words: tuple[str, ...], hint: str | None) -> None:
    assert hints(code, *words) == [hint]


def test_a_batch_for_few_rows_divides_over_the_processes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1", "completion": "2"}\n' * 24)
    words = ("data=jsonl", "data.train=rows.jsonl", "data.eval_fraction=0", "evaluation=end")
    two = (*words, "hardware.count=2", "launch=torchrun", "trainer.global_batch=64")

    assert hints("LF207", *two) == ["trainer.global_batch=2"]
    assert hints("LF207", *two, "trainer.micro_batch=16", "trainer.accumulation=2") == [None]
