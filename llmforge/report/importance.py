"""Which of the varied settings mattered.

In: what each finished trial chose, and its figure. Out: `Importance`: a share for each key, adding
up to 1, and the name of the measure. Where Optuna is installed and there are enough trials it is
functional analysis of variance over a random forest (Hutter, Hoos and Leyton-Brown, ICML 2014),
which also sees what settings do together. Else it is the explained variance of each key by itself
(eta squared: variance between the groups of trials that chose alike, over the whole variance).

Neither knows more than the trials: with few of them, or with a search that soon kept to one
corner, shares say little. `Importance.trials` is told beside them for that reason.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from llmforge.report.scales import DECADES, number_of

FEWEST = 4
"""Trials below which nothing is said."""
FEWEST_FOR_FOREST = 12
"""Trials below which a forest of trees has nothing to learn from."""
GROUPS = 4
"""Classes of equal size into which the many values of a searched interval are put."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Importance:
    """What was found."""

    shares: dict[str, float] = field(default_factory=dict)
    """Key -> its share, largest first; empty where nothing can be said."""
    method: str = ""
    trials: int = 0

    def to_dict(self) -> dict[str, object]:
        """JSON form."""
        return {"method": self.method, "trials": self.trials, "shares": self.shares}


def importance(chosen: Sequence[Mapping[str, str]], figures: Sequence[float]) -> Importance:
    """Shares of the keys that differ between trials.

    Args:
        chosen: for each trial, key -> text of its value.
        figures: for each trial, its objective; finite.
    """
    keys = [key for key in (chosen[0] if chosen else ()) if len({one[key] for one in chosen}) > 1]
    if len(chosen) < FEWEST or not keys or len(set(figures)) < 2:
        return Importance(trials=len(chosen))
    if len(chosen) >= FEWEST_FOR_FOREST and len(keys) > 1:
        found = _forest(keys, chosen, figures)
        if found is not None:
            return found
    shares = {key: _explained([one[key] for one in chosen], figures) for key in keys}
    return Importance(_parts(shares), "explained variance of each key by itself", len(chosen))


def _explained(texts: Sequence[str], figures: Sequence[float]) -> float:
    """Eta squared of the groups that a key makes."""
    groups: dict[str, list[float]] = {}
    for text, figure in zip(_classes(texts), figures, strict=True):
        groups.setdefault(text, []).append(figure)
    middle = fmean(figures)
    whole = sum((figure - middle) ** 2 for figure in figures)
    between = sum(len(some) * (fmean(some) - middle) ** 2 for some in groups.values())
    return between / whole if whole else 0.0


def _classes(texts: Sequence[str]) -> Sequence[str]:
    """The texts themselves; many different numbers are put into classes of equal size."""
    numbers = [number_of(text) for text in texts]
    known = sorted({number for number in numbers if number is not None})
    if None in numbers or len(known) <= 2 * GROUPS:
        return texts
    place = {number: rank * GROUPS // len(known) for rank, number in enumerate(known)}
    return [str(place[number]) for number in numbers if number is not None]


def _forest(
    keys: Sequence[str], chosen: Sequence[Mapping[str, str]], figures: Sequence[float]
) -> Importance | None:
    """Optuna's analysis; None where it is not installed or cannot be done."""
    try:
        import optuna
        from optuna.distributions import BaseDistribution, CategoricalDistribution
        from optuna.distributions import FloatDistribution as Float
        from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    except ImportError:
        return None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, BaseDistribution] = {}
    values: dict[str, list[str | float]] = {}
    for key in keys:
        texts = [one[key] for one in chosen]
        numbers = [number_of(text) for text in texts]
        known = [number for number in numbers if number is not None]
        if len(known) < len(texts):
            space[key] = CategoricalDistribution(sorted(set(texts)))
            values[key] = list(texts)
        else:
            low, high = min(known), max(known)
            space[key] = Float(low, high, log=low > 0 and high / low >= DECADES)
            values[key] = list(known)
    study = optuna.create_study()
    for number, figure in enumerate(figures):
        study.add_trial(
            optuna.trial.create_trial(
                params={key: values[key][number] for key in keys},
                distributions=space,
                value=float(figure),
            )
        )
    try:
        found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    except (ImportError, ValueError, RuntimeError) as error:
        # scikit-learn missing, or a study it cannot work with: the simple measure still can
        logger.warning("importance by analysis of variance failed: %s", error)
        return None
    return Importance(_parts(found), "functional analysis of variance (Optuna)", len(chosen))


def _parts(shares: Mapping[str, float]) -> dict[str, float]:
    """Largest first, adding up to 1."""
    total = sum(shares.values())
    if not total:
        return {}
    return {
        key: round(share / total, 4) for key, share in sorted(shares.items(), key=lambda p: -p[1])
    }
