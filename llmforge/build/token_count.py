"""How many tokens a run has trained on: counted, over all processes and attempts.

In: samples on their way into a batch. Out: `CountedTokens`, the part of a trainer that adds up
their lengths, padding and rows that only fill a batch (`filling.py`) left out; of pairs both
answers count. The number stands in a checkpoint's `trainer_state.json`, under the library's own
name, so that a run that goes on counts on.

Counting costs a sum of lengths where batches are made, and one exchange at each save. What the plan
foretells is compared in `run/outcome.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from llmforge.build.filling import FILLS, WholeTurns
from llmforge.build.sample import REJECTED_IDS

_TOKENS = "trained_tokens"
"""Entry of a batch, while it is on its way."""


@dataclass(frozen=True)
class Counted:
    """A collator whose batches say how many tokens they were made of."""

    collate: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """As the collator."""
        columns = ("input_ids", REJECTED_IDS)
        real = [item for item in items if FILLS not in item]
        tokens = sum(len(item[name]) for item in real for name in columns if name in item)
        return {**self.collate(items), _TOKENS: tokens}


class CountedTokens(WholeTurns):
    """A Trainer that knows how many tokens it has seen."""

    data_collator: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tokens = 0
        """Of this process, since they were last added up."""
        self._whole = True
        """Did every attempt before this one count?"""

    def tokens_seen(self) -> int | None:
        """Of all processes and attempts; None where not all were counted. All must ask."""
        if self.args.include_num_input_tokens_seen != "no":
            return None  # by its own rules, as `trainer.extra` wished
        own = torch.tensor(self._tokens, device=self.args.device)
        self._tokens = 0
        self.state.num_input_tokens_seen += int(self.accelerator.gather(own).sum())
        seen = int(self.state.num_input_tokens_seen)
        return seen if seen and self._whole else None

    def noted(self, collate: Any) -> Any:
        """The collator, whose batches say what they are made of as well; other parts add to it."""
        return Counted(collate)

    def get_train_dataloader(self) -> Any:
        """Its batches say how many tokens are in them."""
        collate, self.data_collator = self.data_collator, self.noted(self.data_collator)
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = collate

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The micro batches of a step; their tokens are counted."""
        batches, items = super().get_batch_samples(*args, **kwargs)
        if self.state.global_step and not (self._tokens or self.state.num_input_tokens_seen):
            self._whole = False  # the checkpoint was written before anybody counted
        self._tokens += sum(batch.pop(_TOKENS, 0) for batch in batches if isinstance(batch, dict))
        return batches, items

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.tokens_seen()
        super()._save_checkpoint(*args, **kwargs)
