"""Writes a corpus of hostile data files, and says of each what has to come of it.

In: a folder. Out: `make`, the cases; by itself a script, `python tests/corpus/make.py FOLDER`, that
also lists them. Who imports this module has its folder on the path; nothing here reads a file.
"""

from __future__ import annotations

import sys
from pathlib import Path

from corpus_binary import add_binary_files
from corpus_cases import Case, Corpus
from corpus_text import add_text_files


def make(folder: Path) -> list[Case]:
    """Fill a folder, which is made if need be; the same bytes each time."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus = Corpus(folder)
    add_text_files(corpus)
    add_binary_files(corpus)
    return corpus.cases


if __name__ == "__main__":
    for case in make(Path(sys.argv[1])):
        print(f"{case.code or 'fine':6} {case.place or case.file:28} {case.words}")
