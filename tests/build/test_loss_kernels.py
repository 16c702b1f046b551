"""The lean loss is the model's own, for every family, and never holds whole logits."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import AdaLoraConfig, LoraConfig, PromptTuningConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM

from llmforge.build import loss_kernels
from llmforge.build.loss import token_nll
from llmforge.build.loss_kernels import FINISH, LeanLoss

VOCABULARY = 128
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "n_embd": 32,
    "n_layer": 2, "n_head": 4, "n_positions": 64, "n_inner": 48, "num_layers": 2, "num_heads": 4,
    "ffn_dim": 48, "word_embed_proj_dim": 16, "num_experts": 4, "num_local_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 16, "rotary_dim": 4,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "gemma2": {"final_logit_softcapping": 2.0},
    "gemma3_text": {"final_logit_softcapping": 2.0},
    "cohere": {"logit_scale": 0.5},
    "cohere2": {"logit_scale": 0.5},
    "granite": {"logits_scaling": 3.0},
    "phi": {"num_key_value_heads": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 4},
}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
          "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip


def sizes(family: str) -> dict[str, Any]:
    if family == "gemma3":
        text = {name: SIZES[name] for name in list(SIZES)[:10]}
        return {"text_config": text, "vision_config": VISION, "mm_tokens_per_image": 4}
    own = AutoConfig.for_model(family)
    known = {*own.to_dict(), *own.attribute_map}
    found = {name: value for name, value in SIZES.items() if name in known}
    if family in ("gpt_neo", "gpt_neox", "opt"):
        found.pop("num_key_value_heads", None)
    if family == "gpt_neo":
        found.pop("num_hidden_layers", None)
    return found | OWN.get(family, {})


def tiny(family: str = "llama", **more: Any) -> Any:
    """Two layers, weights large enough for losses and gradients that tell."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(sizes(family) | more))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim >= 2:
                weight.mul_(4)
    return model


def batch(masked: float = 0.4) -> dict[str, torch.Tensor]:
    """Three rows of eleven tokens, of which some carry no label."""
    torch.manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (3, 11))
    labels = ids.masked_fill(torch.rand(3, 11) < masked, -100)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def gradients(model: Any, inputs: dict[str, Any], kernel: str = "full", **keywords: Any) -> Any:
    """The loss of one forward pass, and the gradient of every weight that is trained."""
    model.zero_grad()
    if kernel == "full":
        loss = model(**inputs).loss
    else:
        lean = LeanLoss(model, kernel, **keywords)
        with lean.in_force():
            loss = model(**inputs).loss
    loss.backward()
    found = {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}
    return loss.detach(), found


def assert_same(one: Any, other: Any, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(one[0], other[0], rtol=tolerance, atol=tolerance)
    assert one[1].keys() == other[1].keys()
    assert max(gradient.abs().max() for gradient in one[1].values()) > 1e-3
    largest = max(gradient.abs().max().item() for gradient in one[1].values())
    for name, gradient in one[1].items():
        wrong = (gradient - other[1][name]).abs().max().item()
        assert wrong <= tolerance * largest, f"{name}: off by {wrong} of {largest}"


@pytest.fixture(autouse=True)
def chunks_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_kernels, "CHUNK_BYTES", 4 * 4 * VOCABULARY)
    monkeypatch.setattr(loss_kernels, "LEAST_TOKENS", 1)


class TestSameAsTheModelsOwn:
    @pytest.mark.parametrize("family", sorted(FINISH))
    def test_every_family(self, family):
        model = tiny(family)
        model.eval()  # no dropout: the two would draw different numbers
        items = torch.tensor(31)  # of a whole accumulated batch
        inputs = batch() | {"num_items_in_batch": items}
        assert_same(gradients(model, inputs), gradients(model, inputs, "chunked"))

    def test_a_mean_over_its_own_tokens(self):
        model = tiny()
        assert_same(gradients(model, batch()), gradients(model, batch(), "chunked"))

    @pytest.mark.parametrize("tied", [True, False])
    def test_tied_and_untied(self, tied):
        model = tiny(tie_word_embeddings=tied)
        assert_same(gradients(model, batch()), gradients(model, batch(), "chunked"))

    def test_terms_of_experts_stay(self):
        model = tiny("mixtral", output_router_logits=True, router_aux_loss_coef=5.0)
        with_term = gradients(model, batch(), "chunked")
        assert_same(gradients(model, batch()), with_term)
        model.config.output_router_logits = False
        plain = gradients(tiny("mixtral"), batch(), "chunked")
        assert with_term[0] > plain[0] + 1

    def test_gradient_checkpointing(self):
        model = tiny()
        plain = gradients(model, batch())
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        assert_same(plain, gradients(model, batch(), "chunked"))

    def test_bfloat16_under_autocast(self):
        model = tiny()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            full, lean = gradients(model, batch()), gradients(model, batch(), "chunked")
        # both round the head's gradient to bfloat16, one of them chunk by chunk
        assert_same(full, lean, tolerance=1e-2)

    def test_positions_without_labels_never_meet_the_head(self):
        model, inputs = tiny(), batch()
        seen = []
        model.lm_head.register_forward_hook(lambda *_: seen.append("the stand-in"))
        lean = LeanLoss(model, "chunked")
        lean._project = lambda hidden: seen.append(len(hidden)) or torch.zeros(len(hidden), 128)
        lean._hidden = torch.zeros(3, 11, 32)
        lean._loss(torch.zeros(()), inputs["labels"])
        assert sum(seen) == (inputs["labels"][:, 1:] != -100).sum()

    def test_a_batch_without_labels_moves_nothing(self):
        inputs = batch(masked=2.0) | {"num_items_in_batch": torch.tensor(7)}
        loss, found = gradients(tiny(tie_word_embeddings=False), inputs, "chunked")
        assert loss == 0
        # present, as processes that sum gradients need it
        assert all(gradient.abs().max() == 0 for gradient in found.values())

    @given(
        labelled=st.lists(st.booleans(), min_size=33, max_size=33),
        chunk=st.integers(1, 40),
        smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    )
    @settings(max_examples=40, deadline=None)
    def test_any_chunk_any_mask(self, labelled, chunk, smoothing):
        torch.manual_seed(2)
        hidden = torch.randn(3, 11, 8, requires_grad=True)
        unlabelled = ~torch.tensor(labelled).view(3, 11)
        labels = torch.randint(0, 16, (3, 11)).masked_fill(unlabelled, -100)
        head = torch.nn.Linear(8, 16)
        shifted = torch.nn.functional.pad(labels, (0, 1), value=-100)[:, 1:].reshape(-1)
        whole = torch.nn.functional.cross_entropy(
            head(hidden).view(-1, 16), shifted, reduction="sum", label_smoothing=smoothing
        )
        wanted = torch.autograd.grad(whole, (hidden, head.weight, head.bias))

        lean = object.__new__(LeanLoss)
        lean._hidden, lean._project, lean._fused, lean._random = hidden, head, None, False
        lean._finish, lean._config, lean._smoothing = FINISH["llama"], None, smoothing
        lean._chunk = lambda: chunk
        found = lean._loss(torch.zeros(()), labels, num_items_in_batch=1)
        torch.testing.assert_close(found, whole)
        for one, other in zip(
            torch.autograd.grad(found, (hidden, head.weight, head.bias)), wanted, strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def wrapped(config: Any, **more: Any) -> Any:
    torch.manual_seed(3)
    model = get_peft_model(tiny(**more), config)
    for name, weight in model.named_parameters():
        if "lora_" in name:  # away from zero, so that every part has a gradient
            weight.data.normal_(std=0.3)
    return model


ADAPTERS = {
    "attention": (LoraConfig(r=2, target_modules=["q_proj", "v_proj"]), {}),
    "head": (LoraConfig(r=2, target_modules=["q_proj", "lm_head"]), {"tie_word_embeddings": False}),
    "whole head": (
        LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]),
        {"tie_word_embeddings": False},
    ),
    "tied": (
        LoraConfig(
            r=2,
            target_modules=["q_proj"],
            modules_to_save=["embed_tokens"],
            ensure_weight_tying=True,
        ),
        {"tie_word_embeddings": True},
    ),
    "prompt": (PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), {}),
    "ranks": (
        AdaLoraConfig(
            task_type="CAUSAL_LM",
            target_modules=["q_proj"],
            total_step=10,
            tinit=1,
            tfinal=1,
            orth_reg_weight=1.0,
        ),
        {},
    ),
}


class TestAdapters:
    @pytest.mark.parametrize("kind", ADAPTERS)
    def test_every_way_to_adapt(self, kind):
        config, more = ADAPTERS[kind]
        model = wrapped(copy.deepcopy(config), **more)
        assert_same(gradients(model, batch()), gradients(model, batch(), "chunked"))

    def test_smoothing_keeps_what_adalora_adds(self):
        """Both terms in one loss: smoothed cross-entropy, and the matrices' distance from
        orthogonal, which each have the gradient that they have alone."""
        model, inputs = wrapped(copy.deepcopy(ADAPTERS["ranks"][0])), batch()
        without_labels = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        model.zero_grad()
        logits = model(**without_labels).logits[:, :-1].reshape(-1, VOCABULARY).float()
        smoothed = torch.nn.functional.cross_entropy(
            logits, inputs["labels"][:, 1:].reshape(-1), label_smoothing=0.2
        )
        whole = model(**inputs)
        plain = torch.nn.functional.cross_entropy(logits, inputs["labels"][:, 1:].reshape(-1))
        added = whole.loss - plain
        assert added.item() > 0.1
        (smoothed + added).backward()
        wanted = {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}

        found = gradients(model, inputs, "chunked", smoothing=0.2)

        assert_same(((smoothed + added).detach(), wanted), found)
        assert (smoothed - plain).abs() > 0.01

    def test_dropout_in_the_head_draws_the_same_numbers_twice(self):
        # a gradient by finite differences would see another mask in the second computation
        config = LoraConfig(r=2, target_modules=["lm_head"], lora_dropout=0.5)
        model = wrapped(config, tie_word_embeddings=False)
        lean = LeanLoss(model, "chunked")

        def loss() -> torch.Tensor:
            torch.manual_seed(5)
            with lean.in_force():
                return model(**batch()).loss

        weight = next(w for n, w in model.named_parameters() if "lora_A" in n)
        loss().backward()
        slope = weight.grad.flatten()[0].item()
        with torch.no_grad():
            weight.view(-1)[0] += 1e-2
            above = loss()
            weight.view(-1)[0] -= 2e-2
            below = loss()
        assert (above - below).item() / 2e-2 == pytest.approx(slope, rel=2e-2)


class LargestLogits(TorchDispatchMode):
    """The most rows that any tensor had whose last dimension is the vocabulary."""

    rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            wide = isinstance(tensor, torch.Tensor) and tensor.shape[-1:] == (VOCABULARY,)
            # the head's weight, transposed by a matrix product, is no logits
            if wide and tensor.shape != (32, VOCABULARY):
                self.rows = max(self.rows, tensor.numel() // VOCABULARY)
        return found


class TestMemory:
    @pytest.mark.parametrize(("kernel", "most"), [("full", 33), ("chunked", 4)])
    def test_rows_of_logits_alive_at_once(self, kernel, most):
        with LargestLogits() as seen:
            gradients(tiny(), batch(), kernel)
        assert seen.rows == most

    def test_nothing_of_the_vocabularys_width_waits_for_the_backward_pass(self):
        waiting = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            waiting.append(tuple(tensor.shape))
            return tensor

        model, inputs = tiny(), batch()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(**inputs)
        assert any(shape[-1:] == (VOCABULARY,) and len(shape) > 1 for shape in waiting)
        waiting.clear()
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            LeanLoss(model, "chunked").in_force(),
        ):
            model(**inputs)
        assert not any(shape[-1:] == (VOCABULARY,) and shape[0] != 32 for shape in waiting)

    def test_measuring_holds_a_chunk_at_most(self):
        model, lean = tiny(), None
        lean = LeanLoss(model, "chunked")
        inputs = batch()
        labels = inputs.pop("labels")
        with LargestLogits() as seen, torch.no_grad(), lean.in_force():
            model(**inputs)
            lean.token_nll(labels)
        assert seen.rows == 4


class TestMeasuring:
    @pytest.mark.parametrize("family", ["llama", "gemma2", "granite"])
    def test_the_same_sums_per_sample(self, family):
        model, inputs = tiny(family), batch()
        labels = inputs.pop("labels")
        labels[1] = -100
        lean = LeanLoss(model, "chunked", smoothing=0.5)  # smoothing is for training only
        with torch.no_grad():
            wanted = token_nll(model(**inputs).logits, labels)
            with lean.in_force():
                model(**inputs)
                found = lean.token_nll(labels)
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
        assert found[1].tolist() == [0.0, 0.0]

    def test_measured_in_the_arithmetic_of_the_forward_pass(self):
        """A float32 norm before a 16-bit head, whose autocast has ended when sums are taken."""
        model, inputs = tiny(), batch()
        labels = inputs.pop("labels")
        model.to(torch.bfloat16).model.norm.float()
        lean = LeanLoss(model, "chunked")
        with torch.no_grad():
            with torch.autocast("cpu", torch.bfloat16):
                wanted = token_nll(model(**inputs).logits, labels)
            with lean.in_force():
                with torch.autocast("cpu", torch.bfloat16):
                    model(**inputs)
                found = lean.token_nll(labels)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)

    def test_prompt_tokens_are_not_measured(self):
        config, _ = ADAPTERS["prompt"]
        model, inputs = wrapped(copy.deepcopy(config)), batch()
        labels = inputs.pop("labels")
        lean = LeanLoss(model, "chunked")
        with torch.no_grad():
            wanted = token_nll(model(**inputs).logits[:, 3:], labels)
            with lean.in_force():
                model(**inputs)
                found = lean.token_nll(labels)
        torch.testing.assert_close(found, wanted)


class TestInForce:
    def test_the_model_is_its_own_again_afterwards(self):
        model, inputs = tiny(), batch()
        before = dict(model.__dict__), dict(model.lm_head.__dict__)
        with LeanLoss(model, "chunked").in_force():
            assert model(**inputs).logits.shape == (3, 11, 1)
        assert (model.__dict__, model.lm_head.__dict__) == before
        assert model(**inputs).logits.shape == (3, 11, VOCABULARY)

    def test_also_after_a_fault(self):
        model = tiny()
        lean = LeanLoss(model, "chunked")
        with pytest.raises(IndexError), lean.in_force():
            model(torch.tensor([[VOCABULARY + 5]]))
        assert "forward" not in model.lm_head.__dict__

    def test_a_head_that_others_have_wrapped_stays_wrapped(self):
        model = tiny()
        own, passed = model.lm_head.forward, []
        model.lm_head.forward = lambda hidden: passed.append(len(hidden)) or own(hidden)
        gradients(model, batch(), "chunked")
        assert sum(passed) == 2 * (batch()["labels"][:, 1:] != -100).sum()
        assert "forward" in model.lm_head.__dict__

    def test_an_unknown_family_is_refused(self):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model("bloom", vocab_size=64, hidden_size=16, n_layer=1, n_head=2)
        )
        with pytest.raises(ValueError, match="`bloom`"):
            LeanLoss(model, "chunked")


@pytest.mark.gpu
class TestLiger:
    """On a CUDA device with liger-kernel: `pytest -m gpu tests/build/test_loss_kernels.py`."""

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    @pytest.mark.parametrize("family", ["llama", "gemma2", "phi", "opt", "gpt2"])
    def test_same_as_chunked(self, family, smoothing):
        pytest.importorskip("liger_kernel")
        model = tiny(family).cuda().eval()
        inputs = {name: values.cuda() for name, values in batch().items()}
        chunked = gradients(model, inputs, "chunked", smoothing=smoothing)
        assert_same(chunked, gradients(model, inputs, "liger", smoothing=smoothing), 1e-3)

    def test_bfloat16_under_autocast(self):
        pytest.importorskip("liger_kernel")
        model = tiny().cuda()
        inputs = {name: values.cuda() for name, values in batch().items()}
        with torch.autocast("cuda", dtype=torch.bfloat16):
            full, liger = gradients(model, inputs), gradients(model, inputs, "liger")
        assert_same(full, liger, tolerance=2e-2)
