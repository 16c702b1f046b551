"""What is made of a pair's log-probabilities: rewards, the loss of each pair, figures of them all.

In: log-probabilities of both answers under policy and reference, [pairs] each. Out: `PairNumbers`,
and `PairSums`, exact figures of an evaluation. The losses are those of TRL's `DPOTrainer`, which
computes them for training as the mean of a batch; an evaluation needs them pair by pair, or its
figures would depend on which pairs share a batch. A test holds each against TRL's.

    reward = beta * (log-probability under the policy - under the reference)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid, relu

from llmforge.build.loss import HeldOut

DISCOPOP_TEMPERATURE = 0.05
"""TRL's `discopop_tau`, which is the paper's."""


@dataclass(frozen=True)
class Ratios:
    """Of each pair, [pairs]: policy against reference, in nats."""

    chosen: torch.Tensor
    rejected: torch.Tensor
    chosen_tokens: torch.Tensor
    """Tokens of the answer."""
    rejected_tokens: torch.Tensor

    @property
    def margin(self) -> torch.Tensor:
        return self.chosen - self.rejected

    @property
    def margin_per_token(self) -> torch.Tensor:
        chosen = self.chosen / self.chosen_tokens.clamp(min=1)
        return chosen - self.rejected / self.rejected_tokens.clamp(min=1)


def _exo(r: Ratios, beta: float, smoothing: float) -> torch.Tensor:
    better, worse = logsigmoid(beta * r.margin), logsigmoid(-beta * r.margin)
    aimed = better.exp() * (better - math.log1p(-smoothing))
    return aimed + worse.exp() * (worse - math.log(smoothing))


def _robust(r: Ratios, beta: float, smoothing: float) -> torch.Tensor:
    right = -(1 - smoothing) * logsigmoid(beta * r.margin)
    turned = -smoothing * logsigmoid(-beta * r.margin)
    return (right - turned) / (1 - 2 * smoothing)


def _nca(r: Ratios, beta: float, _: float) -> torch.Tensor:
    chosen, rejected = beta * r.chosen, beta * r.rejected
    return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)


def _discopop(r: Ratios, beta: float, _: float) -> torch.Tensor:
    logits = beta * r.margin
    share = torch.sigmoid(logits / DISCOPOP_TEMPERATURE)
    return -logsigmoid(logits) * (1 - share) + torch.exp(-logits) * share


LOSSES: dict[str, Callable[[Ratios, float, float], torch.Tensor]] = {
    "sigmoid": lambda r, beta, _: -logsigmoid(beta * r.margin),
    "hinge": lambda r, beta, _: relu(1 - beta * r.margin),
    "ipo": lambda r, beta, _: (r.margin_per_token - 1 / (2 * beta)) ** 2,
    "robust": _robust,
    "exo_pair": _exo,
    "nca_pair": _nca,
    "bco_pair": lambda r, beta, _: -logsigmoid(beta * r.chosen) - logsigmoid(-beta * r.rejected),
    "sppo_hard": lambda r, beta, _: (r.chosen - 0.5 / beta) ** 2 + (r.rejected + 0.5 / beta) ** 2,
    "apo_zero": lambda r, beta, _: 1 - torch.sigmoid(beta * r.chosen)
    + torch.sigmoid(beta * r.rejected),
    "apo_down": lambda r, beta, _: torch.sigmoid(beta * r.chosen) + 1
    - torch.sigmoid(beta * r.margin),
    "discopop": _discopop,
    "sigmoid_norm": lambda r, beta, _: -logsigmoid(beta * r.margin_per_token),
}  # fmt: skip
"""`trainer.loss` -> [pairs]. Arguments: ratios, beta, label smoothing."""


def blank_loss(loss: str, beta: float, smoothing: float) -> float:
    """Of a pair whose answers have no labels: all its log-probabilities are 0."""
    zero = torch.zeros(1)
    return float(LOSSES[loss](Ratios(zero, zero, zero, zero), beta, smoothing))


COLUMNS = ("loss", "rewards_chosen", "rewards_rejected", "rewards_accuracy", "rewards_margin")
"""Of a pair's numbers; the last column counts it."""


def pair_numbers(ratios: Ratios, loss: str, beta: float, smoothing: float) -> torch.Tensor:
    """[pairs, 6], float64: `COLUMNS`, and 1. An accuracy is 1 where the chosen reward is larger."""
    chosen, rejected = beta * ratios.chosen, beta * ratios.rejected
    columns = [
        LOSSES[loss](ratios, beta, smoothing),
        chosen,
        rejected,
        (chosen > rejected).to(chosen.dtype),
        chosen - rejected,
        torch.ones_like(chosen),
    ]
    return torch.stack([column.double() for column in columns], dim=1)


class PairSums(HeldOut):
    """Sums of pairs' numbers, by evaluation set."""

    def _figures(self, sums: list[float], prefix: str) -> dict[str, float]:
        """`eval_loss`, `eval_rewards_accuracy`, ..., means over pairs, and `eval_pairs`."""
        count = sums[-1] if sums else 0.0
        found = {
            f"{prefix}_{name}": sums[place] / count if count else math.nan
            for place, name in enumerate(COLUMNS)
        }
        return {**found, f"{prefix}_pairs": int(count)}
