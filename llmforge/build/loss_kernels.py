"""The training loss without whole logits: cross-entropy over chunks of tokens.

In: a causal language model, the kernel's name, the smoothing. Out: `LeanLoss`, under which the
model's forward pass gives the same loss, up to rounding, while [tokens, vocabulary] never exists.

How: while `LeanLoss` is in force, the model's output head hands on nothing and keeps the hidden
states that it was given; the model's own loss function is stood in for by one that applies head,
the family's last step (a soft cap, a scale) and cross-entropy to a few hundred tokens at a time.
Everything else of the forward pass is the model's: prompt tokens, terms of experts and adapters,
wrappers for several processes. Positions without a label never meet the head.

    chunked   any head (adapted, tied, with a bias); a chunk's logits are computed once more in the
              backward pass instead of being kept
    liger     Liger's fused kernel; a plain linear head on a CUDA device

This module does not choose a kernel (`compiler/derive/kernels.py` did) and measures nothing
(`loss.py` does, with the sums from here).
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from llmforge.build.sample import IGNORED

CHUNK_BYTES = 2**27
"""Float32 logits of one chunk: 1,024 tokens of a vocabulary of 32,768."""

LEAST_TOKENS = 1024
"""Of one chunk, however large the vocabulary: with fewer, reading the head and adding up its
gradient once for each chunk takes longer than the products themselves."""

Finish = Callable[[torch.Tensor, Any], torch.Tensor]


def _as_is(logits: torch.Tensor, _: Any) -> torch.Tensor:
    return logits


def _soft_cap(logits: torch.Tensor, config: Any) -> torch.Tensor:
    cap = config.final_logit_softcapping
    return logits if cap is None else torch.tanh(logits / cap) * cap


def _scaled(logits: torch.Tensor, config: Any) -> torch.Tensor:
    return logits * config.logit_scale


def _divided(logits: torch.Tensor, config: Any) -> torch.Tensor:
    return logits / config.logits_scaling


FINISH: Mapping[str, Finish] = {
    **dict.fromkeys(
        (
            *("exaone4", "gemma", "gemma3", "glm4", "gpt2", "gpt_neo", "gpt_neox", "gptj"),
            *("llama", "mistral", "mixtral", "olmo2", "opt", "phi", "phi3", "qwen2", "qwen2_moe"),
            *("qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2"),
        ),
        _as_is,
    ),
    **dict.fromkeys(("gemma2", "gemma3_text"), _soft_cap),
    **dict.fromkeys(("cohere", "cohere2"), _scaled),
    "granite": _divided,
}
"""What each family does to its head's output before the loss. A test holds the loss and every
gradient of each family here equal to the model's own; `compiler/derive/kernels.py` lists the same
families."""


class LeanLoss:
    """The loss of one model by one kernel.

    Args:
        model: the causal language model, under adapters or not; wrappers for several processes are
            put around it later.
        kernel: `chunked` or `liger`.
        smoothing: share of the target probability spread over the vocabulary.

    Raises:
        ValueError: the family is not in `FINISH`, or `liger` is asked for a head that is no plain
            linear layer or whose output is rescaled.
        ImportError: `liger` without the package liger-kernel.
    """

    def __init__(self, model: nn.Module, kernel: str, smoothing: float = 0.0) -> None:
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        family = base.config.model_type
        if family not in FINISH:
            raise ValueError(f"nobody has shown how `{family}` comes from its head to its loss")
        self._base, self._head = base, base.get_output_embeddings()
        self._config = base.config.get_text_config()
        self._finish, self._smoothing = FINISH[family], smoothing
        self._fused = _liger(self._head, self._finish, self._config) if kernel == "liger" else None
        # a chunk that is computed twice must draw the same numbers twice
        self._random = any(isinstance(m, nn.Dropout) and m.p > 0 for m in self._head.modules())
        self._project: Callable[[torch.Tensor], torch.Tensor] = self._head.forward
        self._hidden: torch.Tensor | None = None
        self._arithmetic: torch.dtype | None = None
        # the same two objects every time, so that a compiled model need not be compiled again
        self._stand_ins = self._keep, self._loss

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """The model's forward pass gives no logits; its loss, if it has labels, is computed here.

        Not for generation: what the model returns as logits holds nothing.
        """
        head, base = self._head, self._base
        forward, loss = head.__dict__.get("forward"), base.__dict__.get("_loss_function")
        self._project = head.forward
        head.forward, base.loss_function = self._stand_ins
        try:
            yield
        finally:
            if forward is None:
                del head.forward
            else:
                head.forward = forward
            if loss is None:
                del base._loss_function  # noqa: SLF001 - behind the property is no way to unset it
            else:
                base.loss_function = loss
            self._hidden = None

    def _keep(self, hidden: torch.Tensor) -> torch.Tensor:
        """In place of the head: [..., hidden] to [..., 1], which the caller may rescale and cut."""
        self._hidden = hidden
        device = hidden.device.type
        autocast = torch.is_autocast_enabled(device)
        self._arithmetic = torch.get_autocast_dtype(device) if autocast else None
        return hidden.new_zeros((*hidden.shape[:-1], 1))

    def _loss(
        self,
        logits: torch.Tensor,  # noqa: ARG002 - they hold nothing
        labels: torch.Tensor,
        vocab_size: int | None = None,  # noqa: ARG002 - the head has its own width
        num_items_in_batch: torch.Tensor | int | None = None,
        ignore_index: int = IGNORED,
        shift_labels: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """In place of transformers' causal loss, by its signature; the same number."""
        if self._hidden is None:
            raise RuntimeError("the model asked for a loss without asking its head for logits")
        if shift_labels is None:
            shift_labels = functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]
        targets = shift_labels.reshape(-1).to(self._hidden.device)
        hidden = self._hidden.reshape(-1, self._hidden.shape[-1])
        kept = targets != ignore_index
        nll = self._sum(hidden[kept], targets[kept])
        if num_items_in_batch is None:
            return nll / kept.sum()
        if isinstance(num_items_in_batch, torch.Tensor):
            num_items_in_batch = num_items_in_batch.to(nll.device)
        return nll / num_items_in_batch

    def _sum(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Summed loss of [tokens, hidden] against [tokens], in float32."""
        if self._fused is not None:
            return self._fused(hidden, targets, self._smoothing)
        size = self._chunk()
        # no token at all is one empty chunk: the head gets a gradient of zeros, as other processes
        # that wait for it expect
        pieces = [
            checkpoint(
                self._piece,
                *chunk,
                self._smoothing,
                use_reentrant=False,
                preserve_rng_state=self._random,
            )
            for chunk in zip(hidden.split(size), targets.split(size), strict=True)
        ]
        return torch.stack(pieces).sum()

    def _piece(self, hidden: torch.Tensor, targets: torch.Tensor, smoothing: float) -> torch.Tensor:
        logits = self._finish(self._project(hidden), self._config).float()
        return functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)

    def _chunk(self) -> int:
        return max(LEAST_TOKENS, CHUNK_BYTES // (4 * int(self._config.vocab_size)))

    # measuring

    def token_nll(self, labels: torch.Tensor) -> torch.Tensor:
        """As `loss.token_nll`, of the forward pass just made under `in_force`, without smoothing.

        Args:
            labels: [batch, time], not shifted; -100 carries no loss.

        Returns:
            [batch, 2], float64: nll in nats, tokens.
        """
        if self._hidden is None:
            raise RuntimeError("no forward pass was made")
        # tokens that prompt tuning puts before the text have no labels
        hidden = self._hidden[:, self._hidden.shape[1] - labels.shape[1] :][:, :-1]
        targets = labels[:, 1:].to(hidden.device)
        # the forward pass is over, and with it its autocast
        with torch.autocast(
            hidden.device.type, self._arithmetic, enabled=self._arithmetic is not None
        ):
            sums = [self._row(*row) for row in zip(hidden, targets, strict=True)]
        return torch.stack([torch.stack(sums), (targets != IGNORED).sum(dim=1).double()], dim=1)

    def _row(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        kept, size = targets != IGNORED, self._chunk()
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        for states, wanted in zip(hidden[kept].split(size), targets[kept].split(size), strict=True):
            logits = self._finish(self._project(states), self._config).float()
            total += functional.cross_entropy(logits, wanted, reduction="none").double().sum()
        return total


def _liger(
    head: nn.Module, finish: Finish, config: Any
) -> Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]:
    """Liger's fused head and cross-entropy: it computes gradients in the forward pass."""
    # by name: the package is an extra, and only there with CUDA
    functions = importlib.import_module("liger_kernel.transformers.functional")
    plain = getattr(head, "modules_to_save", {}).get("default", head)
    if not isinstance(plain, nn.Linear) or hasattr(plain, "base_layer"):
        raise ValueError(f"liger wants a plain linear head, not {type(plain).__name__}")
    if finish not in (_as_is, _soft_cap):
        raise ValueError("liger has no kernel for a head whose output is rescaled")
    cap = config.final_logit_softcapping if finish is _soft_cap else None

    def fused(hidden: torch.Tensor, targets: torch.Tensor, smoothing: float) -> torch.Tensor:
        device = hidden.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else plain.weight.dtype
        loss: torch.Tensor = functions.liger_fused_linear_cross_entropy(
            hidden.to(dtype),
            plain.weight.to(dtype),
            targets,
            bias=None if plain.bias is None else plain.bias.to(dtype),
            label_smoothing=smoothing,
            reduction="sum",
            softcap=cap,
            accum_dtype=torch.float32,
        )
        return loss

    return fused
