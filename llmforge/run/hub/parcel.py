"""The parcel: a folder that holds what goes to the hub, file for file, under its names there.

In: an order and a folder with a model, or a checkpoint. Out: a folder below `.push/` of the run
folder, to be thrown away after the upload. Weights in it are hard links: they take no room, and
they last though the checkpoint they came from is pruned meanwhile. Texts are cleaned of secrets and
machine paths (`publishing.py`), the adapter's config names a base that others can find, and a
checkpoint is sealed anew, so that it can be verified and gone on from where it arrives.

What is there already on the hub, and what is stale, is the sender's affair (`sending.py`).
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from llmforge.plan import Plan
from llmforge.run import card, checkpoints, sealing
from llmforge.run.checkpoints import Checkpoint
from llmforge.run.folder import RunFolder
from llmforge.run.front_matter import base_model
from llmforge.run.hub.order import Order
from llmforge.run.publishing import Publisher

FOLDER = ".push"
"""In the run folder; empty unless an upload is under way."""
CHECKPOINT = "checkpoint"
"""Folder of the repository that holds the newest checkpoint."""

ADAPTER_CONFIG = "adapter_config.json"
_TEXTS = (".json", ".jsonl", ".md", ".txt", ".jinja", ".yaml", ".yml")
_LEARNT = frozenset(("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt"))
"""Texts that are the tokenizer's vocabulary: a word in it is no secret of this machine."""
_MODEL = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    ADAPTER_CONFIG,
)
"""Files of a checkpoint that are the model; the others are the state of its training."""
_TOKENIZER = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
)
MODEL = (*_MODEL, *_TOKENIZER)
"""Files that are model or tokenizer."""
_ADAPTER = ("adapter_model.safetensors", ADAPTER_CONFIG, *_TOKENIZER)


class NoBos(ValueError):
    """Texts are to begin with a token that the tokenizer does not have."""


def pack(plan: Plan, run: RunFolder, order: Order, model: Path, state: Checkpoint | None) -> Path:
    """Make a parcel.

    Args:
        plan: what ran.
        run: its folder.
        order: what is wanted.
        model: folder of the model: the final one, or a checkpoint's.
        state: checkpoint whose training state goes with it, in the folder `checkpoint/`.

    Returns:
        The parcel's folder; `discard` it.

    Raises:
        OSError: the disk is full, or a file went away meanwhile.
        NoBos: `hub.add_bos` wants a token that the tokenizer has not.
    """
    parcel = run.path / FOLDER / f"{model.name}-{os.getpid()}-{time.monotonic_ns()}"
    parcel.mkdir(parents=True)
    try:
        _fill(parcel, plan, run, order, model, state)
    except BaseException:
        discard(parcel)
        raise
    return parcel


def _fill(
    parcel: Path, plan: Plan, run: RunFolder, order: Order, model: Path, state: Checkpoint | None
) -> None:
    publisher = Publisher(plan)
    base = _base(plan, order)
    for source in _files(model, order, whole=model == run.model):
        put(source, parcel / source.relative_to(model), base, publisher)
    if order.add_bos is not None:
        set_bos(parcel, order.add_bos)
    if state is not None:
        _put_state(state, parcel / CHECKPOINT, plan, order, publisher)
    adapter = (parcel / ADAPTER_CONFIG).is_file()
    text = card.card(plan, run.journal, order.repository, adapter)
    (parcel / card.NAME).write_text(text, encoding="utf-8")
    _write_plan(parcel / checkpoints.PLAN, publisher)


def discard(parcel: Path) -> None:
    """Throw a parcel away; what it linked to stays."""
    shutil.rmtree(parcel, ignore_errors=True)


def clear(run: RunFolder) -> None:
    """Throw away what a killed process left; called when the run folder is held alone."""
    shutil.rmtree(run.path / FOLDER, ignore_errors=True)


def seal(parcel: Path) -> None:
    """Seal the checkpoint of a parcel, if it has one: some of its texts are not what they were.

    Reads every byte, so it is done beside the training and not within it.
    """
    folder = parcel / CHECKPOINT
    if (folder / sealing.MANIFEST).is_file():
        facts = sealing.facts(folder)
        sealing.seal(folder, {key: value for key, value in facts.items() if key != "files"})


def _files(folder: Path, order: Order, whole: bool) -> Iterator[Path]:
    """The files of a model folder that go out; of a checkpoint, those that are the model."""
    if order.what == "adapter":
        patterns: tuple[str, ...] = _ADAPTER
    elif whole:
        yield from plain(folder)
        return
    else:
        patterns = MODEL
    for path in plain(folder):
        if path.parent == folder and any(path.match(pattern) for pattern in patterns):
            yield path


def plain(folder: Path) -> Iterator[Path]:
    """Regular files, hidden ones and links left out: a link may lead out of the folder."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not path.is_symlink() and not hidden:
            yield path


def _base(plan: Plan, order: Order) -> str:
    """Under what name others find the base of an adapter."""
    return order.base_model or base_model(plan) or order.repository


def put(source: Path, target: Path, base: str | None, publisher: Publisher) -> None:
    """Put one file into a parcel: weights linked, texts cleaned.

    Args:
        source: of the model's folder.
        target: in the parcel.
        base: what an adapter's config calls its base; None cleans what stands there.
        publisher: cleans texts.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix not in _TEXTS or source.name in _LEARNT:
        _link(source, target)
        return
    text = source.read_text(encoding="utf-8")
    if source.name == ADAPTER_CONFIG and base is not None:
        config = json.loads(text)
        config["base_model_name_or_path"] = base
        text = json.dumps(config, indent=2) + "\n"
    target.write_text(publisher.file(text), encoding="utf-8")


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _put_state(
    state: Checkpoint, folder: Path, plan: Plan, order: Order, publisher: Publisher
) -> None:
    """The whole checkpoint, its plan as others may read it."""
    for source in plain(state.path):
        target = folder / source.relative_to(state.path)
        if source.name == checkpoints.PLAN and source.parent == state.path:
            target.parent.mkdir(parents=True, exist_ok=True)
            _write_plan(target, Publisher(Plan.load(source)))
        elif source.name == sealing.MANIFEST:
            _link(source, target)  # `seal` needs it as it is
        else:
            put(source, target, _base(plan, order), publisher)


def _write_plan(target: Path, publisher: Publisher) -> None:
    text = json.dumps(publisher.plan(), indent=2, ensure_ascii=False)
    target.write_text(text + "\n", encoding="utf-8")


def set_bos(parcel: Path, begins: bool) -> None:
    """Let the tokenizer that goes out begin texts with BOS, or not, and end them with nothing."""
    from llmforge.build.tokenizer import open_tokenizer, set_edges

    tokenizer = open_tokenizer(parcel)
    if begins and tokenizer.bos_token is None:
        raise NoBos("the tokenizer has no BOS token that texts could begin with")
    set_edges(tokenizer, begins, False)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        # a hard link would carry the change over to the run's own copy
        (parcel / name).unlink(missing_ok=True)
    tokenizer.save_pretrained(parcel)
