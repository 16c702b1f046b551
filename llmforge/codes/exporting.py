"""Codes of export: title and text of each; data only."""

from __future__ import annotations

EXPORTING: dict[str, tuple[str, str]] = {
    "LF901": (
        "upload to the hub failed",
        "The model is in the run folder; the run itself is not affected.",
    ),
    "LF910": (
        "versions that were not registered",
        "MLflow's registry did not take the run's checkpoints and model as versions. A warning: "
        "they lie in the run folder, and `llmforge register RUN NAME` does it later.",
    ),
    "LF911": (
        "weights that were not uploaded",
        "MLflow did not take the files of a checkpoint or of the final model. A warning: they lie "
        "in the run folder, and `llmforge register RUN NAME tracking.upload=final` tries again.",
    ),
    "LF912": (
        "registry out of reach",
        "Names and versions of models stand in MLflow at `tracking.uri`, which did not answer, or "
        "nothing is tracked at all. A run's id or folder needs no registry.",
    ),
    "LF920": (
        "token that the hub does not take",
        "The variable that `hub.token` names is not set, here or in `paths.env_file`, or the hub "
        "does not know what it holds. Asked before the run starts, unless `hub.check=false`; for "
        "an upload that failed so, `llmforge push REF` does it again.",
    ),
    "LF922": (
        "repository that one may not write to",
        "The token is for reading, or the repository belongs to somebody else, or to an "
        "organization in which one may only read. Asked before the run starts, unless "
        "`hub.check=false`.",
    ),
    "LF924": (
        "hub out of reach",
        "No answer, or the network is off. The training itself does not need the hub: "
        "`hub.check=false` starts it all the same, and `llmforge push REF` uploads later.",
    ),
    "LF929": (
        "tokenizer without a BOS token",
        "`hub.add_bos=true` lets the uploaded tokenizer begin texts with the BOS token, and there "
        "is none. `hub.add_bos=null` uploads it as it is.",
    ),
}
