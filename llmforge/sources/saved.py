"""Folders written by `datasets.save_to_disk`, read without that library.

In: a folder and the name of a split. Out: `saved_parts`, one `ArrowPart` for each of its files, in
the order that the folder's own list has. Nothing is unpickled; only files inside the folder are
opened.
"""

from __future__ import annotations

import json
from pathlib import Path
from shlex import quote
from typing import Any

from llmforge.diagnostics import near
from llmforge.sources.base import Fault, Unusable, excerpt
from llmforge.sources.files import override, unusable
from llmforge.sources.tables import ArrowPart

_STATE, _SPLITS = "state.json", "dataset_dict.json"
_KINDS = {".parquet": "parquet", ".jsonl": "jsonl", ".csv": "csv", ".json": "json",
          ".arrow": "arrow"}  # fmt: skip


def saved_parts(path: str, split: str | None, key: str = "data.train") -> list[ArrowPart]:
    """The Arrow files of one split, or of a folder without splits.

    Args:
        path: the folder, as the settings write it.
        split: its name; None for a folder that holds one data set.
        key: the setting that names the split, for hints.

    Raises:
        Unusable: LF501; no such folder, split or file. LF504; the folder's lists are damaged.
    """
    folder = Path(path).expanduser()
    if (folder / _SPLITS).is_file():
        folder = folder / _chosen(path, _listed_splits(path, folder), split, key)
    elif (folder / _STATE).is_file():
        if split is not None:
            what = f"holds one data set without splits, so there is no `{excerpt(split)}`"
            raise unusable(path, what, hint=f"{key}=null")
    else:
        raise _not_saved(path, folder)
    shown = path if split is None else f"{path.rstrip('/')}/{split}"
    return [
        ArrowPart(f"{shown.rstrip('/')}/{file}", folder / file)
        for file in _listed_files(shown, folder)
    ]


def _listed_splits(path: str, folder: Path) -> list[str]:
    found = _loaded(path, folder / _SPLITS)
    splits = found.get("splits") if isinstance(found, dict) else None
    if not isinstance(splits, list) or not splits or not all(map(_is_plain, splits)):
        raise _damaged(path, _SPLITS, "it has no list of `splits`")
    return splits


def _chosen(path: str, splits: list[str], split: str | None, key: str) -> str:
    if split in splits:
        return split
    listed = ", ".join(f"`{name}`" for name in splits)
    if split is None:
        guess = "train" if "train" in splits else splits[0]
        raise unusable(path, f"has splits: {listed}", hint=override(key, guess))
    guesses = near(split, splits) or splits[:1]
    what = f"has no split `{excerpt(split)}`"
    raise unusable(path, what, notes=(f"splits there: {listed}",), hint=override(key, guesses[0]))


def _listed_files(shown: str, folder: Path) -> list[str]:
    if not (folder / _STATE).is_file():
        raise _damaged(shown, _STATE, "it is not there")
    state = _loaded(shown, folder / _STATE)
    listed = state.get("_data_files") if isinstance(state, dict) else None
    files = [file.get("filename") if isinstance(file, dict) else None for file in listed or ()]
    if not isinstance(listed, list) or not all(map(_is_plain, files)):
        raise _damaged(shown, _STATE, "it has no list of `_data_files`")
    if state.get("_indices_data_files"):
        # an old layout: the rows are a choice from the files, which the files do not show
        what = "was saved by an old version of datasets, with its rows in another file"
        raise unusable(shown, what, code="LF504", hint="load and save it with datasets 2 or later")
    for file in files:
        if not (folder / str(file)).is_file():
            what = f"lacks {file}, which {_STATE} lists"
            raise unusable(shown, what, hint="save or copy the folder again")
    return [str(file) for file in files]


def _is_plain(name: Any) -> bool:
    """Is it the name of something in the folder itself?"""
    return isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name


def _loaded(shown: str, path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise unusable(shown, f"cannot be read: {path.name}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(shown, path.name, excerpt(str(error))) from error


def _damaged(shown: str, file: str, reason: str) -> Unusable:
    hint = "save or copy the folder again"
    return unusable(shown, f"has no sound {file}: {reason}", code="LF504", hint=hint)


def _not_saved(path: str, folder: Path) -> Unusable:
    """Why a path is no such folder, and what it may be instead."""
    if not folder.exists():
        beside = folder.parent
        guess = near(folder.name, [p.name for p in beside.iterdir()]) if beside.is_dir() else []
        hint = override("data.path", beside / guess[0]) if guess else None
        where = (f"looked from {Path.cwd()}",)
        fault = Fault("LF501", "does not exist", hint=hint, key="path", notes=where)
        return Unusable(f"saved data set {path}", fault)
    suffix = folder.suffix
    what = "is a file, not a folder that datasets.save_to_disk wrote"
    notes: tuple[str, ...] = ()
    inside: list[Path] = []
    if folder.is_dir():
        what = "is not a folder that datasets.save_to_disk wrote"
        inside = sorted(folder.iterdir())
        notes = (f"neither {_SPLITS} nor {_STATE} is there",)
        suffix = next((p.suffix for p in inside if p.suffix in _KINDS), "")
    hint = None
    saved = next((p for p in inside if (p / _STATE).is_file() or (p / _SPLITS).is_file()), None)
    if saved is not None:
        hint = override("data.path", saved)
    elif folder.is_dir() and (folder / "config.json").is_file():
        notes = (*notes, "it looks like a model")
    elif suffix in _KINDS:
        hint = f"data={_KINDS[suffix]} {override('data.train', path)}"
    else:
        notes = (*notes, f"see what is there: ls -a {quote(path)}")
    return Unusable(path, Fault("LF501", what, hint=hint, key="path", notes=notes))
