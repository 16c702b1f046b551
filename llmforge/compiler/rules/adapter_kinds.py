"""LF6: what each kind of adapter needs: a base of a width, a start, steps, an engine, room."""

from __future__ import annotations

from collections.abc import Iterator

from llmforge.compiler.context import Context
from llmforge.compiler.derive.machine import hardware
from llmforge.compiler.facts.targets import hit_modules
from llmforge.compiler.lower.adapter import steps_of
from llmforge.compiler.rules.base import rule
from llmforge.diagnostics import Diagnostic
from llmforge.schema.adapter import (
    AdaLora,
    Eva,
    Lora,
    LowRank,
    PrefixTuning,
    VirtualTokens,
)
from llmforge.schema.distributed import Fsdp2, Zero
from llmforge.schema.model import ScratchModel
from llmforge.schema.precision import BitsAndBytes


def _bits(context: Context) -> int | None:
    """Bits of a base that is quantized at load; None for any other."""
    found = context.spec.quantization
    return found.bits if isinstance(found, BitsAndBytes) else None


@rule("LF614", "preset for a base of another width")
def preset_of_another_width(context: Context) -> Iterator[Diagnostic]:
    """The presets `8bit_*` and `4bit_*` (and any with `lora.expect_bits`) were tuned over a base
    held in that many bits. The quantization is a choice of its own, so that a plan never quantizes
    because of an adapter's name; here the two do not agree.

    The numbers themselves work over any base: `lora.expect_bits=null` says that this is meant.
    """
    adapter, bits = context.spec.lora, _bits(context)
    if not isinstance(adapter, LowRank) or adapter.expect_bits in (None, bits):
        return
    if context.facts.model_config.get("quantization_config"):
        return  # the checkpoint's own width stands in its config, in many spellings
    base = f"held in {bits} bits" if bits else "not quantized"
    impossible = isinstance(context.spec.model, ScratchModel)  # LF309: nothing to quantize
    yield Diagnostic(
        "LF614",
        f"the adapter is made for a base in {adapter.expect_bits} bits; this one is {base}",
        key="lora.expect_bits",
        notes=() if impossible else ("lora.expect_bits=null takes these numbers to any base",),
        hint="lora.expect_bits=null" if impossible else f"quantization={adapter.expect_bits}bit",
    )


@rule("LF615", "adapter that cannot start on this base")
def start_impossible(context: Context) -> Iterator[Diagnostic]:
    """PiSSA and OLoRA take a part out of each weight and train it; a rounded weight has no room for
    what is left, DoRA's magnitudes would belong to the wrong weight, and random weights have no
    such part. LoftQ fits what 4-bit rounding took away, so it needs a 4-bit base. No start can
    have a higher rank than the weight it is taken from.
    """
    adapter = context.spec.lora
    init = adapter.init if isinstance(adapter, Lora) else ""
    takes_out, bits = init in ("pissa", "olora"), _bits(context)
    scratch = isinstance(context.spec.model, ScratchModel)
    quantized = bits or context.facts.model_config.get("quantization_config")
    why, hint = None, "lora.init=default"
    if (takes_out or init == "loftq") and isinstance(adapter, Lora) and adapter.dora:
        why, hint = "with DoRA", "lora.dora=false"
    elif takes_out and quantized:
        why = "from a quantized base"
        hint = "quantization=none" if bits else hint
    elif takes_out and scratch:
        why = "from random weights"
    elif init == "loftq" and bits != 4:
        why = "from a base that is not held in 4 bits"
        hint = hint if scratch else "quantization=4bit"
    if why:
        yield Diagnostic("LF615", f"{init} cannot start {why}", key="lora.init", hint=hint)
    elif isinstance(adapter, Eva) or (isinstance(adapter, Lora) and _has_parts(init)):
        yield from _rank_too_high(context, adapter, init)


def _has_parts(init: str) -> bool:
    """Is a start made of parts that a weight has only so many of?"""
    return init in ("pissa", "olora", "loftq", "orthogonal")


def _rank_too_high(context: Context, adapter: LowRank, init: str) -> Iterator[Diagnostic]:
    what = init or "eva"
    if init == "orthogonal" and adapter.r % 2:
        yield Diagnostic(
            "LF615",
            f"an orthogonal start needs an even rank, not {adapter.r}",
            key="lora.r",
            hint=f"lora.r={adapter.r + 1}",
        )
    model = context.facts.model
    if model is None:
        return
    # eva's directions are the input's; the others' are of the weight, and lie in both of its sides
    both = what != "eva"
    room = [
        min(m.in_features, m.out_features) if both else m.in_features
        for m in hit_modules(model, adapter)
    ]
    if room and adapter.r > min(room):
        yield Diagnostic(
            "LF615",
            f"{what} of rank {adapter.r} on modules that have rank {min(room)} at most",
            key="lora.r",
            hint=f"lora.r={min(room)}",
        )


@rule("LF616", "ranks that are never allocated")
def adalora_phases(context: Context) -> Iterator[Diagnostic]:
    """AdaLoRA takes ranks away between its warm-up and its final phase; the two must leave steps
    between them, at least one interval, and the target rank must be below the initial one.
    """
    adapter, steps = context.spec.lora, context.facts.steps
    if not isinstance(adapter, AdaLora):
        return
    if adapter.target_r > adapter.initial_r:
        yield Diagnostic(
            "LF616",
            f"the target rank {adapter.target_r} is above the initial rank {adapter.initial_r}",
            key="lora.target_r",
            hint=f"lora.target_r={adapter.initial_r}",
        )
    if steps is None:
        return
    before, after = steps_of(adapter.warmup, steps), steps_of(adapter.final, steps)
    assert before is not None and after is not None  # noqa: S101, PT018 - the run's are known
    between = steps - before - after
    if between < 1:
        yield Diagnostic(
            "LF616",
            f"a run of {steps} steps has none between {before} of warm-up and {after} at the end",
            key="lora.warmup",
            hint="lora.warmup=10% lora.final=20%",
        )
    elif adapter.interval > between:
        yield Diagnostic(
            "LF616",
            f"ranks are allocated every {adapter.interval} steps, and the phase has {between}",
            key="lora.interval",
            hint=f"lora.interval={max(1, between // 10)}",
        )


@rule("LF617", "adapter kind that cannot run this way")
def kind_with_engine(context: Context) -> Iterator[Diagnostic]:
    """AdaLoRA reads whole gradients after each step; EVA, PiSSA, OLoRA, LoftQ and virtual tokens
    read whole weights: sharded ones are in pieces. Virtual tokens stand before a row, so a row
    must hold one text: packing puts several there. A prefix lives in the key-value cache, which
    gradient checkpointing turns off. DoRA measures its base's weights, which PEFT cannot do for
    8-bit ones on a CPU.
    """
    spec, adapter = context.spec, context.spec.lora
    reads_weights = isinstance(adapter, Eva | VirtualTokens) or (
        isinstance(adapter, Lora) and adapter.init in ("pissa", "olora", "loftq")
    )
    name = adapter.init if isinstance(adapter, Lora) else adapter.kind
    sharded = None
    if isinstance(spec.fsdp, Fsdp2) and (reads_weights or isinstance(adapter, AdaLora)):
        sharded = "fsdp"
    elif isinstance(spec.deepspeed, Zero):
        in_pieces = spec.deepspeed.stage == 3 and reads_weights
        sharded = "deepspeed" if in_pieces or isinstance(adapter, AdaLora) else None
    if sharded:
        yield Diagnostic(
            "LF617", f"{name} with {sharded}", key=f"{sharded}.kind", hint=f"{sharded}=none"
        )
    if isinstance(adapter, VirtualTokens) and spec.collator.packing != "none":
        yield Diagnostic(
            "LF617",
            f"{name} tuning with packed rows",
            key="collator.packing",
            hint="collator.packing=none",
        )
    if isinstance(adapter, PrefixTuning) and spec.trainer.gradient_checkpointing is True:
        yield Diagnostic(
            "LF617",
            "prefix tuning with gradient checkpointing",
            key="trainer.gradient_checkpointing",
            hint="trainer.gradient_checkpointing=false",
        )
    if (
        isinstance(adapter, LowRank)
        and adapter.dora
        and _bits(context) == 8
        and hardware(context).device == "cpu"
    ):
        yield Diagnostic(
            "LF617", "DoRA over an 8-bit base on a CPU", key="lora.dora", hint="lora.dora=false"
        )


@rule("LF618", "virtual tokens without room")
def virtual_tokens_without_room(context: Context) -> Iterator[Diagnostic]:
    """Virtual tokens take places of the model's context: with the longest sample they must fit."""
    spec, model = context.spec, context.facts.model
    if not isinstance(spec.lora, VirtualTokens) or model is None or model.context is None:
        return
    length = spec.collator.max_length
    if isinstance(length, int) and length + spec.lora.tokens > model.context:
        room = model.context - spec.lora.tokens
        yield Diagnostic(
            "LF618",
            f"{spec.lora.tokens} virtual tokens before samples of up to {length} tokens, and a "
            f"context of {model.context}",
            key="lora.tokens",
            hint=f"collator.max_length={room}"
            if room >= _SHORTEST
            else f"lora.tokens={model.context // 4}",
        )


_SHORTEST = 8
"""The shortest `collator.max_length` that the schema takes."""
