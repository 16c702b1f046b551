"""The model card: README.md with what a run is, what it learnt from, and what came of it.

In: the plan, the journal, versions of packages. Out: Markdown under YAML front matter, as the hub
reads it. What comes from settings or data is escaped: a name can neither break the page nor add to
it. Nothing private is in it (see `publishing.py`); the user's own text is put in as it is.

Figures are those of the last evaluation; nothing is measured here. What programs read of the card,
and what settings say of it, is `front_matter.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmforge.plan import Plan
from llmforge.render import size_text
from llmforge.run import journal
from llmforge.run.environment import versions
from llmforge.run.front_matter import base_model, front_matter, is_repository, own_text
from llmforge.run.publishing import Publisher, last_part

NAME = "README.md"

RECIPE: tuple[tuple[str, str], ...] = (
    ("adapter", "lora.kind"),
    ("rank", "lora.r"),
    ("alpha", "lora.alpha"),
    ("adapter dropout", "lora.dropout"),
    ("adapted modules", "lora.targets"),
    ("quantized base, bits", "quantization.bits"),
    ("arithmetic", "precision.compute"),
    ("optimizer", "optimizer.kind"),
    ("learning rate", "optimizer.lr"),
    ("weight decay", "optimizer.weight_decay"),
    ("schedule", "schedule.kind"),
    ("warm-up", "schedule.warmup"),
    ("gradient clipping", "optimizer.clip_norm"),
    ("epochs", "trainer.epochs"),
    ("global batch (samples)", "trainer.global_batch"),
    ("micro batch", "trainer.micro_batch"),
    ("gradient accumulation", "trainer.accumulation"),
    ("processes", "launch.processes"),
    ("longest sample (tokens)", "collator.max_length"),
    ("packing", "collator.packing"),
    ("chat template", "tokenizer.chat_template"),
    ("seed", "seed"),
    ("hardware", "hardware.name"),
)
"""Settings that matter most, under the names people use; those a run does not have are left out."""

_MARKS = re.compile(r"([\\`*_{}\[\]()<>#+!|~&$@-])")
_CURVES = ("train_loss", "learning_rate", "grad_norm", "epoch", "tokens_per_second")
_APART = ("baseline_", "memory_", "fuse/", "quantize/")
"""How figures begin that stand elsewhere on the card, or on that of what was made."""
_SHOWN = ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers")


def escape(value: Any) -> str:
    """A value as one line of plain Markdown text, whatever it holds."""
    text = "".join(c if c.isprintable() else " " for c in str(value))
    return _MARKS.sub(r"\\\1", " ".join(text.split()))


def card(
    plan: Plan, journal_file: Path, place: str, adapter: bool, sections: Sequence[str] = ()
) -> str:
    """The card's text.

    Args:
        plan: what ran.
        journal_file: what was measured so far.
        place: where the model is loaded from: a repository, or a folder beside the card.
        adapter: what is loaded is an adapter, and needs its base.
        sections: more Markdown, after the results: what was made of the model since.

    Raises:
        OSError: the file of `card.text` cannot be read (any more).
    """
    publisher = Publisher(plan)
    parts = [
        front_matter(plan, adapter),
        f"# {escape(plan.name)}",
        own_text(plan),
        _summary(plan, journal_file),
        "## Results\n\n" + _results(journal_file),
        *sections,
        "## Recipe\n\n" + table(("setting", "value"), _recipe(plan)),
        "All settings, down to the last one, are in `plan.json`.",
        "## Data\n\n" + _data(plan),
        "## Loading\n\n" + _loading(plan, place, adapter),
        "## Versions\n\n" + table(("package", "version"), _versions(plan)),
    ]
    return publisher.text("\n\n".join(part for part in parts if part) + "\n")


def plain_card(name: str, place: str, adapter: bool, base: str | None) -> str:
    """The card of a model of which nothing but its folder is known: how it is loaded.

    Args:
        name: the folder's.
        place: as for `card`.
        adapter: as for `card`.
        base: what others call the base of an adapter.
    """
    from huggingface_hub import ModelCardData

    head = ModelCardData(
        base_model=base if base and is_repository(base) else None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
    )
    loading = _loading_code(place, adapter, base)
    return (
        f"---\n{head.to_yaml().strip()}\n---\n\n# {escape(name)}\n\n## Loading\n\n"
        f"```python\n{loading}\n```\n"
    )


def _summary(plan: Plan, journal_file: Path) -> str:
    base = base_model(plan)
    begun = f"trained on from {escape(base)}" if base else "trained from nothing"
    history = journal.history(journal_file)
    step = max((step for points in history.values() for step in points), default=0)
    parts = [f"A language model, {begun} with llmforge {escape(plan.llmforge)}."]
    facts = plan.facts.get("model") or {}
    total = plan.estimate.get("total_parameters") or facts.get("parameters")
    trained = plan.estimate.get("trainable_parameters")
    if total and trained:
        parts.append(f"It has {total:,} parameters, of which {trained:,} were trained.")
    planned = plan.estimate.get("steps")
    minutes = journal.seconds(journal_file) / 60
    of = f" of {planned:,}" if planned else ""
    parts.append(f"This is its state after {step:,}{of} optimizer steps ({minutes:.1f} minutes).")
    lines = " ".join(parts)
    return f"{lines}\n\nRun `{plan.run_id}`, plan fingerprint `{plan.fingerprint}`."


def _results(journal_file: Path) -> str:
    """The last value of each measured figure, beside that of the untrained model."""
    history = journal.history(journal_file)
    rows = []
    for name, points in history.items():
        if name.startswith(_APART) or name in _CURVES:
            continue
        step = max(points)
        before = history.get(f"baseline_{name}", {}).get(0)
        rows.append((name, "" if before is None else _number(before), _number(points[step]), step))
    losses = history.get("train_loss", {})
    if losses:
        first, last = min(losses), max(losses)
        rows.append(("train_loss", _number(losses[first]), _number(losses[last]), last))
    if not rows:
        return "Nothing was measured yet."
    return table(("metric", "before training", "now", "measured at step"), rows)


def _recipe(plan: Plan) -> Iterator[tuple[str, Any]]:
    if (name := base_model(plan)) is not None:
        yield "base model", name
        if revision := plan.settings["model"].get("revision"):
            yield "its revision", revision
    elif family := (plan.facts.get("model") or {}).get("family"):
        yield "architecture", family
    for label, key in RECIPE:
        value: Any = plan.settings
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is None or (key == "lora.kind" and value == "none"):
            continue
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        yield label, last_part(shown) if isinstance(shown, str) and "/" in shown else shown


def _data(plan: Plan) -> str:
    """Which rows, told by their digests; a file is called by its own name alone."""
    data, facts = plan.settings["data"], plan.facts.get("data") or {}
    told = [f"Kind: {escape(data['kind'])}."]
    if data["kind"] == "hub":
        name = str(data["id"])
        told.append(f"Data set {escape(name if is_repository(name) else last_part(name))}.")
    for side, rows in (facts.get("rows") or {}).items():
        told.append(f"{rows:,} rows for {escape(side)}.")
    text = " ".join(told)
    files = [
        (last_part(str(part["name"])), _rows(part), size_text(part["bytes"]), part["sha256"])
        for part in (plan.data_parts() if facts.get("sources") else ())
    ]
    built = ((plan.facts.get("identity") or {}).get("data") or {}).get("builtin")
    if built:
        files.append(("built-in example", "", "", built))
    return f"{text}\n\n{table(('file', 'rows', 'size', 'SHA-256'), files)}" if files else text


def _rows(part: Mapping[str, Any]) -> str:
    return f"{part['rows']:,}" if part.get("rows") is not None else ""


def _loading(plan: Plan, place: str, adapter: bool) -> str:
    code = _loading_code(place, adapter, base_model(plan))
    again = "llmforge train --plan plan.json"
    return (
        f"```python\n{code}\n```\n\nWith llmforge, where the run's folder is:\n\n"
        f'```console\n$ llmforge generate --run {plan.run_id} "<prompt>"\n```\n\n'
        f"The same training again, with the data at hand:\n\n```console\n$ {again}\n```"
    )


def _loading_code(place: str, adapter: bool, base: str | None) -> str:
    lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    at = _literal(place)
    if adapter:
        lines.insert(0, "from peft import PeftModel")
        if base is None:
            # named by its repository, the library would take the adapter's config for the base's
            lines += [f"folder = {at}"]
            if "/" in place:
                lines[0:0] = ["from huggingface_hub import snapshot_download"]
                lines[-1] = f"folder = snapshot_download({at})"
            at, start = "folder", 'f"{folder}/base"'
        else:
            start = _literal(base)
        lines.append(f"model = AutoModelForCausalLM.from_pretrained({start})")
        lines.append(f"model = PeftModel.from_pretrained(model, {at})")
    else:
        lines.append(f"model = AutoModelForCausalLM.from_pretrained({at})")
    lines.append(f"tokenizer = AutoTokenizer.from_pretrained({at})")
    return "\n".join(lines)


def _literal(text: str) -> str:
    """A text in Python code that no text can leave, nor the block it stands in."""
    return json.dumps(text).replace("`", "\\u0060")


def _versions(plan: Plan) -> Iterable[tuple[str, str]]:
    found = versions() | {"llmforge": plan.llmforge}
    return [(name, found[name]) for name in ("llmforge", *_SHOWN) if name in found]


def _number(value: float) -> str:
    return f"{value:,.6g}"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; every cell is escaped."""
    lines = [head, ["---"] * len(head)]
    cells = [[escape(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in (*lines, *cells))
