"""The multi-step schedule against PyTorch's own, and through a checkpoint."""

from __future__ import annotations

import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import MultiStepLR

from llmforge.build.schedules import OwnRate, multistep, sets_its_own_rate


def optimizer(*rates: float) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups)


def course(scheduler, steps: int) -> list[list[float]]:
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr())
        scheduler.optimizer.step()
        scheduler.step()
    return found


@settings(max_examples=40, deadline=None)
@given(
    marks=st.lists(st.integers(1, 30), min_size=1, max_size=4, unique=True).map(sorted),
    gamma=st.floats(0.1, 1.0),
)
def test_without_warm_up_it_is_that_of_pytorch(marks, gamma):
    ours = course(multistep(optimizer(2e-4), 0, marks, gamma), 32)
    theirs = course(MultiStepLR(optimizer(2e-4), milestones=marks, gamma=gamma), 32)

    assert all(math.isclose(a[0], b[0], rel_tol=1e-12) for a, b in zip(ours, theirs, strict=True))


def test_each_group_keeps_its_own_peak():
    found = course(multistep(optimizer(1.0, 16.0), 4, [6, 8], 0.5), 10)

    assert [rates[0] for rates in found] == [0, 0.25, 0.5, 0.75, 1, 1, 0.5, 0.5, 0.25, 0.25]
    assert all(second == 16 * first for first, second in found)


def test_it_goes_on_where_a_checkpoint_left_it():
    whole = course(multistep(optimizer(1.0), 4, [6, 8], 0.5), 10)
    first = multistep(optimizer(1.0), 4, [6, 8], 0.5)
    course(first, 7)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)

    again = multistep(optimizer(1.0), 4, [6, 8], 0.5)
    again.load_state_dict(torch.load(file, weights_only=True))

    assert again.get_last_lr() == whole[7]
    again.optimizer.step()
    again.step()
    assert again.get_last_lr() == whole[8]


def test_an_optimizer_that_sets_its_own_rate():
    from transformers.optimization import Adafactor

    own = Adafactor([torch.nn.Parameter(torch.zeros(2, 2))], lr=None, relative_step=True)

    assert sets_its_own_rate(own)
    assert not sets_its_own_rate(optimizer(1.0))
    assert OwnRate(own).get_last_lr() == [0.0]


@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_two_milestones_at_one_step_both_count(gamma):
    assert course(multistep(optimizer(1.0), 0, [2, 2], gamma), 3)[2] == [gamma**2]
