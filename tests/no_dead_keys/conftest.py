"""What the fields of the schema change, and who reads them: both found once for these tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from dead_key_bases import Bases
    from dead_key_reads import Reads

# test folders are no packages, so the helpers beside this file are found by path
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module", autouse=True)
def no_plugins_of_other_tests() -> Iterator[None]:
    """A process that reads a data set class imports every plugin, and theirs are gone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmforge.plugins._loaded", {})
        yield


@pytest.fixture(scope="module")
def bases(bench: Path, every_kind: dict[str, tuple[str, ...]]) -> Bases:
    """`bases(field)`: composed values in which the field means something."""
    from dead_key_bases import Bases

    with chdir(bench):
        return Bases(bench, every_kind)


@pytest.fixture(scope="module")
def reads(bases: Bases, tmp_path_factory: pytest.TempPathFactory) -> Reads:
    """What was read in runs of many plans."""
    pytest.importorskip("bitsandbytes", reason="one of the runs packs its base")
    from dead_key_runs import read_in_runs

    return read_in_runs(bases, tmp_path_factory.mktemp("reads"))
