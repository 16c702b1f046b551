"""Telling others of a run while it trains and when it is done: records, and uploads to the hub.

In: a plan, its run folder, the screen. Out: a callback for the training, and the warnings of what
could not be uploaded. Rank 0's affair. What is sent and how is `run/hub/`'s, what records say
`run/records.py`'s.
"""

from __future__ import annotations

from functools import partial

from llmforge.build.after import AfterCallback
from llmforge.diagnostics import Diagnostic, Severity
from llmforge.plan import Plan
from llmforge.run import hub, terminal
from llmforge.run.folder import RunFolder
from llmforge.run.hub import parcel
from llmforge.run.hub.pushing import warning
from llmforge.run.records import keep_records


class Publishing:
    """What one attempt shows to others."""

    def __init__(self, plan: Plan, run: RunFolder, screen: terminal.Screen) -> None:
        self._plan, self._run, self._screen = plan, run, screen
        self._order = hub.order_of(plan)
        parcel.clear(run)
        self._background: hub.BackgroundPush | None = None
        if self._order is not None and plan.settings["hub"]["when"] == "every_save":
            self._background = hub.BackgroundPush(plan, run, self._order, screen.say)

    def callback(self) -> AfterCallback:
        """Writes the records after each evaluation, sends each checkpoint if that was asked for."""
        saved = self._background.saved if self._background else None
        return AfterCallback(partial(keep_records, self._plan, self._run), saved)

    def finish(self) -> list[Diagnostic]:
        """Upload the final model as the plan asks for it; warnings of all uploads of the run."""
        if self._order is None:
            return []
        found: list[Diagnostic] = []
        if self._background is not None:
            patience = self._plan.settings["hub"]["patience"]
            ended = self._background.close(patience)
            found += self._background.warnings
            if not ended:
                return [*found, self._too_slow(patience)]
        self._screen.say(f"uploading to {self._order.repository}")
        entry = hub.push(self._plan, self._run, self._order)
        if failed := warning(entry):
            return [*(known for known in found if known.code != failed.code), failed]
        self._screen.say(f"{entry.source} is on the hub: {entry.url}")
        return found

    def _too_slow(self, patience: int) -> Diagnostic:
        return Diagnostic(
            "LF901",
            f"the model was not uploaded: the checkpoint before it is on its way for more than "
            f"{patience} s",
            severity=Severity.WARNING,
            key="hub.patience",
            origins=self._plan.origins.chain("hub.patience"),
            notes=("the model lies whole in the run folder",),
            hint=f"llmforge push {self._plan.run_id}",
        )
