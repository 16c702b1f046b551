"""A sharded state is read back whole, and nothing in its folder is run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import checkpoint as pieces
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from llmforge.build.pieces import load_pieces

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


class Planted:
    """What runs when somebody unpickles it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def stepped() -> dict[str, Any]:
    """The state of an optimizer after a step."""
    model = torch.nn.Linear(3, 2).to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.25, betas=(0.8, 0.9))
    model(torch.ones(1, 3, dtype=torch.bfloat16)).sum().backward()
    optimizer.step()
    return dict(get_optimizer_state_dict(model, optimizer))


def test_a_state_comes_back_whole(tmp_path: Path) -> None:
    written, other = stepped(), stepped()
    other["param_groups"][0]["lr"] = 1.0
    pieces.save({"optimizer": written}, checkpoint_id=tmp_path / "state")

    found = {"optimizer": other}
    load_pieces(found, tmp_path / "state")

    assert found["optimizer"]["param_groups"][0]["lr"] == 0.25
    assert found["optimizer"]["param_groups"][0]["betas"] == (0.8, 0.9)
    for name, slots in written["state"].items():
        for slot, value in slots.items():
            assert torch.equal(found["optimizer"]["state"][name][slot], value)


@pytest.mark.parametrize("name", [".metadata", "__0.metadata"])
def test_a_list_of_pieces_runs_nothing(tmp_path: Path, name: str) -> None:
    pieces.save({"optimizer": stepped()}, checkpoint_id=tmp_path / "state")
    mark = tmp_path / "ran"
    (tmp_path / "state" / ".metadata").unlink()
    (tmp_path / "state" / name).write_bytes(pickle.dumps(Planted(mark)))
    with pytest.raises(pickle.UnpicklingError, match="no such list"):
        load_pieces({"optimizer": stepped()}, tmp_path / "state")
    assert not mark.exists()


def test_a_value_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    pieces.save({"value": Planted(mark)}, checkpoint_id=tmp_path / "state")
    with pytest.raises(pieces.CheckpointException, match="Weights only"):
        load_pieces({"value": 1}, tmp_path / "state")
    assert not mark.exists()
