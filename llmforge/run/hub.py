"""Upload of the final model to the Hugging Face hub.

In: a plan and the folder of the final model. Out: None, or the warning (LF901) that says why the
upload did not happen. The model is safe in the run folder by then, so nothing here fails a run.
The token is read from the environment here and goes nowhere but into the request.
"""

from __future__ import annotations

from pathlib import Path

from llmforge.diagnostics import Diagnostic, Severity
from llmforge.plan import Plan
from llmforge.run.environment import scrub, secret


def push(plan: Plan, folder: Path) -> Diagnostic | None:
    """Upload `folder`, as the plan's `checkpoint` section says."""
    checkpoint = plan.settings["checkpoint"]
    repository, reference = checkpoint["hub_repository"], checkpoint["hub_token"]
    token = secret(reference)
    if not token:
        return _warning(plan, f"the variable {reference.removeprefix('env:')} is not set")
    from huggingface_hub import HfApi

    try:
        api = HfApi(token=token)
        api.create_repo(repository, private=checkpoint["hub_private"], exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=str(folder),
            commit_message=f"{plan.run_id} (llmforge {plan.llmforge})",
        )
    except Exception as error:  # whatever it was, the run itself is done
        return _warning(plan, f"{type(error).__name__}: {error}")
    return None


def _warning(plan: Plan, reason: str) -> Diagnostic:
    checkpoint = plan.settings["checkpoint"]
    text = " ".join(scrub(reason, plan).split())[:300]
    return Diagnostic(
        "LF901",
        f"the model was not uploaded to {checkpoint['hub_repository']}: {text}",
        severity=Severity.WARNING,
        key="checkpoint.hub_push",
        origins=plan.origins.chain("checkpoint.hub_push"),
        notes=("it lies whole in the run folder",),
        hint=f"hf upload {checkpoint['hub_repository']} <run folder>/model",
    )
