"""What cannot work: one function per rule, one module per family of codes.

`RULES` is the whole list. A rule reads a solved `Context` and yields diagnostics; it never raises
for a user's fault. Its docstring is what `llmforge explain CODE` prints; its page in
`tests/diagnostics/` shows a config that it refuses and the hint that is then accepted.
"""

from __future__ import annotations

from llmforge.compiler.rules import (
    adapter,
    adapter_kinds,
    arguments,
    batch,
    checkpoint,
    data,
    deepspeed_file,
    disk,
    distributed,
    evaluation,
    extension,
    fuse,
    generation,
    hub,
    launching,
    memory,
    model,
    optimizer,
    packing,
    precision,
    preference,
    quantization,
    quantize,
    recipe,
    tokens,
    tracking,
    training,
)
from llmforge.compiler.rules.base import Rule, registered_rules

MODULES = (
    batch,
    evaluation,
    checkpoint,
    memory,
    disk,
    precision,
    quantization,
    quantize,
    optimizer,
    distributed,
    deepspeed_file,
    launching,
    data,
    packing,
    preference,
    model,
    adapter,
    adapter_kinds,
    tokens,
    tracking,
    training,
    arguments,
    recipe,
    generation,
    extension,
    hub,
    fuse,
)

RULES: tuple[Rule, ...] = registered_rules()

__all__ = ["MODULES", "RULES", "Rule"]
