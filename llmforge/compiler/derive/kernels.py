"""Which kernels do the work: the fused optimizer, the loss.

In: spec and facts, the machine solved. Out: solved values with reasons, and `lean_obstacle` and
`liger_obstacle`, by which the rules of `rules/training.py` refuse what is asked for by name.

What a kernel of the loss computes stands in `build/loss_kernels.py`; memory is not predicted here.
"""

from __future__ import annotations

from llmforge.compiler.context import Context, Derived, Step
from llmforge.compiler.derive.machine import hardware
from llmforge.compiler.facts.targets import resolve
from llmforge.schema.adapter import AdaLora, NoAdapter, TargetedAdapter
from llmforge.schema.distributed import Fsdp2, Zero
from llmforge.schema.optim import AdamW
from llmforge.schema.preference import DpoSpec
from llmforge.schema.train import LmTrainer

_LARGE_VOCABULARY = 16_384
"""From here on a pass of 16,384 tokens has a gigabyte of float32 logits, and as much again twice
over in the backward pass. Loss by chunks was no slower there (`benchmarks/loss_kernels.py`)."""

LEAN_FAMILIES = frozenset(
    (
        *("cohere", "cohere2", "exaone4", "gemma", "gemma2", "gemma3", "gemma3_text", "glm4"),
        *("gpt2", "gpt_neo", "gpt_neox", "gptj", "granite", "llama", "mistral", "mixtral"),
        *("olmo2", "opt", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3"),
        *("stablelm", "starcoder2"),
    )
)
"""Families whose loss without whole logits was seen to be their own; the same as `FINISH` of
`build/loss_kernels.py`, which a test holds."""

RESCALED = frozenset(("cohere", "cohere2", "granite"))
"""Of these, the ones that scale their head's output: Liger has no kernel for that."""


def derive_kernels(context: Context) -> Step:
    """Fused optimizer, and the kernel of the loss."""
    found = [
        *_fused_optimizer(context),
        *_loss_kernel(context),
        *_preference(context),
    ]
    return Step(tuple(found))


def _fused_optimizer(context: Context) -> list[Derived]:
    spec = context.spec
    if not isinstance(spec.optimizer, AdamW) or spec.optimizer.fused != "auto":
        return []
    why = "every supported torch has the fused kernel, on CPU and GPU"
    return [Derived("optimizer.fused", True, why, ("hardware.device",))]


def _loss_kernel(context: Context) -> list[Derived]:
    trainer = context.spec.trainer
    if not isinstance(trainer, LmTrainer) or trainer.loss_kernel != "auto":
        return []
    value, why = _leanest(context)
    reads = ("model", "hardware.device", "trainer.label_smoothing", "lora", "deepspeed", "fsdp")
    return [Derived("trainer.loss_kernel", value, why, reads)]


def _preference(context: Context) -> list[Derived]:
    """Log-probabilities of pairs, and where the reference's come from."""
    trainer, found = context.spec.trainer, []
    if not isinstance(trainer, DpoSpec):
        return []
    if trainer.loss_kernel == "auto":
        why = "TRL computes log-probabilities in chunks"
        found.append(Derived("trainer.loss_kernel", "chunked", why, ("trainer.kind",)))
    if trainer.reference == "auto":
        full = isinstance(context.spec.lora, NoAdapter)
        value = "copy" if full else "adapter_off"
        why = (
            "every weight is trained, so the reference needs its own"
            if full
            else "without its adapter the model is the reference"
        )
        found.append(Derived("trainer.reference", value, why, ("lora.kind",)))
    return found


def _leanest(context: Context) -> tuple[str, str]:
    """The kernel of the loss, and why."""
    obstacle = lean_obstacle(context)
    if obstacle is not None:
        return "full", obstacle
    if dropped_term(context) is not None:
        return "chunked", "label smoothing over whole logits drops a term of the loss"
    vocabulary = context.facts.model.vocabulary if context.facts.model else 0
    if vocabulary < _LARGE_VOCABULARY:
        return "full", f"whole logits of a vocabulary of {vocabulary:,} are small"
    if liger_obstacle(context) is None:
        return "liger", f"liger-kernel is installed; a vocabulary of {vocabulary:,}"
    return "chunked", f"a vocabulary of {vocabulary:,}: whole logits would be the largest tensors"


def lean_obstacle(context: Context) -> str | None:
    """Why the loss cannot be computed without whole logits; None where it can."""
    spec = context.spec
    family = context.facts.model_config.get("model_type")
    if family is None:
        return "the model is not known yet"
    if family not in LEAN_FAMILIES:
        return f"nobody has shown how `{family}` comes from its output head to its loss"
    if not shards_head(context):
        return None
    if isinstance(spec.fsdp, Fsdp2):
        return "FSDP holds the output head in pieces outside the model's own forward pass"
    return "ZeRO stage 3 holds the output head in pieces outside its own forward pass"


def shards_head(context: Context) -> bool:
    """Is the output head in pieces outside the model's own forward pass?"""
    zero = context.spec.deepspeed
    return isinstance(context.spec.fsdp, Fsdp2) or (isinstance(zero, Zero) and zero.stage == 3)


def liger_obstacle(context: Context) -> str | None:
    """Why Liger's kernel cannot compute the loss; None where it can."""
    obstacle = lean_obstacle(context)
    family = context.facts.model_config.get("model_type")
    if obstacle is not None:
        return obstacle
    if hardware(context).device != "cuda":
        return "Liger's kernels run on CUDA devices"
    if not context.facts.has("liger-kernel"):
        return "liger-kernel is not installed"
    if context.spec.precision.compute == "float16":
        return "Liger computes gradients before the loss is scaled, which float16 needs"
    if family in RESCALED:
        return f"`{family}` scales its head's output, and Liger has no kernel for that"
    if _adapts_head(context):
        return "Liger wants the output head as a plain matrix, not under an adapter"
    return None


def _adapts_head(context: Context) -> bool:
    adapter, model = context.spec.lora, context.facts.model
    if model is None or not isinstance(adapter, TargetedAdapter):
        return False
    return any(module.role == "head" for module in resolve(model, adapter.targets))


def dropped_term(context: Context) -> str | None:
    """A term of the loss besides cross-entropy that smoothing over whole logits leaves out.

    The library's smoother takes the labels away from the model and looks at its logits alone.
    """
    if not context.spec.trainer.label_smoothing:
        return None
    if context.facts.model_config.get("output_router_logits"):
        return "the balance of experts (`output_router_logits`)"
    if isinstance(context.spec.lora, AdaLora):
        return "what AdaLoRA adds to keep its matrices orthogonal"
    return None
