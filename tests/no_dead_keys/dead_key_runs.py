"""Runs in which fields are read: small plans, each carried out as a worker does it.

In: `Bases`, an empty folder. Out: `read_in_runs`: who read what.
Whatever is left out here must have an effect on the plan (`dead_key_effects.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import chdir
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dead_key_bases import Bases
from dead_key_effects import Values, filled
from dead_key_reads import Reads

from llmforge import plugins, registry
from llmforge.compiler.context import Context, Facts
from llmforge.compiler.passes import freeze, run_passes
from llmforge.origins import Origins
from llmforge.plan import Plan
from llmforge.schema.typed import typed

TINY = (
    "name=tiny", "model=small_llama", "model.layers=1", "model.hidden=16", "model.intermediate=32",
    "model.heads=2", "model.kv_heads=2", "model.context=256", "tokenizer.vocabulary=300",
    "hardware=cpu", "launch.threads=1", "paths=default", "trainer.epochs=null",
    "trainer.max_steps=2", "trainer.global_batch=4", "trainer.micro_batch=4",
    "trainer.accumulation=1", "evaluation.every=1", "evaluation.at_start=true",
    "evaluation.exact_match_rows=2", "evaluation.samples=3", "checkpoint=best",
    "evaluation.patience=2", "evaluation.min_improvement=0.01",
    "checkpoint.every=1", "generation.max_new_tokens=4", "generation.sample=true",
    "tracking=none",
)  # fmt: skip
"""A model that trains in a second."""

LENIENT = (
    "data.max_train_rows=40", "data.max_eval_rows=8", "data.eval_fraction=0.1", "data.workers=1",
    "data.max_cut_tokens=100%", "data.max_overlap=100%", "data.max_untrained_rows=100%",
)  # fmt: skip
"""Limits that few and alike rows stay within."""

PUSHED = (
    "tracking=mlflow", "hub=push", "hub.repository=me/model",
    "hub.when=every_save",
    "plugins=[bench_plugin]", "optimizer.layer_decay=0.9",
)  # fmt: skip
"""Everything that a run may do besides: a record, an upload, plugins, rates by layer."""

CHATS = [
    {
        "talk": [
            {"who": "human", "text": f"What is {number} + {number}?"},
            {"who": "gpt", "text": str(2 * number), "learn": 1},
        ],
        "means": [{"name": "add", "description": "adds", "parameters": {}}],
    }
    for number in range(40)
]
TASKS = [{"ask": "Add.", "about": f"{n} and {n}", "told": str(2 * n)} for n in range(40)]
PARTS = [{"pieces": [f"What is {n}?", f"It is {n}."]} for n in range(40)]
TEXTS = [{"body": f"Some words about {n}."} for n in range(40)]
PAIRS = [{"prompt": f"What is {n}?", "better": f"It is {n}.", "worse": "No."} for n in range(40)]

SHAPES: dict[str, tuple[list[dict[str, Any]], tuple[str, ...]]] = {
    "chats": (CHATS, (
        "collator=chat", "collator.turns=flagged", "data.fields.messages=talk",
        "data.fields.tools=means", "data.fields.role=who", "data.fields.content=text",
        "data.fields.flag=learn", "data.roles={human: user, gpt: assistant}",
    )),
    "tasks": (TASKS, (
        "collator=chat", "data.fields.instruction=ask", "data.fields.input=about",
        "data.fields.output=told",
    )),
    "parts": (PARTS, ("collator=lm", "data.fields.text_parts=pieces")),
    "last_part": (PARTS, ("collator=completion", "data.fields.text_parts=pieces")),
    "texts": (TEXTS, ("collator=lm", "data.fields.text=body")),
    "pairs": (PAIRS, (
        "collator=preference", "trainer=dpo", "data.fields.chosen=better",
        "data.fields.rejected=worse",
    )),
}  # fmt: skip
"""Rows of every shape under names of their own, and the settings that read them."""


LAUNCHED = (
    ("launch=torchrun",),
    ("launch=deepspeed", "launch.hostfile=hosts", "launch.ssh_port=2222"),
    ("launch=ray",),
    ("launch=slurm", "launch.executor=local"),
)
"""Ways to start the processes of a run."""


ADAPTED = (
    ("lora=eva", "lora.r=2", "lora.batches=40", "lora.similarity=0.0"),
    ("lora=small", "quantization=4bit_late"),
)
"""Adapters, and a base packed after it was built."""


PACKED = (
    ("quantize=gptq", "model.hidden=32", "quantize.group_size=32", "quantize.calibration.samples=4",
     "quantize.calibration.length=16", "quantize.speed_tokens=2"),
    ("quantize=bnb_4bit", "quantize.speed_tokens=2"),
    ("quantize=bnb_8bit", "quantize.speed_tokens=2"),
    ("quantize=int8", "quantize.speed_tokens=2"),
)  # fmt: skip
"""Ways to quantize."""


def read_in_runs(bases: Bases, folder: Path) -> Reads:
    """Carry out all the plans; who read what."""
    reads = Reads()
    with chdir(bases.folder), pytest.MonkeyPatch.context() as patch, reads.noted():
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        for kind in registry.kinds("data"):
            _prepare(plan_of(_values(bases, folder, *bases.data(kind))))
        for plan in _shapes(bases, folder):
            _build(plan)
        for words in ADAPTED:
            _build(plan_of(_values(bases, folder, "data=builtin", *words)))
        _merge(plan_of(_values(bases, folder, "data=builtin", "lora=small", "fuse.new_tokens=2")))
        for words in PACKED if find_spec("gptqmodel") else PACKED[1:]:
            _pack(plan_of(_values(bases, folder, "data=builtin", *words)))
        whole = plan_of(_values(bases, folder, "data=builtin", *PUSHED))
        _work(whole, patch)
        _ask(whole)
        _start(whole)
        Path("hosts").write_text("localhost slots=1\n", encoding="utf-8")
        for words in LAUNCHED:
            _start(plan_of(_values(bases, folder, "data=builtin", *words)))
    return reads


def plan_of(values: Values) -> Plan:
    """The plan of composed values."""
    values = filled(values)
    spec = typed(values)
    plugins.load_or_fail(list(spec.plugins))
    origins = Origins()
    context, found = run_passes(Context(spec, Facts()), origins)
    faults = [finding.message for finding in found if finding.is_error]
    assert not faults, faults
    return freeze(context, origins, found, ())


def _values(bases: Bases, folder: Path, *words: str) -> Values:
    places = (f"paths.runs={folder / 'runs'}", f"paths.cache={folder / 'cache'}")
    return bases.values(*TINY, *words, *LENIENT, *places)


def _shapes(bases: Bases, folder: Path) -> Iterator[Plan]:
    for name, (rows, words) in SHAPES.items():
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        yield plan_of(_values(bases, folder, "data=jsonl", f"data.train={file}", *words))


def _prepare(plan: Plan) -> Any:
    from llmforge.stages.prepare import prepare

    return prepare(plan)


def _build(plan: Plan) -> None:
    from llmforge.build.parts import build_parts

    build_parts(plan, _prepare(plan))


def _merge(plan: Plan) -> None:
    """What `llmforge fuse` does with the adapter of a finished run."""
    from llmforge.build.load import save_final
    from llmforge.build.parts import build_parts
    from llmforge.run.folder import RunFolder
    from llmforge.run.making.fusing import fuse_order
    from llmforge.run.terminal import Screen
    from llmforge.stages.fuse import fuse

    run = RunFolder.create(plan)
    save_final(plan, build_parts(plan, _prepare(plan)), run.model)
    fuse(plan, run, fuse_order(plan, run, run.model, "tiny", 0, plan), Screen())


def _pack(plan: Plan) -> None:
    """What `llmforge quantize` does with the model of a finished run."""
    from llmforge.build.load import save_final
    from llmforge.build.parts import build_parts
    from llmforge.refs.models import Place
    from llmforge.run.folder import RunFolder
    from llmforge.run.making.quantizing import quantize_order
    from llmforge.run.terminal import Screen
    from llmforge.stages.quantize import quantize

    run = RunFolder.create(plan)
    save_final(plan, build_parts(plan, _prepare(plan)), run.model)
    place = Place(run.model, "tiny", run, plan)
    quantize(plan, run, quantize_order(plan, run, place, 0), Screen())


def _ask(plan: Plan) -> None:
    """What `llmforge generate` does with a finished run."""
    from llmforge.refs import find_model, load_model
    from llmforge.stages.generate import answers

    model, tokenizer = load_model(find_model(plan.run_folder))
    assert len(answers(model, tokenizer, ["Why?"], plan.spec.generation.settings())) == 1


def _start(plan: Plan) -> None:
    """What the driver does before a worker runs."""
    from llmforge.run.environment import worker_environment
    from llmforge.run.preflight import check_here

    worker_environment(plan, 1)
    registry.component("launch", plan.spec.launch.kind).load_builder()(plan, Path("run"), "train")
    if not plan.settings["launch"].get("hostfile"):  # its hosts would be asked
        check_here(plan)
    if plan.spec.launch.kind == "slurm":
        from llmforge.run.starting import commands, slurm

        slurm.parameters(plan)
        slurm.executor_of(plan, plan.run_folder)
        assert commands.waits(plan)
        commands.torchrun(
            plan, nodes=1, node_rank=0, backend="c10d", meet=("here", 1), name="x", wait=1,
            worker=["w"],
        )  # fmt: skip
    if plan.spec.launch.kind == "ray":
        from llmforge.run.folder import RunFolder
        from llmforge.run.starting import ray_driver

        launch = plan.settings["launch"]
        ray_driver.connection(plan)
        ray_driver.scaling(launch)
        ray_driver.patience(launch)
        ray_driver.failures(launch)
        ray_driver.storage_of(RunFolder(plan.run_folder), launch)


def _work(plan: Plan, patch: pytest.MonkeyPatch) -> None:
    """Train and evaluate in this process, as a worker; the upload ends at the hub's door."""
    from llmforge.run import terminal
    from llmforge.run.folder import RunFolder
    from llmforge.run.signals import StopFlag
    from llmforge.run.worker import Worker

    there = SimpleNamespace(siblings=[], sha="0")
    done = SimpleNamespace(oid="1", commit_url="here")

    class Api:
        """Takes all and answers as after an upload."""

        create_repo = staticmethod(lambda _name, **_options: None)
        repo_info = staticmethod(lambda _name, **_options: there)
        create_commit = staticmethod(lambda _name, **_options: done)

        def __init__(self, **given: str | None) -> None:
            assert given == {"endpoint": None, "token": "of-the-hub"}

    patch.delenv("HF_ENDPOINT", raising=False)
    patch.setenv("HF_TOKEN", "of-the-hub")
    patch.setattr("huggingface_hub.HfApi", Api)
    # the worker would lead the test's own output into its log
    patch.setattr(terminal, "take_over", lambda _log, _quiet: terminal.Screen())
    for stage in ("train", "evaluate"):
        worker = Worker(RunFolder.create(plan), stage, StopFlag())
        assert worker.work() == 0
