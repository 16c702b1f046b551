"""Frozen bases that stay loaded from one run of a process to the next.

In: a plan, its tokenizer and how its model is built. Out: the model. In a worker of its own that is
the built model and nothing is kept. A resident worker (`run/resident.py`) opens a shelf: then the
model that was built stays there, untouched, and each run gets a copy of its modules that shares the
weights. What a run does to modules (adapters, hooks, gradient checkpointing, configurations,
formats, moving to a device) it does to its copy, so there is nothing to be put back; what it could
still do is write into the shared weights, and `Shelf.fault` looks whether it did.

This module does not decide which runs may share (`run/residency.py`).
"""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import set_seed

from llmforge.build.quantized import own_device
from llmforge.plan import Plan, canonical_digest

LOOKED_AT = 1 << 16
"""Elements of each tensor that a digest looks at, spread over the whole of it."""

_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class CannotShare(Exception):
    """A base holds weights of a class that is not known here."""


@dataclass
class RandomState:
    """Where the random number generators of this process stand."""

    python: Any
    numbers: Any
    torch: torch.Tensor
    devices: list[torch.Tensor]

    @classmethod
    def now(cls) -> RandomState:
        """As they stand."""
        devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), devices)

    def restore(self) -> None:
        """Put them back there."""
        random.setstate(self.python)
        np.random.set_state(self.numbers)
        torch.set_rng_state(self.torch)
        if self.devices:
            torch.cuda.set_rng_state_all(self.devices)

    def equals(self, other: RandomState) -> bool:
        """Would the same numbers be drawn next?"""
        mine, theirs = self.numbers, other.numbers
        return (
            self.python == other.python
            and all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))
            and torch.equal(self.torch, other.torch)
            and len(self.devices) == len(other.devices)
            and all(torch.equal(a, b) for a, b in zip(self.devices, other.devices, strict=True))
        )


@dataclass
class Base:
    """A model that stays."""

    key: str
    seed: int
    model: Any
    """Never wrapped, called or moved."""
    drawn: RandomState
    """After it was built with `seed`."""
    uses_seed: bool
    """Random numbers were drawn for it, so another seed would build another model."""
    here: dict[int, torch.Tensor] = field(default_factory=dict)
    """Weights on the device of this process, by the `id` of those in `model`."""
    digest: list[tuple[int, int]] = field(default_factory=list)
    """Of `tensors`, in their order."""

    def serves(self, key: str, seed: int) -> bool:
        """Is it what a run would build?"""
        return self.key == key and (self.seed == seed or not self.uses_seed)

    def tensors(self) -> Iterator[torch.Tensor]:
        """Every weight and buffer, on all devices where it is kept."""
        yield from self.model.parameters()
        yield from self.model.buffers()
        yield from self.here.values()

    def look(self) -> list[tuple[int, int]]:
        """Digest of every tensor."""
        return [_look(tensor) for tensor in self.tensors()]

    def keep_here(self, kept: torch.Tensor, device: str) -> torch.Tensor:
        """A weight of `model` on a device, where it stays."""
        if id(kept) not in self.here:
            self.here[id(kept)] = kept.detach().to(device)
            self.digest.append(_look(self.here[id(kept)]))
        return self.here[id(kept)]


class Shelf:
    """The base of a resident worker, at most one."""

    def __init__(self) -> None:
        self.base: Base | None = None
        self.loads = 0
        """How often a base was built."""
        self._lent: list[tuple[torch.nn.Parameter, torch.nn.Parameter]] = []
        self._unshared: str | None = None

    def take(self, plan: Plan, tokenizer: Any, make: Callable[[], Any]) -> Any:
        """A model for one run: a copy of the base's modules over the base's weights.

        Random number generators stand afterwards where `make` would have left them.
        """
        key, seed = base_key(plan, tokenizer), int(plan.spec.seed)
        if self.base is None or not self.base.serves(key, seed):
            self.base = None  # before another is built: there may be no room for two
            self.base = self._built(key, seed, make)
        elif self.base.seed == seed:
            self.base.drawn.restore()
        else:
            set_seed(seed)
        try:
            model, self._lent = shared_copy(self.base.model)
        except CannotShare as found:
            # the run takes the model itself, as in a process of its own, and is the last one here
            model, self._unshared = self.base.model, str(found)
            self.base = None
        return model

    def _built(self, key: str, seed: int, make: Callable[[], Any]) -> Base:
        self.loads += 1
        model = make()
        drawn = RandomState.now()
        set_seed(seed)
        base = Base(key, seed, model, drawn, uses_seed=not drawn.equals(RandomState.now()))
        drawn.restore()
        base.digest = base.look()
        return base

    def place(self) -> None:
        """Let the model that was given out last have its weights on this process's device.

        To be called when its adapter stands, and before it is moved: then only the adapter has to
        be. An adapter is made where the base's weights lie, and must be made there in every run.
        """
        device = own_device()
        if self.base is None or device == "cpu":
            return
        for weight, kept in self._lent:
            if weight.device == kept.device and kept.device.type == "cpu":
                weight.data = self.base.keep_here(kept, device)

    def fault(self) -> str | None:
        """What the run that has ended did to the base; None when it is as it was."""
        self._lent = []
        if self._unshared is not None:
            return self._unshared
        if self.base is None or self.base.look() == self.base.digest:
            return None
        return "the trial wrote into the weights of its base"

    def held_bytes(self) -> int:
        """Bytes of GPU memory that the base takes."""
        if self.base is None:
            return 0
        found = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
                 for t in self.base.tensors() if t.is_cuda}  # fmt: skip
        return sum(found.values())


_shelf: Shelf | None = None


def open_shelf() -> Shelf:
    """From now on bases stay in this process."""
    global _shelf
    _shelf = Shelf()
    return _shelf


def taken(plan: Plan, tokenizer: Any, make: Callable[[], Any]) -> Any:
    """The model of a run: built, or from the shelf where there is one."""
    return make() if _shelf is None else _shelf.take(plan, tokenizer, make)


def placed() -> None:
    """The model's adapter stands: see `Shelf.place`."""
    if _shelf is not None:
        _shelf.place()


def base_key(plan: Plan, tokenizer: Any) -> str:
    """Digest of what a base is built from, the seed apart."""
    parts = {
        **{name: plan.settings[name] for name in ("model", "quantization", "precision")},
        "lowered": {name: plan.lowered[name] for name in ("model", "quantization_config")},
        "identity": plan.facts["identity"]["model"],
        # ids of its special tokens stand in the model's configuration
        "tokenizer": _digest_of(tokenizer),
    }
    return canonical_digest(parts)


def _digest_of(tokenizer: Any) -> str:
    folder = Path(str(tokenizer.name_or_path))
    files = sorted(path for path in folder.iterdir() if path.is_file())
    whole = hashlib.sha256()
    for path in files:
        whole.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def shared_copy(
    model: Any,
) -> tuple[Any, list[tuple[torch.nn.Parameter, torch.nn.Parameter]]]:
    """The same modules once more, over the same weights.

    Weights that are tied stay tied. Buffers are copied: modules rewrite theirs while they are used.

    Returns:
        The copy, and its parameters each with the one whose memory it shares.

    Raises:
        CannotShare: a parameter is of a class that cannot be made twice over one memory.
    """
    lent = []
    known: dict[int, Any] = {}
    for kept in model.parameters():
        alias = _alias(kept)
        known[id(kept)] = alias
        lent.append((alias, kept))
        state = getattr(kept, "quant_state", None)
        if state is not None:
            made_state: Any = alias
            made_state.quant_state = known[id(state)] = _same_scales(state)
    made = copy.deepcopy(model, known)
    for module in made.modules():
        weight: Any = getattr(module, "weight", None)
        if hasattr(weight, "quant_state"):
            weight.module = module  # it tells its module when it is moved
    return made, lent


def _same_scales(state: Any) -> Any:
    """What a 4-bit weight knows of itself once more, over the same tensors: the library changes
    its attributes when it packs a weight anew."""
    made = copy.copy(state)
    if getattr(made, "state2", None) is not None:
        made.state2 = copy.copy(made.state2)
    return made


def _look(tensor: torch.Tensor) -> tuple[int, int]:
    """How often torch saw it written, and a sum over elements from all parts of it."""
    words = tensor.detach().reshape(-1).view(_WORDS.get(tensor.element_size(), torch.uint8))
    step = max(1, words.numel() // LOOKED_AT)
    return tensor._version, int(words[::step].sum(dtype=torch.int64))  # noqa: SLF001 - no public way to ask


def _alias(weight: torch.nn.Parameter) -> torch.nn.Parameter:
    """Another parameter over the same memory, of the same class."""
    if type(weight) is torch.nn.Parameter:
        return torch.nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
    kind: Any = type(weight)
    known: Any = weight
    made: torch.nn.Parameter
    if hasattr(weight, "SCB"):  # 8 bits: its constructor takes what it has
        made = kind.__new__(
            kind, data=known.data, requires_grad=known.requires_grad,
            has_fp16_weights=known.has_fp16_weights, CB=known.CB, SCB=known.SCB,
        )  # fmt: skip
    else:
        made = copy.copy(weight)
    if made.data_ptr() != weight.data_ptr():
        raise CannotShare(f"a parameter of class {type(weight).__name__} cannot share its memory")
    return made
