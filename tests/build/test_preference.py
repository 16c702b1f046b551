"""Preference tuning: the paper's loss, exact figures, a stopped run that goes on bit for bit."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from trl import DPOConfig, DPOTrainer

from llmforge.build.parts import Parts, build_parts
from llmforge.build.preference import DpoTrainer, trl_batch
from llmforge.build.preference_losses import LOSSES, Ratios, pair_numbers
from llmforge.build.trainer import build_trainer
from llmforge.compiler.passes import compile_plan
from llmforge.plan import Plan
from llmforge.run.checkpoints import Keeper
from llmforge.schema.preference import DpoSpec
from llmforge.stages.prepare import prepare

ROWS = [
    {
        "prompt": [{"role": "user", "content": f"say {number}"}],
        "chosen": [{"role": "assistant", "content": "yes " * (1 + number % 4)}],
        "rejected": [{"role": "assistant", "content": f"no {number}"}],
    }
    for number in range(24)
]
TINY = (
    "trainer=dpo", "data=jsonl", "data.train=pairs.jsonl", "data.eval_fraction=0.25",
    "data.max_overlap=null", "hardware=cpu", "tokenizer.vocabulary=300", "model.layers=2",
    "model.hidden=32", "model.intermediate=64", "model.heads=2", "model.kv_heads=2",
    "collator.max_length=64", "trainer.epochs=null", "trainer.max_steps=4",
    "trainer.global_batch=4", "trainer.beta=0.3", "tracking=none", "evaluation.every=null",
    "optimizer.lr=1e-2", "schedule=constant", "deterministic=true",
)  # fmt: skip

Made = Callable[..., tuple[Plan, Parts, DpoTrainer]]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """`made("trainer.loss=ipo")`: plan, parts and trainer over ROWS."""
    monkeypatch.chdir(tmp_path)
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def make(*more: str) -> tuple[Plan, Parts, DpoTrainer]:
        plan = compile_plan([*TINY, *more])
        parts = build_parts(plan, prepare(plan))
        trainer = build_trainer(plan, parts, tmp_path / "out", [])
        assert isinstance(trainer, DpoTrainer)
        return plan, parts, trainer

    return make


def batch_of(parts: Parts, count: int = 5) -> dict[str, Any]:
    return parts.collator([parts.train[n] for n in range(count)])


def moved(model: torch.nn.Module) -> None:
    """Away from the reference, by the same step each time."""
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn_like(weight)


def log_probability(model: Any, ids: list[int], labels: list[int]) -> torch.Tensor:
    """Of one answer, token by token from whole logits."""
    logits = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(dim=-1)
    return sum(logits[place - 1, label] for place, label in enumerate(labels) if label != -100)


def test_the_loss_is_that_of_the_paper(made: Made):
    """-log sigmoid(beta (log pi(w)/ref(w) - log pi(l)/ref(l))), Rafailov et al. 2023, eq. 7."""
    _, parts, trainer = made()
    moved(trainer.model)
    losses = []
    with torch.no_grad():
        for number in range(5):
            pair = parts.train[number]
            ratios = [
                log_probability(trainer.model, pair[ids], pair[labels])
                - log_probability(trainer.ref_model, pair[ids], pair[labels])
                for ids, labels in (
                    ("input_ids", "labels"),
                    ("rejected_input_ids", "rejected_labels"),
                )
            ]
            losses.append(-torch.nn.functional.logsigmoid(0.3 * (ratios[0] - ratios[1])))
        found = trainer.compute_loss(trainer.model, batch_of(parts))
    assert float(found) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)
    assert float(found) != pytest.approx(math.log(2), rel=1e-3)


def test_the_gradient_is_that_of_trl_run_by_hand(made: Made, tmp_path: Path):
    """Same tokens, TRL's own collator and reference: the same loss and the same gradients."""
    _, parts, trainer = made()
    moved(trainer.model)
    rows = []
    for number in range(5):
        pair = parts.train[number]
        begin = next(n for n, label in enumerate(pair["labels"]) if label != -100)
        # what stands behind the end of turn carries no loss here; TRL's answers end with it
        ends = [
            1 + max(n for n, label in enumerate(pair[labels]) if label != -100)
            for labels in ("labels", "rejected_labels")
        ]
        rows.append(
            {
                "prompt_ids": pair["input_ids"][:begin],
                "chosen_ids": pair["input_ids"][begin : ends[0]],
                "rejected_ids": pair["rejected_input_ids"][begin : ends[1]],
            }
        )
    theirs = _TokenisedDpo(
        model=copy.deepcopy(trainer.model),
        ref_model=copy.deepcopy(trainer.ref_model),
        args=DPOConfig(
            output_dir=str(tmp_path / "trl"), beta=0.3, bf16=False, use_cpu=True, report_to="none",
            gradient_checkpointing=False, max_length=None,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=parts.tokenizer,
    )  # fmt: skip
    found = trainer.compute_loss(trainer.model, batch_of(parts))
    wanted = theirs.compute_loss(theirs.model, theirs.data_collator(rows))
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-6)
    found.backward()
    wanted.backward()
    for ours, other in zip(trainer.model.parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, other.grad, rtol=1e-4, atol=1e-7)


class _TokenisedDpo(DPOTrainer):
    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        return dataset

    def _send_telemetry(self) -> None:
        pass


def test_every_loss_of_the_schema_is_there():
    assert set(LOSSES) == set(get_args(DpoSpec.model_fields["loss"].annotation))


def test_each_loss_pair_by_pair_is_trls(made: Made):
    """TRL gives the mean of a batch; pair by pair the numbers have the same mean."""
    _, parts, trainer = made()
    moved(trainer.model)
    batch = trl_batch(batch_of(parts))
    for name in LOSSES:
        trainer.loss_types = [name]
        trainer.label_smoothing = {"robust": 0.1, "exo_pair": 0.01}.get(name, 0.0)
        with torch.no_grad():
            wanted = trainer.compute_loss(trainer.model, batch)
            found = trainer._pair_numbers(trainer.model, batch)[:, 0].mean()
        assert float(found) == pytest.approx(float(wanted), rel=1e-5), name


def test_rewards_are_told_pair_by_pair():
    ratios = Ratios(*(torch.tensor(each) for each in ([2.0, -1.0], [1.0, 0.0], [3, 3], [3, 3])))
    numbers = pair_numbers(ratios, "sigmoid", 0.5, 0.0)
    assert numbers[:, 1:].tolist() == [[1.0, 0.5, 1.0, 0.5, 1.0], [-0.5, 0.0, 0.0, -0.5, 1.0]]


def test_an_evaluation_is_the_same_for_every_batch_size(made: Made):
    _, parts, trainer = made("evaluation.micro_batch=1")
    moved(trainer.model)
    alone = trainer.evaluate(parts.evaluation)
    _, parts, other = made("evaluation.micro_batch=4")
    moved(other.model)
    together = other.evaluate(parts.evaluation)
    assert together["eval_pairs"] == alone["eval_pairs"] == 6
    for name in ("loss", "rewards_chosen", "rewards_rejected", "rewards_margin"):
        assert together[f"eval_{name}"] == pytest.approx(alone[f"eval_{name}"], rel=1e-5)
        assert alone[f"eval_{name}"] != 0.0
    assert set(DpoSpec.METRICS) <= {name.removeprefix("eval_") for name in alone}


@pytest.mark.parametrize(
    "more", [("trainer.reference=precomputed",), ("lora=small", "lora.dropout=0.0")]
)
def test_other_references_give_the_figures_of_the_start(made: Made, more: tuple[str, ...]):
    """Before training policy and reference are one, wherever the reference comes from."""
    _, parts, trainer = made(*more)
    assert trainer.ref_model is None
    figures = trainer.evaluate(parts.evaluation)
    assert figures["eval_loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert figures["eval_rewards_margin"] == pytest.approx(0.0, abs=1e-5)
    trainer.train()
    assert trainer.evaluate(parts.evaluation)["eval_rewards_accuracy"] > 0.5


def test_no_second_adapter_stays(made: Made):
    _, parts, _ = made("lora=small", "lora.dropout=0.0")
    assert list(parts.model.peft_config) == ["default"]
    names = [n for n, weight in parts.model.named_parameters() if weight.requires_grad]
    assert names
    assert all(".default." in name for name in names)
    assert all(w.dtype == torch.float32 for w in parts.model.parameters() if w.requires_grad)


def test_a_precomputed_reference_is_the_copys(made: Made):
    _, parts, copied = made()
    moved(copied.model)
    _, _, beforehand = made("trainer.reference=precomputed")
    moved(beforehand.model)
    item = beforehand.train_dataset[0]
    with torch.no_grad():
        kept = copied.compute_ref_log_probs(copied.ref_model, parts.collator([parts.train[0]]))
    assert item["ref_chosen_logps"] == pytest.approx(float(kept[0]), rel=1e-5)
    assert item["ref_rejected_logps"] == pytest.approx(float(kept[1]), rel=1e-5)


def test_accumulation_leaves_the_gradient_as_it_is(made: Made):
    """Four pairs at once, or one at a time: the mean over the step's pairs."""
    weights = []
    for micro in (4, 1):
        _, _, trainer = made(f"trainer.micro_batch={micro}", "trainer.max_steps=1",
                             "optimizer=sgd", "optimizer.lr=1.0")  # fmt: skip
        trainer.train()
        weights.append([w.detach().clone() for w in trainer.model.parameters()])
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_stopped_run_goes_on_bit_for_bit(made: Made, tmp_path: Path):
    """Weights of step 4 after a resume from step 2 are those of an undisturbed run."""
    finals = []
    for resume in (False, True):
        plan, _, trainer = made("checkpoint.every=2", "checkpoint.keep=5")
        trainer.keep_with(Keeper(tmp_path / "out", plan))
        shutil.rmtree(tmp_path / "out/checkpoint-4", ignore_errors=True)
        trainer.train(resume_from_checkpoint=str(tmp_path / "out/checkpoint-2") if resume else None)
        finals.append(load_file(tmp_path / "out/checkpoint-4/model.safetensors"))
    assert finals[0].keys() == finals[1].keys()
    assert all(torch.equal(finals[0][name], finals[1][name]) for name in finals[0])
    assert not (tmp_path / "out/README.md").exists()


def test_the_journal_has_names_of_its_own(made: Made):
    _, _, trainer = made()
    trainer.train()
    told = [line for line in trainer.state.log_history if "loss" in line]
    for name in ("rewards_chosen", "rewards_rejected", "rewards_accuracy", "rewards_margin"):
        assert all(name in line for line in told)
    assert not any("/" in name for line in told for name in line)
