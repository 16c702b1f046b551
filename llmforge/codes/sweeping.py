"""Codes of tracking and sweeps: title and text of each; data only."""

from __future__ import annotations

SWEEPING: dict[str, tuple[str, str]] = {
    "LF710": (
        "sweep that varies nothing",
        "A sweep needs a key with several values: `optimizer.lr=1e-4,2e-4`, `lora=glob(8bit_*)`, "
        "`seed=range(1,4)`. A glob that matches no option, an empty range or an interval without "
        "room names none.",
    ),
    "LF711": (
        "key that is varied twice",
        "Two overrides vary the same key, so it is not clear which points are meant.",
    ),
    "LF712": (
        "grid without an end",
        "A grid tries every point, and an interval has no end of them; neither have a hundred "
        "thousand points. `sweep=search` proposes points out of intervals and choices; a grid "
        "takes a list or a range.",
    ),
    "LF713": (
        "folder of another sweep",
        "The folder holds a sweep of the same name over other keys, with another base or another "
        "objective. Its trials would be mixed up with these.",
    ),
    "LF714": (
        "sweep that is being driven",
        "Another process starts the trials of this sweep, so they would run twice.",
    ),
    "LF715": (
        "point that cannot work",
        "The compiler refuses some points of the sweep. They are left out and counted; "
        "`sweep.refused=stop` starts nothing while there are any.",
    ),
    "LF716": (
        "trials that fail alike",
        "Several trials in a row failed for the same reason, so the next one would too. "
        "`sweep.equal_failures` says how many it takes.",
    ),
    "LF717": (
        "sweep's folder that cannot be written to",
        "It cannot be made, belongs to somebody else, or the disk is full. Nothing that finished "
        "is lost: the same command goes on once there is room, or with another `sweep.folder`.",
    ),
    "LF720": (
        "space outside the schema",
        "A search may only propose what its keys can be: both ends of each interval and every "
        "choice are compiled before it starts.",
    ),
    "LF721": (
        "interval that its key cannot have",
        "An interval is of numbers, of whole ones where the key is a whole number, and above zero "
        "where it is even in its logarithm (`tag(log,interval(1e-5,1e-3))`).",
    ),
    "LF722": (
        "search without its packages",
        "Searches and pruners are Optuna's, CMA-ES needs `cmaes`, and the Gaussian process scipy. "
        "`pip install 'llmforge[search]'` brings them.",
    ),
    "LF723": (
        "objective that no run reports",
        "What is sought must be a figure of the result: a metric of the evaluations, "
        "`train_loss`, `tokens_per_second`, `seconds`, ...",
    ),
    "LF724": (
        "objective without a direction",
        "Losses are better when they are smaller, accuracies when they are larger. Of a metric of "
        "your own only you know, unless its spec class says so (`better`).",
    ),
    "LF725": (
        "sampler or pruner that does not fit",
        "A pruner judges by one figure that is measured during training, before the last step. "
        "CMA-ES seeks one figure, in intervals. Several figures are named by `sweep.objectives` "
        "alone.",
    ),
    "LF726": (
        "study that cannot be used",
        "The study of a search lies in a journal in the sweep's folder, or in an SQL database that "
        "`sweep.storage` names. It is locked, broken, unreachable, or its address says a secret. "
        "What became of trials stands in their run folders, so a new study finds them again.",
    ),
    "LF727": (
        "study of another space",
        "The storage holds a study of this name over other keys, other choices or other "
        "objectives, and its trials say nothing of these. The ends of an interval may move.",
    ),
    "LF728": (
        "search that finds nothing to run",
        "So many proposals in a row were refused by the compiler that the space itself is in "
        "question (`sweep.refused_in_row`). They cost no trials; what was refused is listed.",
    ),
    "LF729": (
        "study that does not answer",
        "A worker could not tell its study how the trial does. The training goes on, the trial is "
        "no longer pruned, and the sweep is told its result at the end. A warning.",
    ),
    "LF730": (
        "launcher that is not installed",
        "Hydra's launchers but the basic one come as packages of their own. "
        "`pip install 'llmforge[launchers]'` brings those for joblib and submitit, "
        "`llmforge[ray]` what the one for Ray needs.",
    ),
    "LF731": (
        "launcher that is not known",
        "`hydra/launcher` names no launcher of Hydra's, of llmforge's, of an installed plugin or "
        "of your own folder. `llmforge list hydra/launcher` shows them.",
    ),
    "LF732": (
        "launcher that failed",
        "The launcher itself, not a trial, ended with an error: a job could not be submitted, or "
        "its process died. Trials keep what their folders have. When not even one of the jobs was "
        "begun the sweep stops, since the next would not be either.",
    ),
    "LF733": (
        "flags that contradict each other",
        "`-m` asks for several runs; `--cfg`, `--info` and the like show one composition.",
    ),
    "LF740": (
        "record of a sweep that is not complete",
        "The sweep's page, or its run in MLflow (the parent of its trials' runs), could not be "
        "written to the end. Trials and their results are not affected; the same command again "
        "completes the record and runs nothing twice. A warning.",
    ),
    "LF741": (
        "filter that cannot be read",
        "`llmforge runs --where` takes comparisons of settings and figures with values: "
        "`eval_loss<2`, `lora.kind=lora`, `name~demo`; joined by `and`, `or`, `not` and "
        "parentheses. `NAME=null` asks for runs without it.",
    ),
    "LF742": (
        "column that no run has",
        "A column, a sort order or a filter names a setting or figure that none of the runs has. "
        "Settings have dotted keys, as `llmforge plan` shows them; figures stand in `result.json`.",
    ),
    "LF743": (
        "report that cannot be written",
        "`llmforge report` takes the name or folder of a sweep, the id or folder of a run, or "
        "`last`; the page is written into that folder, or where `-o` says.",
    ),
    "LF744": (
        "re-run that came out differently",
        "`llmforge train --run REF` trained the recorded plan once more, and some metrics are not "
        "the same bit for bit. Another device, other versions of the libraries "
        "(`environment.json` of both runs) and kernels that are not deterministic "
        "(`deterministic=true` asks for those that are) do that. A warning; `comparison.json` has "
        "the differences of every metric.",
    ),
    "LF745": (
        "resident worker and a launcher that starts its own processes",
        "Trials share a resident worker one after another, on one device, when Hydra's basic "
        "launcher starts them. `sweep.resident=auto` shares where that is so, and only there.",
    ),
    "LF746": (
        "trial that cannot share a resident worker",
        "`sweep.resident=on` wants every trial in one worker that keeps the frozen base loaded. A "
        "trial that trains or changes the base's weights, or runs code of your own, cannot leave "
        "the worker as it was; `auto` gives it a process of its own.",
    ),
}
