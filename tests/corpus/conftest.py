"""The corpus, written once a session: its folder and its cases, which are only to be read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from corpus_cases import Case

# the corpus is a script with two helpers, not a package
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Case]]:
    from make import make

    folder = tmp_path_factory.mktemp("corpus")
    return folder, make(folder)
