"""LF6: tokens against the rows of a checkpoint's embedding, and the attention that reads them.

In: a solved context. Out: findings. How many tokens a tokenizer has that is trained here is judged
in `model.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmforge.compiler.context import Context
from llmforge.compiler.facts.targets import (
    embeddings_and_head,
    ends_of_embeddings,
    saved_modules,
    trains_tied_embedding,
)
from llmforge.compiler.parse import override
from llmforge.compiler.rules.base import rule
from llmforge.diagnostics import Diagnostic
from llmforge.schema.adapter import NoAdapter
from llmforge.schema.model import ScratchModel


@rule("LF619", "new tokens under a frozen embedding")
def new_tokens_frozen(context: Context) -> Iterator[Diagnostic]:
    """A tokenizer trained here gives its tokens other numbers than the checkpoint learned, one from
    another folder may have tokens that the checkpoint's own lacks (marks of a chat, say); and an
    adapter leaves the embedding as it is: such a token would look up some other token's vector, or
    one that nobody trained.

    Keep the checkpoint's tokenizer, or train embedding and head with the adapter. The embedding
    keeps its number of rows: llmforge never resizes one (more tokens than rows are LF609, LF620),
    and a chat template never adds tokens (marks that the tokenizer lacks are ordinary text).
    """
    spec, model = context.spec, context.facts.model
    scratch = isinstance(spec.model, ScratchModel)
    if scratch or model is None or isinstance(spec.lora, NoAdapter):
        return
    known = context.facts.tokenizer
    if spec.tokenizer.source == "train":
        what = "a new tokenizer, and"
    elif known is not None and known.new:
        shown = ", ".join(f"`{token}`" for token in known.new[:3])
        more = f" and {len(known.new) - 3:,} more" if len(known.new) > 3 else ""
        what = f"tokens that the checkpoint did not learn ({shown}{more}), and"
    else:
        return
    saved = getattr(spec.lora, "modules_to_save", [])
    if not set(embeddings_and_head(model)) - set(saved_modules(model, saved)):
        return
    if trains_tied_embedding(model, saved):
        return  # one of two names is enough: they are one weight
    both = override("lora.modules_to_save", sorted(ends_of_embeddings(model)))
    yield Diagnostic(
        "LF619",
        f"{what} the adapter leaves the checkpoint's embedding frozen",
        key="tokenizer.source",
        notes=(f"to train both: {both}",),
        hint="tokenizer.source=model",
    )


@rule("LF620", "tokenizer larger than the embedding")
def tokenizer_beyond_rows(context: Context) -> Iterator[Diagnostic]:
    """The tokenizer of `tokenizer.source` has tokens whose numbers lie beyond the checkpoint's
    embedding: the run would end when the model is built.

    llmforge never resizes an embedding. The checkpoint's own tokenizer fits; an embedding that was
    made larger elsewhere and saved with the model does too.
    """
    known, model = context.facts.tokenizer, context.facts.model
    if known is None or model is None or known.rows <= model.vocabulary:
        return
    scratch = isinstance(context.spec.model, ScratchModel)
    yield Diagnostic(
        "LF620",
        f"a tokenizer of {known.rows:,} tokens for {model.vocabulary:,} embedding rows",
        key="tokenizer.source",
        hint=f"model.vocabulary={known.rows}" if scratch else "tokenizer.source=model",
    )


@rule("LF622", "attention kernels that are not installed")
def flash_attention_missing(context: Context) -> Iterator[Diagnostic]:
    """FlashAttention-2 is the package flash-attn's, which is compiled for one GPU generation and
    one version of torch, and therefore comes with no extra of llmforge.

    `model.attention=auto` takes it where it is installed; PyTorch's own fused attention (`sdpa`)
    has flash kernels too. Kernels that would be downloaded when the model is built are not used.
    """
    if context.spec.model.attention == "flash_attention_2" and not context.facts.has("flash-attn"):
        yield Diagnostic(
            "LF622",
            "flash-attn is needed but not installed",
            key="model.attention",
            hint="model.attention=sdpa",
        )
