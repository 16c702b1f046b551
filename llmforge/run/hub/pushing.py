"""One upload from end to end: parcel, sending, entry in `push.json`.

In: a plan, its run folder, an order, and which state of the model is meant. Out: the entry, also
of an upload that failed: nothing here raises for what the hub, the network or the disk do.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from llmforge.diagnostics import Diagnostic, Severity
from llmforge.plan import Plan
from llmforge.run.checkpoints import Checkpoint
from llmforge.run.environment import scrub, secret
from llmforge.run.folder import RunFolder
from llmforge.run.hub import folders
from llmforge.run.hub import parcel as parcels
from llmforge.run.hub.folders import ModelFolder
from llmforge.run.hub.order import Order
from llmforge.run.hub.record import Entry, remember
from llmforge.run.hub.sending import PushFailed, no_token, send
from llmforge.version import __version__


def push(plan: Plan, run: RunFolder, order: Order, checkpoint: Checkpoint | None = None) -> Entry:
    """Upload the final model, or a checkpoint's state of it.

    Args:
        plan: what ran.
        run: its folder.
        order: what, where to, as whom.
        checkpoint: takes the model from it; None takes the final one. With `what=checkpoint` its
            training state goes along; for the final model that is the newest checkpoint's.
    """
    model = run.model if checkpoint is None else checkpoint.path
    state = checkpoint
    if order.what != "checkpoint":
        state = None
    elif checkpoint is None:
        state = next(iter(run.checkpoints()), None)
    return deliver(
        plan, run, order, model.name, lambda: parcels.pack(plan, run, order, model, state)
    )


def push_folder(found: ModelFolder, order: Order) -> Entry:
    """Upload a model folder that was found whole (`folders.fault`)."""
    source = found.what if found.run is not None else found.path.name
    return deliver(
        found.plan, found.run, order, source, lambda: folders.pack(found, order), found.ref
    )


def deliver(
    plan: Plan | None,
    run: RunFolder | None,
    order: Order,
    source: str,
    pack: Callable[[], Path],
    ref: str | None = None,
) -> Entry:
    """Send what `pack` makes, throw it away, remember what came of it.

    Args:
        plan: what ran; None where nobody knows.
        run: where the entry is kept; None for a folder that is no run's.
        order: where to, as whom.
        source: what of the run.
        pack: makes the parcel.
        ref: what `llmforge push` takes to do it again; None for the run's id.
    """
    ref = ref or (plan.run_id if plan is not None else source)
    entry = Entry(order.what, source, order.repository, order.revision, order.private)
    parcel: Path | None = None
    try:
        token = _token(plan, order)
        parcel = pack()
        parcels.seal(parcel)
        sizes = [path.stat().st_size for path in parcel.rglob("*") if path.is_file()]
        entry = replace(entry, files=len(sizes), bytes=sum(sizes))
        version = plan.llmforge if plan is not None else __version__
        name = plan.run_id if plan is not None else ""
        message = f"{', '.join(one for one in (name, source) if one)} (llmforge {version})"
        sent = send(order, token, parcel, message)
        entry = replace(entry, commit=sent.commit, url=sent.url, unchanged=sent.unchanged)
    except PushFailed as failed:
        entry = replace(entry, error=_told(plan, order, failed.diagnostic, ref).to_dict())
    except parcels.NoBos as error:
        found = Diagnostic("LF929", str(error), key="hub.add_bos", hint="hub.add_bos=null")
        entry = replace(entry, error=_told(plan, order, found, ref).to_dict())
    except Exception as error:  # a full disk, a file that went away: the run itself is done
        why = f"the upload to {order.repository} failed: {type(error).__name__}: {error}"
        found = Diagnostic("LF901", why, key="hub.kind")
        entry = replace(entry, error=_told(plan, order, found, ref).to_dict())
    finally:
        if parcel is not None:
            parcels.discard(parcel)
    if run is not None:
        remember(run, entry)
    return entry


def _token(plan: Plan | None, order: Order) -> str:
    token = secret(order.token, plan)
    if not token:
        why = f"the variable {order.token.removeprefix('env:')} is not set"
        raise PushFailed(no_token(order, why))
    return token


def warning(entry: Entry) -> Diagnostic | None:
    """The warning of an entry that failed, as a run keeps it."""
    if entry.error is None:
        return None
    found = entry.error
    return Diagnostic(
        str(found["code"]),
        str(found["message"]),
        severity=Severity.WARNING,
        key=found["key"],
        notes=tuple(found["notes"]),
        hint=found["hint"],
    )


def _told(plan: Plan | None, order: Order, found: Diagnostic, ref: str) -> Diagnostic:
    """The diagnostic for a person: no secrets, what is safe, and how to repeat it."""
    again = f"llmforge push {shlex.quote(ref)} --repository {order.repository}"
    if order.what not in ("model", "folder") and plan is not None:
        again += f" --what {order.what}"
    key = found.key or "hub.kind"
    return replace(
        found,
        message=" ".join(_scrubbed(found.message, plan, order).split())[:400],
        origins=plan.origins.chain(key) if plan is not None else (),
        notes=(
            *found.notes,
            f"the model lies whole in the {'run folder' if plan is not None else 'folder'}",
            f"to repeat it: {again}",
        ),
        hint=found.hint or again,
    )


def _scrubbed(text: str, plan: Plan | None, order: Order) -> str:
    if plan is not None:
        return scrub(text, plan)
    token = secret(order.token)
    return text.replace(token, f"<{order.token.removeprefix('env:')}>") if token else text
