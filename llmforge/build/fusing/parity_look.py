"""One model looked at: logits on probes, greedy continuations, and what each module gives.

In: a model, its tokenizer, probes. Out: safetensors in a folder, so that a second model can be
compared when the first has left the memory.

This module compares nothing (`parity.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

from llmforge.samples.probes import CHATS, TEXTS

TRACED_TOKENS = 16
"""Tokens for which every module's output is kept; few, as there are hundreds of modules."""


@dataclass(frozen=True)
class Probe:
    """A text that two models must agree on."""

    name: str
    text: str | None = None
    messages: Sequence[dict[str, Any]] = ()
    """A chat, instead of a text."""

    def ids(self, tokenizer: Any, limit: int) -> list[int]:
        """At most `limit` tokens, as the model would be given them."""
        if self.text is not None:
            found = tokenizer(self.text)["input_ids"]
        elif tokenizer.chat_template:
            found = tokenizer.apply_chat_template(
                list(self.messages), add_generation_prompt=True, tokenize=True, return_dict=False
            )
        else:
            found = tokenizer("\n".join(turn["content"] for turn in self.messages))["input_ids"]
        return list(found)[:limit]


def stored_probes() -> list[Probe]:
    """Those that come with llmforge."""
    texts = [Probe(name, text) for name, text in TEXTS.items()]
    return texts + [Probe(f"chat {name}", messages=chat) for name, chat in CHATS.items()]


@dataclass(frozen=True)
class Continued:
    """What a model said on."""

    tokens: tuple[int, ...]
    margins: tuple[float, ...]
    """At each, how far the likeliest token was before the next, in deviations of the logits."""


@dataclass(frozen=True)
class Seen:
    """A model on one probe."""

    ids: tuple[int, ...]
    logits: torch.Tensor
    """[tokens, rows], float32."""
    greedy: Continued
    effect: float
    """Sum of the squares of what the adapter changes in the logits."""


class Look:
    """What a model did, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.order: list[str] = []
        """Modules in the order in which they ran."""
        self.effects: dict[str, float] = {}
        """How far the adapter changes each, as a share of its output."""

    def add(
        self,
        name: str,
        ids: Sequence[int],
        logits: torch.Tensor,
        greedy: Continued,
        plain: torch.Tensor,
    ) -> None:
        """Keep what the model did on a probe; `plain` are the logits without the adapter."""
        tensors = {
            "ids": torch.tensor(ids), "logits": logits.contiguous(),
            "tokens": torch.tensor(greedy.tokens), "margins": torch.tensor(greedy.margins),
            "effect": squares(logits, plain)[None],
        }  # fmt: skip
        save_file(tensors, str(self._file(name)))

    def seen(self, name: str) -> Seen:
        """What it did on a probe."""
        found = load_file(str(self._file(name)))
        greedy = Continued(tuple(found["tokens"].tolist()), tuple(found["margins"].tolist()))
        effect = float(found["effect"])
        return Seen(tuple(found["ids"].tolist()), found["logits"], greedy, effect)

    def add_trace(self, outputs: dict[str, torch.Tensor], plain: dict[str, torch.Tensor]) -> None:
        """Keep what each module gave; `plain` is what it gives without the adapter."""
        self.order = list(outputs)
        self.effects = {name: apart(one, plain[name]) for name, one in outputs.items()}
        save_file(outputs, str(self._folder / "trace.safetensors"))

    def trace(self) -> dict[str, torch.Tensor]:
        """What each module gave, in the order in which they ran."""
        found = load_file(str(self._folder / "trace.safetensors"))
        return {name: found[name] for name in self.order}

    def _file(self, name: str) -> Path:
        return self._folder / f"probe-{re.sub(r'[^a-zA-Z0-9]+', '-', name)}.safetensors"


def logits_of(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """[tokens, rows] in float32 on the CPU."""
    with torch.inference_mode():
        given = torch.tensor([list(ids)], device=model.device)
        found: torch.Tensor = model(input_ids=given, use_cache=False).logits[0]
    return found.float().cpu()


def continued(model: Any, ids: Sequence[int], count: int, stops: Sequence[int]) -> Continued:
    """At most `count` tokens that follow, the likeliest at each place."""
    if not count:
        return Continued((), ())
    given = torch.tensor([list(ids)], device=model.device)
    settings = GenerationConfig(
        max_new_tokens=count, do_sample=False, eos_token_id=list(stops) or None,
        pad_token_id=stops[0] if stops else None, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    with torch.inference_mode():
        found = model.generate(
            input_ids=given, attention_mask=torch.ones_like(given), generation_config=settings
        )
    tokens = found.sequences[0, len(ids) :].tolist()
    margins = [margin(step[0].float()) for step in found.logits]
    return Continued(tuple(tokens), tuple(margins))


def squares(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    """Sum of the squared differences, in float64."""
    parts = zip(one.split(32), two.split(32), strict=True)
    return torch.stack([(a.double() - b.double()).square().sum() for a, b in parts]).sum()


def apart(one: torch.Tensor, two: torch.Tensor) -> float:
    """Norm of the difference over the norm of the first."""
    return float((one - two).norm() / one.norm().clamp_min(1e-12))


def margin(logits: torch.Tensor) -> float:
    """Distance of the two highest logits, in deviations of all."""
    top = logits.topk(2).values
    return float((top[0] - top[1]) / logits.std().clamp_min(1e-12))


def traced(model: Any, ids: Sequence[int]) -> dict[str, torch.Tensor]:
    """Each module's output by its name in the base model, in the order in which they ran.

    An adapted module counts as one: its output is that of base and adapter.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    found: dict[str, torch.Tensor] = {}
    hooks, outer = [], ""

    def keep(name: str) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) and output else output
            if isinstance(first, torch.Tensor) and first.is_floating_point():
                found[name] = first.detach().float().cpu().clone()

        return hook

    for name, module in base.named_modules():
        if not name or (outer and name.startswith(outer)):
            continue
        hooks.append(module.register_forward_hook(keep(name)))
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            outer = f"{name}."
    try:
        logits_of(model, ids[:TRACED_TOKENS])
    finally:
        for hook in hooks:
            hook.remove()
    return found


def longest(model: Any, room: int) -> int:
    """Tokens that may be given when `room` more follow."""
    config = model.config.get_text_config()
    context = getattr(config, "max_position_embeddings", None)
    return max(1, context - room) if isinstance(context, int) else 1 << 30
