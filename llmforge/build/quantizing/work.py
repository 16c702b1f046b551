"""What all ways of quantizing share: the model they start from, how the result is written.

In: a plan whose section `quantize` names a kind, the folder of a full model. Out: a folder that
plain transformers reads: packed safetensors, config with its `quantization_config`, generation
config, tokenizer with its chat template. How weights are rounded is `gptq.py`'s and `packed.py`'s;
what the rounding cost is measured in `figures.py`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from llmforge.build.load import load_weights
from llmforge.build.quantized import own_device
from llmforge.build.tokenizer import open_tokenizer
from llmforge.plan import Plan
from llmforge.schema.quantize import QuantizeGptq, Quantizing

Say = Callable[[str], None]

COMPANIONS = ("chat_template.jinja", "generation_config.json")
"""Files of a model folder that no weights are in, and that libraries do not write by themselves."""


class NotQuantized(RuntimeError):
    """A model that could not be quantized, or not well enough; told as a diagnostic."""

    def __init__(
        self,
        code: str,
        message: str,
        key: str | None = None,
        hint: str | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.code, self.key, self.hint, self.notes = code, key, hint, tuple(notes)


@dataclass
class Work:
    """One quantizing."""

    plan: Plan
    source: Path
    """Folder of the full model."""
    staged: Path
    """Where the result is written."""
    tokenizer: Any
    samples: list[list[int]] = field(default_factory=list)
    """Token ids of the calibration samples; empty for a kind that takes none."""
    say: Say = lambda _: None

    @property
    def spec(self) -> Quantizing:
        """The section `quantize`."""
        chosen = self.plan.spec.quantize
        assert isinstance(chosen, Quantizing)  # noqa: S101 - the driver refuses `none`
        return chosen


@dataclass(frozen=True)
class Written:
    """What a way of quantizing tells of itself."""

    modules: int
    """Packed layers."""
    weights: int
    """Numbers in them."""
    errors: dict[str, float] = field(default_factory=dict)
    """By layer: mean squared change of its outputs on the calibration samples, halved, as GPTQ
    counts it; empty where nothing is calibrated."""
    fell_back: tuple[str, ...] = ()
    """Layers that were rounded to the nearest, since no calibration reached them."""


def device_of(plan: Plan) -> str:
    """Where the work is done: the GPU of a plan for one, else the CPU."""
    return own_device() if plan.settings["hardware"]["device"] == "cuda" else "cpu"


def dtype_for(spec: Quantizing, source: Path) -> str | None:
    """Format of what is not packed; None is the source's own."""
    if spec.dtype != "auto":
        return str(spec.dtype)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    own = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return "bfloat16" if isinstance(spec, QuantizeGptq) and own == "float32" else None


def open_source(work: Work, **keywords: Any) -> Any:
    """The full model on its device, in the format that what is not packed will have."""
    keywords.setdefault("device_map", {"": device_of(work.plan)})
    return load_weights(work.source, dtype_for(work.spec, work.source), **keywords)


def open_result(folder: Path, plan: Plan) -> Any:
    """What was written, read back as anybody would."""
    return load_weights(folder, None, device_map={"": device_of(plan)})


def save(work: Work, model: Any) -> None:
    """Write the packed model and what belongs to it into the staged folder."""
    model.config.use_cache = True
    model.save_pretrained(work.staged, max_shard_size=work.spec.shard_size)
    work.tokenizer.save_pretrained(work.staged)
    for name in COMPANIONS:
        if (work.source / name).is_file():
            shutil.copyfile(work.source / name, work.staged / name)


def tokenizer_of(source: Path) -> Any:
    """The tokenizer beside the full model."""
    return open_tokenizer(source)


def packed_layers(folder: Path, suffixes: Sequence[str]) -> int:
    """Layers of a written folder whose weights are packed, by the names of their tensors."""
    from safetensors import safe_open

    found: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= set(file.keys())
    return len({n.rpartition(".")[0] for n in found if n.rpartition(".")[2] in suffixes})


def free_memory() -> None:
    """Give back what a model held before the next one is loaded."""
    import gc

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
