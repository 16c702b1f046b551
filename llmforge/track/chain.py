"""A chain of stages in MLflow: `python -m llmforge.track.chain FOLDER`, one parent with children.

In: a run folder whose `chain.json` grows; a line on stdin means that it has, the end of stdin that
the driver is done, or gone. Out: a parent run, a child for each stage; the `train` children are the
runs' own records, which the workers write and this ties to the parent. A child is made when its
stage is over, so none is ever left running; and the parent is ended with the driver, however that
ended. Exit code 0: everything was recorded; the last line of stderr says what was not.

Which stages there are, and what came of them, is `run/chain/`'s business.
"""

from __future__ import annotations

import fcntl
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from llmforge.plan import Plan
from llmforge.run.folder import RunFolder
from llmforge.track.parent import ParentRecord
from llmforge.track.record import parameters

FOLDER = "chain"
"""In the run folder: where the parent's `mlflow.json` lies."""
CHAIN = "chain.json"
ENDINGS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
"""What MLflow calls the ways a chain can end; one whose driver is gone was killed."""
_OVER = {"done": "FINISHED", "found": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_SECTIONS = {
    "prepare": ("data", "tokenizer", "collator"),
    "evaluate": ("evaluation", "metrics", "generation"),
    "fuse": ("fuse",),
    "quantize": ("fuse", "quantize"),
    "answers": ("generation",),
}
"""Stage -> the sections that say how it is done."""


class ChainRecord:
    """The record of one chain."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self._folder = run.path / FOLDER
        self._folder.mkdir(exist_ok=True)
        self._plan: Plan = run.plan()
        tracking = self._plan.settings["tracking"]
        self._parent = ParentRecord(self._folder, self._plan.name, tracking, "chain")
        self._opened = False
        self._told: dict[str, str] = {}
        """Key of a child -> what was recorded of it."""

    def news(self) -> None:
        """Record what has changed."""
        if not self._opened:
            self._parent.open()
            self._parent.parameters(dict(parameters(self._plan.settings)))
            self._opened = True
        for entry in self._entries():
            if entry["stage"] == "train":
                self._tie(Path(entry["folder"]))
            elif entry["state"] in _OVER:
                self._child(entry)

    def close(self) -> None:
        """Record the rest and end the parent."""
        self.news()
        points = [
            (f"{entry['name'].replace(': ', '.')}/{_plain(name)}", float(value), 0, _ms(entry))
            for entry in self._entries()
            for name, value in entry["figures"].items()
        ]
        self._parent.metrics(points, 0)
        found = self._chain()
        self._parent.tags({"llmforge.status": str(found["status"])})
        self._parent.file(self.run.path / CHAIN)
        self._parent.close(ENDINGS.get(found["status"], "KILLED"))

    def _chain(self) -> dict[str, Any]:
        return self.run.read_json(CHAIN) or {"status": "running", "stages": []}

    def _entries(self) -> list[dict[str, Any]]:
        return list(self._chain()["stages"])

    def _tie(self, folder: Path) -> None:
        own = folder == self.run.path
        self._parent.link(folder, again=own)
        self._parent.adopt(folder)

    def _child(self, entry: Mapping[str, Any]) -> None:
        key = f"{entry['name']} {entry['fingerprint']}"
        text = json.dumps(entry, sort_keys=True)
        if self._told.get(key) == text:
            return
        tags = {
            "llmforge.stage": str(entry["stage"]),
            "llmforge.state": str(entry["state"]),
            "llmforge.run_id": str(entry["run_id"]),
            "llmforge.fingerprint": str(entry["fingerprint"]),
            "llmforge.place": str(entry["place"]),
            "llmforge.chain": self._parent.name,
        }
        began = _ms(entry, "began")
        child, client = self._parent.child(key, str(entry["name"]), began, tags)
        fresh = entry["state"] != "found" or client.get_run(child).info.status != "FINISHED"
        if fresh:
            for name, value in tags.items():
                if value:
                    client.set_tag(child, name, value)
            for name, value in entry["figures"].items():
                client.log_metric(child, _plain(name), float(value), _ms(entry), 0)
            for name, text_of in self._settings(entry):
                client.set_tag(child, f"setting.{name}", text_of)
            if entry["record"] and Path(entry["record"]).is_file():
                client.log_artifact(child, entry["record"])
            client.set_terminated(child, _OVER[entry["state"]], _ms(entry))
        self._told[key] = text

    def _settings(self, entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """How the stage was done: by the chain's plan, or the one that was saved with its order."""
        saved = Path(entry["folder"]) / f"{entry['stage']}.plan.json"
        plan = Plan.load(saved if saved.is_file() else Path(entry["folder"]) / "plan.json")
        for section in _SECTIONS.get(str(entry["stage"]), ()):
            yield from parameters({section: plan.settings[section]})


def _plain(name: str) -> str:
    """A figure's name as MLflow takes it."""
    return name.replace(":", "").replace(" ", "_")


def _ms(entry: Mapping[str, Any], which: str = "ended") -> int:
    text = str(entry[which] or entry["ended"] or entry["began"])
    return int(datetime.fromisoformat(text).timestamp() * 1000) if text else 0


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One at a time: what a killed driver left behind may still be ending the parent."""
    with (folder / ".recorder.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(argv: list[str]) -> int:
    """See the module."""
    run = RunFolder.open(argv[0])
    trouble: Exception | None = None
    (run.path / FOLDER).mkdir(exist_ok=True)
    with _alone(run.path / FOLDER):
        record = ChainRecord(run)
        for _ in sys.stdin:
            try:
                record.news()
            except Exception as error:
                trouble = error  # the next line tries again, and the end a last time
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        try:
            record.close()
        except Exception as error:  # whatever MLflow, its database driver or the network raises
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 1
    if trouble is not None:
        print("recorded after all", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
