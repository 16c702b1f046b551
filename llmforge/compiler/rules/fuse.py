"""LF94: a merge that cannot work, found before there is anything to merge."""

from __future__ import annotations

from collections.abc import Iterator

from llmforge.compiler.context import Context
from llmforge.compiler.facts.quantized import quantized_base
from llmforge.compiler.rules.base import rule
from llmforge.diagnostics import Diagnostic
from llmforge.schema.adapter import NoAdapter, VirtualTokens


@rule("LF940", "nothing that can be merged")
def nothing_to_merge(context: Context) -> Iterator[Diagnostic]:
    """`llmforge fuse` merges an adapter into its base. A full fine-tune has none: its final model
    is whole as it is. Prompt and prefix tuning train vectors that are read along with the text;
    they are no change of weights, so the adapter stays beside its base.

    Found when the plan is made with `fuse.after_training`, else when the merge is asked for; there
    also for a folder that holds no adapter, or not a whole one.
    """
    adapter = context.spec.lora
    if not context.spec.fuse.after_training:
        return
    if isinstance(adapter, NoAdapter):
        why = "a run that trains all weights has no adapter to merge"
    elif isinstance(adapter, VirtualTokens):
        why = f"{adapter.kind} tuning is no change of weights, so it cannot be merged"
    else:
        return
    yield Diagnostic("LF940", why, key="fuse.after_training", hint="fuse.after_training=false")


@rule("LF941", "merge into a base that is quantized on disk")
def quantized_on_disk(context: Context) -> Iterator[Diagnostic]:
    """Weights that were rounded to a few bits have no room for an adapter: merging into them would
    round most of it away, in silence. The merge takes the full-precision original, which a
    quantized checkpoint does not name. A base that is packed while it is loaded
    (`quantization=4bit`) is its own original, and needs nothing.
    """
    fuse = context.spec.fuse
    if not fuse.after_training or fuse.base is not None:
        return
    if (packed := quantized_base(context.facts.model_config)) is None:
        return
    yield Diagnostic(
        "LF941",
        f"the base is quantized ({packed.name}), and does not say what it was packed from",
        key="fuse.base",
        hint="fuse.base=<folder or hub id>",
    )
