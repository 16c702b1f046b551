"""A model folder that goes to the hub as it is: fused, quantized, or any that holds a model.

In: a folder, what is known of it (the run and plan it is of, the digests it was recorded with), an
order. Out: what is wrong with it (LF914, LF915), and its parcel: the recorded files, or those that
are model and tokenizer, cleaned as in `parcel.py`. Optimizer states, logs and whatever else lies
in a folder do not go out.

Which folder is meant is found in `upload.py`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmforge.diagnostics import Diagnostic
from llmforge.plan import Plan
from llmforge.run import card
from llmforge.run.folder import RunFolder
from llmforge.run.front_matter import base_model, is_repository
from llmforge.run.hub import parcel as parcels
from llmforge.run.hub.order import Order
from llmforge.run.making.labels import LABEL, fault_of
from llmforge.run.publishing import Publisher, last_part
from llmforge.stage_order import FOLDERS

BASE = "base"
"""Folder of an adapter's own base."""
_BESIDE = ("README.md", "LICENSE*", "NOTICE*", "*.model", "quantize_config.json", LABEL)
"""What goes out beside model and tokenizer."""


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a model, and what is known of it."""

    path: Path
    what: str
    """`fused`, `quantized`, or `folder` for one of which nothing is recorded."""
    ref: str
    """What `llmforge push` takes for it."""
    files: Mapping[str, Mapping[str, Any]] | None = None
    """Size and SHA-256 by name, as they were recorded; None where nothing is."""
    plan: Plan | None = None
    run: RunFolder | None = None


def fault(found: ModelFolder) -> Diagnostic | None:
    """Why the folder must not go out; reads every byte of what is recorded."""
    if not any(found.path.glob("*.safetensors")):
        pickled = any(found.path.glob("*.bin"))
        return Diagnostic(
            "LF914",
            f"{found.path} holds no weights" + (" that are safetensors" if pickled else ""),
            notes=("weights go out as safetensors alone: other forms run code when they are read",)
            if pickled
            else (),
        )
    wrong = None if found.files is None else fault_of(found.path, found.files, thorough=True)
    if wrong is None:
        return None
    again = next((stage for stage, made in FOLDERS.items() if made == found.what), None)
    hint = f"llmforge {again} --run {found.run.run_id}" if again and found.run is not None else None
    return Diagnostic("LF915", f"{found.path} is not what its record says: {wrong}", hint=hint)


def pack(found: ModelFolder, order: Order) -> Path:
    """Make the parcel of a folder; `parcels.discard` it.

    Raises:
        OSError: the disk is full, or a file went away meanwhile.
        NoBos: `hub.add_bos` wants a token that the tokenizer has not.
    """
    parcel = _place(found)
    try:
        _fill(parcel, found, order)
    except BaseException:
        parcels.discard(parcel)
        raise
    return parcel


def _place(found: ModelFolder) -> Path:
    if found.run is not None:
        inside = found.run.path / parcels.FOLDER
        inside.mkdir(exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{found.what}-", dir=inside))
    try:
        # beside the folder weights can be linked
        return Path(tempfile.mkdtemp(prefix=".push-", dir=found.path.parent))
    except OSError:  # a place that one may only read
        return Path(tempfile.mkdtemp(prefix="push-"))


def _fill(parcel: Path, found: ModelFolder, order: Order) -> None:
    publisher = Publisher(found.plan, found.path, found.path.parent)
    base = _base(found, order)
    for source in _files(found):
        target = parcel / source.relative_to(found.path)
        parcels.put(source, target, base or order.repository, publisher)
    if order.add_bos is not None:
        parcels.set_bos(parcel, order.add_bos)
    readme = parcel / card.NAME
    if readme.is_file():
        # the card of a folder loads the folder; on the hub it has a name
        text = readme.read_text(encoding="utf-8")
        named = text.replace('from_pretrained(".")', f'from_pretrained("{order.repository}")')
        readme.write_text(named, encoding="utf-8")
    else:
        adapter = (parcel / parcels.ADAPTER_CONFIG).is_file()
        text = card.plain_card(found.path.name, order.repository, adapter, base)
        readme.write_text(publisher.text(text), encoding="utf-8")


def _base(found: ModelFolder, order: Order) -> str | None:
    """What others call the base of an adapter; None where it goes out with it."""
    if order.base_model or found.plan is not None:
        return order.base_model or (base_model(found.plan) if found.plan else None)
    config = found.path / parcels.ADAPTER_CONFIG
    if not config.is_file() or (found.path / BASE).is_dir():
        return None
    named = json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path")
    return str(named) if is_repository(str(named)) else last_part(str(named))


def _files(found: ModelFolder) -> Iterator[Path]:
    for path in parcels.plain(found.path):
        name = path.relative_to(found.path)
        if found.files is not None:
            if name.as_posix() in found.files or name.as_posix() == LABEL:
                yield path
        elif name.parts[0] in (BASE, name.name) and any(
            path.match(known) for known in (*parcels.MODEL, *_BESIDE)
        ):
            yield path
