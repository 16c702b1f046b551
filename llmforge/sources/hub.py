"""Data sets of the Hugging Face hub, or of a folder that the datasets library takes in its place.

In: a `HubSource`, a split, the cache folder. Out: parts that read the Arrow files which that
library made, and what the plan records: the commit that the revision stood for. The library runs
in a process of its own, so the compiler never imports it. No code of a data set is ever run: only
files of rows are read (Arrow, CSV, JSON, Parquet, text).

What was found is remembered on disk by id, configuration and commit. A commit that is known needs
neither network nor process; a branch is looked up at each plan, and stands for the commit that it
stood for last when the hub cannot be reached.

Run as `python -m llmforge.sources.hub`, this module is that process.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmforge.diagnostics import did_you_mean, near
from llmforge.schema.data import HubSource
from llmforge.sources.base import Fault, Part, Unusable, excerpt
from llmforge.sources.process import answer, ask

CODE = "LF501"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_READERS = ("arrow", "csv", "json", "parquet", "text")
"""Readers of the datasets library that give rows of text; the others are for pictures, sound, or
files that could hold code."""
_SECONDS = 30


def hub_parts(source: HubSource, split: str, cache: Path) -> tuple[list[Part], dict[str, Any]]:
    """Parts of one split, one for each Arrow file, and what was found out.

    Returns:
        The parts, and `commit` (None for a local folder), `rows` (by split), `columns` (name to
        type) and `offline` (the hub could not be reached, so `commit` is the last that was seen).

    Raises:
        Unusable: LF501: no such data set, revision, configuration or split, with near matches; no
            network; no access; or files that hold no rows of text.
    """
    from llmforge.sources.tables import ArrowPart

    name = f"data set {source.id}"
    if re.search(r"[\[+]", split):
        what = f"has no split of the name `{split}`: a part of a split is not a split"
        cure = "data.max_train_rows=<rows>, or data.eval_fraction=<share> to hold some out"
        raise Unusable(name, Fault(CODE, what, hint=cure))
    found = _known(source, cache) if _COMMIT.fullmatch(source.revision) else None
    if found is None:
        request = {
            "id": source.id,
            "configuration": source.configuration,
            "revision": source.revision,
            "cache": str(cache),
        }
        found = ask("llmforge.sources.hub", request, name, CODE)
    splits = found["splits"]
    if split not in splits:
        what = f"has no split of the name `{split}`"
        guess = near(split, splits, limit=1)
        notes = (f"its splits: {', '.join(splits)}",)
        setting = _setting(source, split)
        hint = f"{setting}={guess[0]}" if guess and setting else None
        raise Unusable(
            name, Fault(CODE, what, hint=hint, notes=notes + did_you_mean(split, splits))
        )
    files = splits[split]["files"]
    several = [
        f" {number}/{len(files)}" if len(files) > 1 else "" for number in range(1, len(files) + 1)
    ]
    parts: list[Part] = [
        ArrowPart(f"{source.id} {split}{which}", Path(file))
        for which, file in zip(several, files, strict=True)
    ]
    facts = {
        "commit": found["commit"],
        "rows": {each: known["rows"] for each, known in splits.items()},
        "columns": found["columns"],
        "offline": found["offline"],
    }
    return parts, facts


def _setting(source: HubSource, split: str) -> str | None:
    """The setting that names the split, to be pasted in a hint."""
    sets = source.evaluation if isinstance(source.evaluation, Mapping) else {}
    named = {f"data.evaluation.{name}": value for name, value in sets.items()}
    every = {"data.train": source.train, "data.evaluation": source.evaluation} | named
    return next((setting for setting, value in every.items() if value == split), None)


def look(request: Mapping[str, Any]) -> dict[str, Any]:
    """The other process's work: find the commit, have the library make Arrow files, list them.

    Args:
        request: `id`, `configuration`, `revision`, `cache`.

    Returns:
        `commit`, `offline`, `columns`, and by split `files` and `rows`.

    Raises:
        Unusable: see `hub_parts`.
    """
    given, name = str(request["id"]), f"data set {request['id']}"
    configuration, cache = request["configuration"], Path(request["cache"])
    if Path(given).is_dir():  # the folder may change from one plan to the next
        return _load(given, configuration, None, name) | {"commit": None, "offline": False}
    last = cache / "hub" / f"{_digest(given, configuration, request['revision'])}.last.json"
    commit, offline = _commit(given, request["revision"], name, last)
    memory = _memory(cache, given, configuration, commit)
    found = _read(memory)
    if found is None:
        found = _load(given, configuration, commit, name) | {"commit": commit}
        _write(memory, found)
    _write(last, {"commit": commit})
    return found | {"offline": offline}


def _commit(given: str, revision: str, name: str, last: Path) -> tuple[str, bool]:
    """The commit that a revision stands for, and whether the hub could not be asked."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    api = HfApi()
    try:
        return str(api.dataset_info(given, revision=revision, timeout=_SECONDS).sha), False
    except RevisionNotFoundError as error:
        refs = api.list_repo_refs(given, repo_type="dataset")
        names = [ref.name for ref in [*refs.branches, *refs.tags]]
        guess = near(revision, names, limit=1)
        raise Unusable(name, Fault(
            CODE, f"has no revision `{revision}`", key="revision",
            hint=f"data.revision={guess[0]}" if guess else None,
            notes=(f"its branches and tags: {', '.join(names)}",),
        )) from error  # fmt: skip
    except RepositoryNotFoundError as error:
        raise Unusable(name, Fault(
            CODE, "does not exist on the hub, or you may not see it", key="id",
            hint="check data.id; for a private data set: export HF_TOKEN=<your token>",
        )) from error  # fmt: skip
    except HFValidationError as error:
        raise Unusable(name, Fault(
            CODE, "is not the id of a data set, nor a folder here", key="id",
            hint="data.id=<owner>/<name>",
        )) from error  # fmt: skip
    except Exception as error:
        # no network, or a hub in trouble: the libraries have a dozen kinds of error for it
        seen = _read(last, whole=False) or _reference(given, revision)
        if seen is not None:
            return str(seen["commit"]), True
        said = excerpt(f"{type(error).__name__}: {error}")
        raise Unusable(name, Fault(
            CODE, f"cannot be looked up, the hub was not reached: {said}", key="id",
            hint="plan once where there is a network; the copy is used from then on",
        )) from error  # fmt: skip


def _reference(given: str, revision: str) -> dict[str, str] | None:
    """What the hub's own cache says a revision stood for, when another tool downloaded it."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE) / f"datasets--{given.replace('/', '--')}"
    reference = folder / "refs" / revision
    if _COMMIT.fullmatch(revision) and (folder / "snapshots" / revision).is_dir():
        return {"commit": revision}
    return {"commit": reference.read_text("ascii").strip()} if reference.is_file() else None


def _load(given: str, configuration: str | None, commit: str | None, name: str) -> dict[str, Any]:
    import datasets

    if commit is None:
        given = str(Path(given).absolute())
    try:
        builder = datasets.load_dataset_builder(given, name=configuration, revision=commit)
        _check_reader(type(builder).__module__.rpartition(".")[2], name)
        builder.download_and_prepare()
        loaded = builder.as_dataset()
    except Unusable:
        raise
    except Exception as error:  # it raises whatever its readers and its network raise
        raise _explained(error, configuration, name) from error
    splits = {
        str(split): {"files": [f["filename"] for f in rows.cache_files], "rows": rows.num_rows}
        for split, rows in loaded.items()
    }
    files = [file for split in splits.values() for file in split["files"]]
    if commit is not None and not all(commit in file for file in files):
        # when the network fails half-way, the library answers with whatever copy it has
        what = "cannot be loaded: the hub was lost, and the copy here is of another commit"
        raise Unusable(name, Fault(CODE, what, key="revision"))
    columns = {column: str(kind) for column, kind in (builder.info.features or {}).items()}
    return {"splits": splits, "columns": columns}


def _check_reader(reader: str, name: str) -> None:
    if reader not in _READERS:
        what = f"holds files for the reader `{reader}`, and rows of text were expected"
        note = f"rows of text come from files of the kinds {', '.join(_READERS)}"
        raise Unusable(name, Fault(CODE, what, key="id", notes=(note,)))


def _explained(error: Exception, configuration: str | None, name: str) -> Unusable:
    """What the datasets library raised, in a user's terms."""
    said = str(error)
    listed = re.search(r"(?:Available|available configs): \[(.*?)\]", said)
    if listed:
        names = re.findall(r"'([^']+)'", listed[1])
        wrong = f"has no configuration `{configuration}`" if configuration else "has several parts"
        guess = near(configuration, names, limit=1) if configuration else names[:1]
        return Unusable(name, Fault(
            CODE, f"{wrong}: one of its configurations must be chosen", key="configuration",
            hint=f"data.configuration={guess[0]}" if guess else None,
            notes=(f"its configurations: {', '.join(names)}",),
        ))  # fmt: skip
    if "gated" in said or type(error).__name__ == "GatedRepoError":
        return Unusable(name, Fault(
            CODE, "is gated: its owner must let you in, and the hub must know you", key="id",
            hint="ask for access on its page, then: export HF_TOKEN=<your token>",
        ))  # fmt: skip
    if "scripts are no longer supported" in said:
        return Unusable(name, Fault(
            CODE, "is a script, and code of a data set is never run", key="id",
            hint="look for a revision with Parquet files: data.revision=refs/convert/parquet",
        ))  # fmt: skip
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    first = (str(cause).strip().splitlines() or [""])[0]
    what = f"cannot be loaded: {type(cause).__name__}: {excerpt(first)}"
    return Unusable(name, Fault(CODE, what, key="id"))


def _digest(*what: Any) -> str:
    return hashlib.sha256(json.dumps(what).encode("utf-8")).hexdigest()[:32]


def _memory(cache: Path, given: str, configuration: str | None, commit: str) -> Path:
    return cache / "hub" / f"{_digest(given, configuration, commit)}.json"


def _known(source: HubSource, cache: Path) -> dict[str, Any] | None:
    """What was remembered of a commit; then nothing needs to be asked."""
    if Path(source.id).is_dir():
        return None
    found = _read(_memory(cache, source.id, source.configuration, source.revision))
    return None if found is None else found | {"offline": False}


def _read(memory: Path, whole: bool = True) -> dict[str, Any] | None:
    """A note, if it is there and, for `whole`, all its Arrow files are."""
    try:
        found = json.loads(memory.read_text(encoding="utf-8"))
        splits = found["splits"].values() if whole else ()
        there = all(Path(file).is_file() for split in splits for file in split["files"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # made anew
        return None
    return found if there else None


def _write(memory: Path, found: Mapping[str, Any]) -> None:
    memory.parent.mkdir(parents=True, exist_ok=True)
    staged = memory.with_name(f".{memory.stem}.{os.getpid()}.tmp")
    staged.write_text(json.dumps(found), encoding="utf-8")
    staged.replace(memory)


if __name__ == "__main__":
    answer(look)
