"""Presets in JSON files, Void-Trainer's and DeepSpeed's, completed to ordinary sections.

In: a draft with `optimizer: {kind: file, path: preset.json}`, or `lora` likewise. Out: the same
with the section (and the schedule that an optimizer's preset brings) as the file says it, each
value with the file's line as its origin; what the file has no key for stands in the shipped option
of the same kind. Faults of the file become diagnostics, and the shipped option stands in, so that
the rest is still checked.

Which keys a file may have is in `preset_optimizer.py`, `preset_lora.py` and
`preset_deepspeed.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmforge.compiler.preset_deepspeed import fill_deepspeed
from llmforge.compiler.preset_lora import fill_lora
from llmforge.compiler.preset_optimizer import fill_optimizer
from llmforge.compose import Draft


def fill_presets(
    draft: Draft, config_dirs: Sequence[str | Path] = (), root: Path | None = None
) -> Draft:
    """The draft with whole sections; itself when no preset file is named."""
    options = (config_dirs, root)
    return fill_deepspeed(fill_lora(fill_optimizer(draft, options), options), options)
