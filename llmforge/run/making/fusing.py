"""Before an adapter is merged: is there one, what is its base, and is there room for the result?

In: the plan to merge by, the run, the adapter's folder. Out: the `Order` for the worker, or a
refusal within seconds (LF940-LF947) where the worker would fail after minutes. Heads of files are
read, and the base on the hub is fetched; no torch.
"""

from __future__ import annotations

import re
from pathlib import Path

from llmforge.plan import Plan
from llmforge.run.folder import RunFolder
from llmforge.run.making import order as making
from llmforge.run.making.clearance import check_disk, check_memory, check_target
from llmforge.run.making.headers import BYTES, Header, main_dtype, size_in
from llmforge.run.making.order import Order
from llmforge.run.making.originals import Original, find_original, refused

_UNITS = {"MB": 10**6, "GB": 10**9}
_BESIDE = 2**29
"""Bytes of a worker with its libraries, before any weight."""


def fuse_order(
    plan: Plan,
    run: RunFolder,
    adapter: Path,
    label: str,
    step: int,
    trained: Plan | None,
) -> Order:
    """The order to merge the adapter in a folder.

    Args:
        plan: says how.
        run: in whose folder the record is kept.
        adapter: folder of the adapter.
        label: the adapter for people.
        step: optimizer steps behind it.
        trained: the plan it was trained by; None for an adapter of which none is known.

    Raises:
        ConfigRefused: LF940-LF947.
    """
    if trained is not None and trained.settings["lora"]["kind"] == "none":
        raise refused(
            "LF940",
            f"{label} was trained whole, without an adapter: there is nothing to merge",
            plan=plan,
            key="lora.kind",
        )
    cache = Path(plan.settings["paths"]["cache"])
    base = find_original(adapter, trained, plan.settings["fuse"]["base"], cache)
    order = making.order(plan, run, "fuse", adapter, label, step, base)
    check_target(Path(order.target), "fuse", "LF947", plan, (adapter, base.folder))
    if making.finished(run, order) is None:
        _check_room(plan, order, base)
    return order


def _check_room(plan: Plan, order: Order, base: Original) -> None:
    asked = plan.settings["fuse"]["dtype"]
    dtype = None if asked == "auto" else str(asked)
    written = size_in(base.headers, dtype)
    check_disk(written, Path(order.target), "fuse", "LF945", plan)
    copy, shard = written, min(written, shard_bytes(plan.settings["fuse"]["shard_size"]))
    logits = probe_bytes(plan, base.headers)
    parts = (
        f"weights in {dtype or main_dtype(base.headers) or 'their own format'} "
        f"{copy / 2**30:.2f} GiB, a file of them {shard / 2**30:.2f} GiB, the proof "
        f"{logits / 2**30:.2f} GiB, libraries {_BESIDE / 2**30:.2f} GiB"
    )
    check_memory(copy + shard + logits + _BESIDE, parts, "fuse", "LF946", plan)


def shard_bytes(text: str) -> int:
    """Bytes of `5GB` or `500MB`, as the libraries that split weights read it."""
    found = re.fullmatch(r"(\d+)(MB|GB)", text)
    assert found is not None  # noqa: S101 - the schema has looked
    return int(found[1]) * _UNITS[found[2]]


def probe_bytes(plan: Plan, headers: dict[str, Header]) -> int:
    """Logits of one probe text in float32, some copies of them."""
    rows = max((one.shape[0] for one in headers.values() if len(one.shape) == 2), default=0)
    return 4 * int(plan.settings["fuse"]["probe_tokens"]) * rows * BYTES["F32"]
