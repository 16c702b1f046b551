"""The canary: proof, before the first step, that packed samples do not see each other.

In: a model as it will be trained, wrapped or not, and its first training batch. Out: `Isolation`,
or the exception `PackingLeak`. One packed sample is given other tokens; the logits of the samples
behind it must stay what they were. What a plan can know is decided before (rule LF510, from
`compiler/facts/isolation.py`); this looks at the very model, library and kernels of the run.

The model is afterwards as it was: mode of every module, random numbers, gradients, buffers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

EXACT_LIMIT = 1e-5
"""float32: only the order of sums may differ, as between the experts of a mixture."""
COARSE_LIMIT = 1e-3
"""16-bit and quantized: as above, with fewer digits. A leak is about 1: a stranger's text moves
logits by their own spread."""

_CHUNK = 512
"""Tokens compared at once; logits of a whole row in float32 would not fit beside it."""


@dataclass(frozen=True)
class Isolation:
    """What the canary saw. Differences are max |difference| / standard deviation of the logits."""

    difference: float
    """Of the samples that were not changed; 0 is bit for bit. Over all processes the largest."""
    moved: float
    """Of the sample that was changed: above 0, or nothing would be proved. The smallest."""
    limit: float
    """Up to which a difference passes."""
    tokens: int
    """Compared, on this process."""


class PackingLeak(RuntimeError):
    """Packed samples see each other, or it cannot be shown that they do not (LF811)."""

    def __init__(self, model: Any, found: Isolation) -> None:
        inner = _inner(model)
        attention = getattr(inner.config, "_attn_implementation", None) or "its own"
        who = f"{type(inner).__name__} with `{attention}` attention"
        if not found.moved > 0:
            what = f"changing a packed sample moved no logits of {who}, so nothing is proved"
        elif not np.isfinite(found.difference):
            what = f"the logits of {who} are not finite, so packed samples cannot be compared"
        else:
            what = (
                f"{who} lets packed samples see each other: changing one moved the logits of "
                f"another by {found.difference:.2g} standard deviations, {found.limit:g} is allowed"
            )
        super().__init__(f"{what}; hint: collator.packing=none")
        self.found = found


class _Probe(NamedTuple):
    """One packed row, and which of its tokens are changed: the first `border`."""

    inputs: dict[str, Any]
    border: int


def check_isolation(model: Any, batch: Mapping[str, Any]) -> Isolation:
    """Two forward passes of one row (flash attention: of two samples), without gradient.

    `batch` is a batch of `Collator`, packed, on the model's device. To be called by every process
    of a distributed run, in the autocast context of training; all of them raise or none.

    Raises:
        PackingLeak: the samples that were left alone moved, or the changed one did not.
    """
    probe = _flat_probe(batch) if "cu_seq_lens_q" in batch else _row_probe(batch)
    changed = {**probe.inputs, "input_ids": _other_tokens(batch["input_ids"], probe)}
    with _untouched(model, batch["input_ids"].device), _formats(model) as formats:
        one, other = _logits(model, probe.inputs), _logits(model, changed)
    formats.add(one.dtype)
    quantized = any(weight.dtype in (torch.int8, torch.uint8) for weight in model.parameters())
    exact = not quantized and all(torch.finfo(found).bits >= 32 for found in formats)
    border = probe.border
    worst = torch.tensor(
        [_difference(one[border:], other[border:]), -_difference(one[:border], other[:border])],
        dtype=torch.float32,  # a format that every backend reduces
        device=one.device,
    )
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(worst, op=torch.distributed.ReduceOp.MAX)
    difference, moved = worst.tolist()
    limit = EXACT_LIMIT if exact else COARSE_LIMIT
    found = Isolation(difference, -moved, limit, len(one) - border)
    if not (found.difference <= limit and found.moved > 0):
        raise PackingLeak(model, found)
    return found


def _row_probe(batch: Mapping[str, Any]) -> _Probe:
    """The row with the most samples. A row of one sample is cut in two: every process of a
    distributed run must have something to run, or the others would wait for it."""
    positions = batch["position_ids"]
    borders = positions.diff(dim=1) != 1
    row = int(borders.sum(dim=1).argmax())
    inputs = {
        name: value[row : row + 1]
        if isinstance(value, torch.Tensor) and value.shape[:1] == positions.shape[:1]
        else value
        for name, value in batch.items()
        if name not in ("labels", "set")
    }
    found = borders[row].nonzero()
    if len(found):
        return _Probe(inputs, int(found[0]) + 1)
    border = max(1, positions.shape[1] // 2)
    cut = inputs["position_ids"].clone()
    cut[:, border:] -= cut[:, border : border + 1].clone()
    return _Probe({**inputs, "position_ids": cut}, border)


def _flat_probe(batch: Mapping[str, Any]) -> _Probe:
    """The first two samples of a row that holds the whole batch, or the halves of its only one."""
    borders = batch["cu_seq_lens_q"].tolist()
    if len(borders) == 2:
        borders = [0, max(1, borders[1] // 2), borders[1]]
    start, border, end = borders[:3]
    halves = torch.tensor([start, border, end], dtype=torch.int32)
    halves = halves.to(batch["cu_seq_lens_q"].device)
    longest = max(border, end - border)
    positions = torch.cat([torch.arange(border), torch.arange(end - border)])
    left_out = ("labels", "set")
    inputs = {name: value for name, value in batch.items() if name not in left_out} | {
        "input_ids": batch["input_ids"][:, :end],
        "position_ids": positions.to(batch["input_ids"].device)[None],
        "cu_seq_lens_q": halves,
        "cu_seq_lens_k": halves.clone(),
        "max_length_q": longest,
        "max_length_k": longest,
    }
    return _Probe(inputs, border)


def _other_tokens(known: torch.Tensor, probe: _Probe) -> torch.Tensor:
    """Another token in each place before the border, out of those that the batch holds anyway."""
    ids = probe.inputs["input_ids"].clone()
    tokens = torch.unique(known)
    if len(tokens) == 1:
        # one token all over: any other will do
        tokens = torch.cat([tokens, torch.where(tokens == 0, tokens + 1, tokens - 1)]).sort().values
    places = torch.searchsorted(tokens, ids[:, : probe.border].contiguous())
    ids[:, : probe.border] = tokens[(places + 1 + len(tokens) // 3) % len(tokens)]
    return ids


def _logits(model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
    """[time, vocabulary] of the one row."""
    outputs = model(**inputs)
    logits: torch.Tensor = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
    return logits[0]


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """max |one - other| / standard deviation of `one`; infinite where either is not finite."""
    if torch.equal(one, other):
        return 0.0
    largest, total, squares = 0.0, 0.0, 0.0
    for left, right in zip(one.split(_CHUNK), other.split(_CHUNK), strict=True):
        apart = (left.float() - right.float()).abs().max().item()
        if not np.isfinite(apart):
            return float("inf")
        largest = max(largest, apart)
        total += left.sum(dtype=torch.float64).item()
        squares += left.double().square().sum().item()
    spread = (squares / one.numel() - (total / one.numel()) ** 2) ** 0.5
    return largest / spread if spread > 0 else float("inf")


@contextmanager
def _formats(model: Any) -> Iterator[set[torch.dtype]]:
    """In which formats the last layer computes: under autocast, logits may be cast back."""
    seen: set[torch.dtype] = set()

    def note(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        seen.add(output.dtype)

    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    hook = layers[-1].register_forward_hook(note) if layers else None
    try:
        yield seen
    finally:
        if hook is not None:
            hook.remove()


@contextmanager
def _untouched(model: Any, device: torch.device) -> Iterator[None]:
    """Inside, the model is in evaluation mode without gradient; outside, nothing has happened."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    # LLM.int8() computes a column in 16 bits when any token of the batch is large in it, so samples
    # move each other by a tenth of a standard deviation without seeing each other
    outliers = [
        (module.state, module.state.threshold)
        for module in model.modules()
        if hasattr(getattr(module, "state", None), "threshold")  # bitsandbytes' Linear8bitLt
    ]
    words, numbers = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            for module, _ in modes:
                # not `eval()`: a wrapper may do more than that in a method of this name
                module.training = False
            for state, _ in outliers:
                state.threshold = 0.0
            yield
    finally:
        for module, training in modes:
            module.training = training
        for state, threshold in outliers:
            state.threshold = threshold
        for module, name, buffer, kept in buffers:
            if module._buffers.get(name) is not buffer:  # noqa: SLF001 - `setattr` would register anew
                module._buffers[name] = buffer  # noqa: SLF001 - as above
            if not torch.equal(buffer, kept):
                buffer.copy_(kept)
        random.setstate(words)
        np.random.set_state(numbers)
        # weights cast without gradient would be found again by a pass that needs one
        torch.clear_autocast_cache()


def _inner(model: Any) -> Any:
    """The transformers model under whatever wraps it."""
    return next((m for m in model.modules() if isinstance(m, PreTrainedModel)), model)
