"""Models come back as they were trained: full, adapters, checkpoints, packed, merged, switched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llmforge.build.load import save_final
from llmforge.build.loading import is_packed, load_place
from llmforge.build.parts import build_parts
from llmforge.build.places import NotLoadable, base_identity
from llmforge.build.trainer import build_trainer
from llmforge.refs import Place
from llmforge.run import checkpoints, outcome
from llmforge.run.checkpoints import Keeper
from llmforge.run.folder import RunFolder
from llmforge.stages.prepare import prepare

FOUR_BIT = {
    "kind": "bitsandbytes", "when": "load", "bits": 4, "quant_type": "nf4", "double_quant": True,
    "int8_threshold": None, "int8_fp16_weight": None,
}  # fmt: skip


@pytest.fixture
def trained(make_plan, settings, checkpoint, tmp_path: Path):
    """`trained("lora", "folder")`: plan, run folder with a final model, and the trainer."""

    def make(adapter: str, source: str, seed: int = 7, **changes: Any):
        changes = {
            "seed": seed, "paths.runs": str(tmp_path / "runs"), "collator.max_length": 128,
            "name": f"{adapter}-{source}-{seed}", **changes,
        }  # fmt: skip
        if source == "folder":
            changes |= settings.folder_model(checkpoint("llama"))
        if adapter != "full":
            changes["lora"] = settings.LORA | {"dora": adapter == "dora"}
        plan = make_plan(changes)
        if adapter == "dora":
            plan.lowered["lora_config"]["use_dora"] = True
        parts = build_parts(plan, prepare(plan))
        run = RunFolder.create(plan)
        trainer = build_trainer(plan, parts, run.checkpoint_folder, [])
        trainer.keep_with(Keeper(run.checkpoint_folder, plan))
        trainer.train()
        trainer._save_checkpoint(trainer.model, trial=None)
        save_final(plan, trainer, run.model)
        outcome.write_manifest(run)
        return plan, run, trainer

    return make


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    ids = tokenizer("What comes after 1? 2 comes after 1.", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model.eval()(ids).logits


def final(plan: Any, run: RunFolder) -> Place:
    return Place(run.model, run.run_id, run, plan)


def at_step(plan: Any, run: RunFolder) -> Place:
    (found,) = checkpoints.scan(run.checkpoint_folder)
    return Place(found.path, f"{run.run_id}, step {found.step}", run, plan, found.step)


@pytest.mark.parametrize("source", ["folder", "scratch"])
@pytest.mark.parametrize("adapter", ["full", "lora", "dora"])
def test_the_final_model_and_the_checkpoint_are_the_trained_one(trained, adapter, source):
    plan, run, trainer = trained(adapter, source)
    expected = logits(trainer.model, trainer.processing_class)

    for place in (final(plan, run), at_step(plan, run)):
        model, tokenizer = load_place(place)
        assert not model.training
        assert not any(weight.requires_grad for weight in model.parameters()) or adapter == "full"
        assert torch.equal(logits(model, tokenizer), expected)
        assert tokenizer.chat_template == trainer.processing_class.chat_template


def test_a_checkpoint_over_a_random_base_needs_no_final_model(trained):
    """Killed before the end: the base was never written, and is drawn again with the run's seed."""
    import shutil

    plan, run, trainer = trained("lora", "scratch")
    expected = logits(trainer.model, trainer.processing_class)
    shutil.rmtree(run.model)

    assert torch.equal(logits(*load_place(at_step(plan, run))), expected)


def test_what_is_trained_whole_keeps_its_format(trained, settings):
    """A head trained in float32 beside a 16-bit base comes back unrounded."""
    plan, run, trainer = trained(
        "full", "scratch",
        lora=settings.LORA | {"modules_to_save": ["lm_head"]},
        **{"model.tie_embeddings": False, "precision.weights": "bfloat16",
           "precision.compute": "bfloat16"},
    )  # fmt: skip
    head = trainer.model.get_base_model().lm_head.modules_to_save["default"].weight
    assert head.dtype == torch.float32
    for place in (final(plan, run), at_step(plan, run)):
        model, _ = load_place(place)
        found = model.get_base_model().lm_head.modules_to_save["default"].weight
        assert torch.equal(found, head)


def test_an_adapter_is_merged(trained):
    plan, run, trainer = trained("lora", "folder")
    model, tokenizer = load_place(final(plan, run), merge=True)
    assert not hasattr(model, "peft_config")
    expected = logits(trainer.model, trainer.processing_class)
    assert torch.allclose(logits(model, tokenizer), expected, atol=1e-4)


def test_what_cannot_be_merged(trained, settings):
    plan, run, _ = trained("lora", "folder")
    with pytest.raises(NotLoadable, match="is quantized: merging would round"):
        load_place(final(plan, run), quantization=FOUR_BIT, merge=True)
    plan, run, _ = trained("full", "folder", 8)
    with pytest.raises(NotLoadable, match="no adapter to merge"):
        load_place(final(plan, run), merge=True)


def test_a_base_is_packed_on_request(trained):
    plan, run, trainer = trained("lora", "folder")
    packed, tokenizer = load_place(final(plan, run), quantization=FOUR_BIT)
    assert is_packed(packed)
    assert any("4bit" in type(module).__name__ for module in packed.modules())
    expected = logits(trainer.model, trainer.processing_class)
    found = logits(packed, tokenizer)
    assert not torch.equal(found, expected)
    assert torch.nn.functional.cosine_similarity(
        found.flatten().float(), expected.flatten(), dim=0
    ) > 0.9  # fmt: skip


def test_adapters_are_switched_by_name(trained):
    plan, run, one = trained("lora", "folder", 7)
    other_plan, other_run, other = trained("lora", "folder", 8, **{"optimizer.lr": 0.05})
    model, tokenizer = load_place(
        final(plan, run), adapters={"french": final(other_plan, other_run)}
    )
    mine, theirs = (logits(t.model, t.processing_class) for t in (one, other))
    assert not torch.equal(mine, theirs)
    assert torch.equal(logits(model, tokenizer), mine)
    model.set_adapter("french")
    assert torch.equal(logits(model, tokenizer), theirs)
    model.set_adapter("default")
    assert torch.equal(logits(model, tokenizer), mine)


def test_an_adapter_of_another_base_is_refused(trained):
    plan, run, _ = trained("lora", "folder")
    drawn = trained("lora", "scratch", 7)[:2]
    drawn_anew = trained("lora", "scratch", 8)[:2]
    assert base_identity(final(*drawn)) != base_identity(final(*drawn_anew))
    for other in (drawn, drawn_anew):
        with pytest.raises(NotLoadable, match="trained over another base") as caught:
            load_place(final(plan, run), adapters={"other": final(*other)})
        assert len(caught.value.notes) == 2
    with pytest.raises(NotLoadable, match="cannot name an adapter"):
        load_place(final(plan, run), adapters={"default": final(plan, run)})


def test_a_base_that_is_gone(trained, tmp_path: Path):
    _, run, _ = trained("lora", "folder")
    config = run.model / "adapter_config.json"
    known = json.loads(config.read_text())
    known["base_model_name_or_path"] = str(tmp_path / "gone")
    config.write_text(json.dumps(known))
    with pytest.raises(FileNotFoundError, match="needs its base model"):
        load_place(Place(run.model, "alone"))
