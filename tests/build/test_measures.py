"""Metrics on logits and on text: sums over batches, and one figure of the sums."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

torch = pytest.importorskip("torch")

from llmforge.build.measures import (  # noqa: E402 - needs torch
    LogitsMetric,
    Measures,
    TextMetric,
    text_figures,
)

# three samples of four tokens; -100 carries no loss
LABELS = torch.tensor([[-100, 1, 2, 3], [-100, -100, 1, 1], [-100, 2, -100, 0]])
# what is said of the next token: row t of the logits stands for label t + 1
SAID = torch.tensor([[1, 2, 0, 9], [5, 1, 0, 9], [2, 2, 0, 9]])
LOGITS = torch.nn.functional.one_hot(SAID, 10).float()
SETS = torch.tensor([0, 1, 1])


class Accuracy(LogitsMetric):
    def measure(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        trained = labels != -100
        right = (logits.argmax(dim=-1) == labels) & trained
        return torch.stack([right.sum(dim=1), trained.sum(dim=1)], dim=1)

    def compute(self, sums: Sequence[float]) -> float:
        return sums[0] / sums[1]


class Samples(LogitsMetric):
    def measure(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        del logits
        return torch.ones(len(labels))

    def compute(self, sums: Sequence[float]) -> float:
        return sums[0]


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_the_figures_are_those_of_all_samples(batch: int) -> None:
    measures = Measures({"accuracy": Accuracy(), "samples": Samples()}, ("first", "second"))
    for start in range(0, 3, batch):
        place = slice(start, start + batch)
        measures.add(measures.of_batch(LOGITS[place], LABELS[place]), SETS[place])
    assert measures.figures() == {
        "eval_accuracy": 5 / 7,
        "eval_samples": 3,
        "eval_first_accuracy": 2 / 3,
        "eval_first_samples": 1,
        "eval_second_accuracy": 3 / 4,
        "eval_second_samples": 2,
    }
    measures.reset()
    assert measures.figures() == {}


def test_one_set_has_one_figure() -> None:
    measures = Measures({"accuracy": Accuracy()}, ("default",))
    measures.add(measures.of_batch(LOGITS, LABELS), torch.zeros(3))
    assert measures.figures("test") == {"test_accuracy": 5 / 7}


@pytest.mark.parametrize("given", [torch.tensor(3.0), torch.ones(2), torch.ones(3, 1, 1)[:1]])
def test_a_metric_that_does_not_speak_of_samples(given: torch.Tensor) -> None:
    class Odd(Samples):
        def measure(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            del logits, labels
            return given

    with pytest.raises(ValueError, match=r"metric `odd` gives .* for 3 samples"):
        Measures({"odd": Odd()}).of_batch(LOGITS, LABELS)


def test_a_metric_that_changes_its_width() -> None:
    class Odd(Samples):
        def measure(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            del logits
            return torch.ones(len(labels), len(labels))

    measures = Measures({"odd": Odd()})
    measures.of_batch(LOGITS, LABELS)
    with pytest.raises(ValueError, match="gives 2 numbers per sample, and gave 3 before"):
        measures.of_batch(LOGITS[:2], LABELS[:2])


class Ratio(TextMetric):
    def measure(self, prompt: str, answer: str, reference: str) -> Sequence[float]:
        del prompt
        return len(answer) / len(reference), 1

    def compute(self, sums: Sequence[float]) -> float:
        return sums[0] / sums[1]


def test_text() -> None:
    asked = [
        {"prompt": "?", "answer": "four", "reference": "four"},
        {"prompt": "?", "answer": "", "reference": "five"},
    ]
    metrics = {"ratio": Ratio(), "accuracy": Accuracy()}
    assert text_figures(metrics, asked) == {"eval_ratio": 0.5}
    assert text_figures(metrics, []) == {}


def test_text_of_uneven_rows() -> None:
    class Odd(Ratio):
        def measure(self, prompt: str, answer: str, reference: str) -> Sequence[float]:
            del prompt, reference
            return [1.0] * len(answer)

    asked = [{"prompt": "", "answer": answer, "reference": ""} for answer in ("a", "bc")]
    with pytest.raises(ValueError, match="rows of different lengths"):
        text_figures({"odd": Odd()}, asked)
