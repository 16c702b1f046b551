"""One, two and four GPUs: speed, memory and loss of the ways to train on several.

    python benchmarks/scale.py --out results                     1B full and 8B LoRA, 1 and 2 GPUs
    python benchmarks/scale.py --model 1b --gpus 1,2,4 --cases ddp,zero3,resume --budget 300
    python benchmarks/scale.py --model tiny --device cpu         a rehearsal on two CPU processes

In: the cases below; random weights, drawn where they are trained, and the same random rows for
every case of a model. Global batch and micro batch are the same everywhere, so more GPUs mean less
accumulation, and the losses of all cases must agree. Out: `results.json` and `table.md` in the
folder `--out`, both written anew after every case: tokens/s, peak memory of each rank beside what
the plan foretells, the largest difference to the losses of one GPU. `resume` kills every rank of a
ZeRO-3 run with SIGKILL behind a checkpoint, goes on from it and compares losses with `zero3`.

Every case has a time limit, `--limit`; none is started that would end after `--budget`.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scale_rank import KEPT, STEPS, rank_of_case

GIB = 2**30
FULL = ("lora=none", "trainer.gradient_checkpointing=true", "optimizer.lr=0.0001")
LORA = (
    *("lora=small", "lora.r=16", "lora.dropout=0", "trainer.gradient_checkpointing=true"),
    "optimizer.lr=0.001",
)
TINY = (
    *("model=llama3_2_1b", "model.shape.num_hidden_layers=2", "model.shape.hidden_size=128"),
    *("model.shape.intermediate_size=256", "model.shape.num_attention_heads=4"),
    *("model.shape.num_key_value_heads=2", "model.shape.head_dim=32"),
    "model.shape.vocab_size=512",
)
MODELS: dict[str, tuple[str, ...]] = {
    "tiny": (*TINY, *FULL, "collator.max_length=64", "trainer.micro_batch=2"),
    "tiny_lora": (*TINY, *LORA, "collator.max_length=64", "trainer.micro_batch=2"),
    "1b": ("model=llama3_2_1b", *FULL, "collator.max_length=2048", "trainer.micro_batch=4"),
    "8b": ("model=llama3_8b", *LORA, "collator.max_length=2048", "trainer.micro_batch=4"),
}
GLOBAL = {"tiny": 8, "tiny_lora": 8, "1b": 32, "8b": 16}
CASES: dict[str, tuple[str, ...]] = {
    "ddp": (),
    "zero2": ("deepspeed=stage2",),
    "zero3": ("deepspeed=stage3",),
    "fsdp2": ("fsdp=full_shard",),
    "resume": ("deepspeed=stage3",),
    "zero3_4bit": ("deepspeed=stage3", "quantization=4bit"),
    "zero3_8bit": ("deepspeed=stage3", "quantization=8bit"),
}
ALONE = ("ddp",)
"""Cases of one GPU: plain training, which the others are compared with."""

COMMON = (
    *("tracking=none", "trainer.epochs=null", f"trainer.max_steps={STEPS}"),
    *("trainer.group_by_length=false", "data.shuffle=false", "schedule=constant"),
    *("schedule.warmup=0", "evaluation=end", "evaluation.samples=0"),
    *("evaluation.exact_match_rows=0", "checkpoint.every=null", "evaluation.at_start=false"),
)


def plan_of(model: str, case: str, gpus: int, device: str, folder: str) -> Any:
    """The plan of a case, as `llmforge plan` makes it."""
    from llmforge.compiler.passes import compile_plan

    rows = Path(folder, "rows.jsonl")
    rows.write_text('{"text": "a row that only makes the plan compile"}\n' * 200)
    launch = ["launch=local"]
    if gpus > 1:
        launch = ["launch=torchrun", f"launch.processes={gpus}"]
    if device != "cpu":
        launch.append(f"hardware.count={gpus}")
    data = (f"data.train={rows}", "data.eval_fraction=0.1", f"paths.runs={folder}")
    overrides = [*MODELS[model], *CASES[case], "data=jsonl", *data, *COMMON]
    return compile_plan(
        [*overrides, f"trainer.global_batch={GLOBAL[model]}", f"hardware={device}", *launch]
    )


# all ranks of a case


def run_case(plan: Any, folder: Path, limit: float, asked: dict[str, Any]) -> dict[str, Any]:
    """Start the ranks, wait for them, kill what is left at the limit."""
    world, port = int(plan.settings["launch"]["processes"]), free_port()
    for old in folder.glob("rank*.json"):
        old.unlink()
    began = time.monotonic()
    plan.save(folder / "plan.json")
    ranks = [start_rank(plan, folder, asked, rank, world, port, limit) for rank in range(world)]
    while time.monotonic() - began < limit:
        codes = [rank.poll() for rank in ranks]
        if None not in codes or (any(codes) and asked.get("kill_behind") is None):
            break  # where one has failed the others would wait for it
        time.sleep(0.1)
    for rank in ranks:
        if rank.poll() is None:
            rank.kill()
        rank.wait()
    found: dict[str, Any] = {"seconds": round(time.monotonic() - began, 1)}
    files = sorted(folder.glob("rank*.json"))
    found["ranks"] = [json.loads(file.read_text()) for file in files]
    found["codes"] = [rank.returncode for rank in ranks]
    if asked.get("kill_behind") is None and len(files) < world:
        logs = sorted(folder.glob("rank*.log"), key=lambda log: log.stat().st_mtime)
        late = " (time limit)" if time.monotonic() - began >= limit else ""
        found["failed"] = last_words(logs) + late
    return found


def last_words(logs: Sequence[Path]) -> str:
    """The last line of the log that holds a traceback, or of any."""
    texts = [log.read_text(errors="replace") for log in logs]
    failed = [text for text in texts if "Traceback" in text] or texts
    lines = [line for text in failed[:1] for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no word"


def start_rank(
    plan: Any, folder: Path, asked: dict[str, Any], rank: int, world: int, port: int, limit: float
) -> subprocess.Popen[bytes]:
    """One process of the case; its output goes to a log of its own."""
    place: dict[str, Any] = {"RANK": rank, "LOCAL_RANK": rank}
    place |= {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = dict(os.environ)
    if world == 1:
        environment["CUDA_VISIBLE_DEVICES"] = "0"  # else the Trainer spreads over all by threads
    if world > 1 or plan.settings["deepspeed"]["kind"] != "none":
        environment |= {name: str(value) for name, value in place.items()}
    job = {**asked, "rank": rank, "limit": limit}
    with (folder / f"rank{rank}.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--job", json.dumps(job), "--out",
             str(folder)],
            env=environment, stdout=log, stderr=log,
        )  # fmt: skip


def be_rank(folder: Path, job: dict[str, Any]) -> None:
    """What a rank's own process does."""
    from llmforge.plan import Plan

    faulthandler.dump_traceback_later(max(1.0, job["limit"] - 2))
    found = rank_of_case(Plan.load(folder / "plan.json"), folder, job)
    (folder / f"rank{job['rank']}.json").write_text(json.dumps(found))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measure(model: str, case: str, gpus: int, asked: argparse.Namespace) -> dict[str, Any]:
    """A case as a row of the table."""
    row: dict[str, Any] = {"model": model, "case": case, "gpus": gpus}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            plan = plan_of(model, case, gpus, asked.device, name)
        except Exception as error:  # a refused case is a row too
            return {**row, "failed": f"{type(error).__name__}: {error}"[:300]}
        row["predicted_bytes"] = sum(plan.estimate["memory"]["step"].values())
        row["tokens_per_step"] = GLOBAL[model] * plan.settings["collator"]["max_length"]
        more: dict[str, Any] = {}
        if case == "resume":
            first = run_case(plan, folder, asked.limit, {"kill_behind": KEPT})
            row["killed"] = first["codes"]
            kept = folder / "checkpoints" / f"checkpoint-{KEPT}"
            if not kept.is_dir():
                logs = sorted(folder.glob("rank*.log"))
                return {**row, "failed": f"no checkpoint was written: {last_words(logs)}"}
            more["resume_from"] = str(kept)
        return {**row, **run_case(plan, folder, asked.limit, more)}


# the table


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| model | case | GPUs | tokens/s | against one GPU | peak GiB by rank | foretold |"
        " error | largest loss difference | note |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(line(row, rows) for row in rows)]) + "\n"


def line(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """One row; what was not measured stays empty."""
    start = f"| {row['model']} | {row['case']} | {row['gpus']} | "
    if row.get("failed") or not row.get("ranks"):
        return f"{start}| | | | | | {row.get('failed', 'nothing measured')} |"
    speed, one = tokens_per_second(row), baseline(row, rows, ALONE[0], 1)
    alone = tokens_per_second(one) if one and one is not row else None
    peaks = [rank["peak_bytes"] for rank in row["ranks"]]
    error = f"{row['predicted_bytes'] / max(peaks) - 1:+.1%}" if max(peaks) else ""
    other = baseline(row, rows, "zero3", row["gpus"]) if row["case"] == "resume" else one
    apart = difference(row, other) if other and other is not row else None
    note = f"killed {row['killed']}" if "killed" in row else row["ranks"][0]["engine"]
    cells = [
        f"{speed:,.0f}" if speed else "",
        f"{speed / alone:.2f}" if speed and alone else "",
        " ".join(f"{peak / GIB:.2f}" for peak in peaks) if max(peaks) else "",
        f"{row['predicted_bytes'] / GIB:.2f}",
        error,
        "" if apart is None else f"{apart:.2g}",
        note,
    ]
    return f"{start}{' | '.join(cells)} |"


def tokens_per_second(row: dict[str, Any]) -> float | None:
    seconds = row["ranks"][0]["seconds_per_step"] if row.get("ranks") else []
    return float(row["tokens_per_step"] / statistics.median(seconds)) if seconds else None


def baseline(
    row: dict[str, Any], rows: Sequence[dict[str, Any]], case: str, gpus: int
) -> dict[str, Any] | None:
    """The row that another is compared with, where it was measured."""
    wanted = (row["model"], case, gpus)
    return next((r for r in rows if (r["model"], r["case"], r["gpus"]) == wanted), None)


def difference(row: dict[str, Any], other: dict[str, Any]) -> float | None:
    """Largest difference between the losses of steps that both have."""
    if not other.get("ranks"):
        return None
    here, there = row["ranks"][0]["losses"], other["ranks"][0]["losses"]
    return max((abs(here[step] - there[step]) for step in here.keys() & there.keys()), default=None)


def chosen(asked: argparse.Namespace) -> list[tuple[str, str, int]]:
    """Model, case and GPUs of every row, those of one GPU first."""
    found = []
    for gpus in sorted(int(number) for number in asked.gpus.split(",")):
        for model in asked.model.split(","):
            for case in asked.cases.split(","):
                quantized = "bit" in case and "lora=none" in MODELS[model]
                if (gpus > 1 or case in ALONE) and not quantized:
                    found.append((model, case, gpus))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="1b,8b", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--gpus", default="1,2", help="numbers of GPUs, such as 1,2,4")
    parser.add_argument("--cases", default="ddp,zero2,zero3,fsdp2,resume,zero3_4bit,zero3_8bit")
    parser.add_argument("--budget", type=float, default=460, help="seconds for everything")
    parser.add_argument("--limit", type=float, default=90, help="seconds for one start of a case")
    parser.add_argument("--device", default="h200", help="option of the group `hardware`")
    parser.add_argument("--out", type=Path, default=Path("scale-results"))
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.job is not None:
        be_rank(asked.out, asked.job)
        return
    began = time.monotonic()
    asked.out.mkdir(parents=True, exist_ok=True)
    surroundings(asked.device)
    rows: list[dict[str, Any]] = []
    for model, case, gpus in chosen(asked):
        left = asked.budget - (time.monotonic() - began)
        if left < min(asked.limit, 20):
            rows.append({"model": model, "case": case, "gpus": gpus, "failed": "no time left"})
        else:
            asked.limit = min(asked.limit, left)
            rows.append(measure(model, case, gpus, asked))
        print(line(rows[-1], rows), flush=True)
        (asked.out / "results.json").write_text(json.dumps(rows, indent=1))
        (asked.out / "table.md").write_text(table(rows))
    print(f"\n{table(rows)}\n{time.monotonic() - began:.0f} s in all")


def surroundings(device: str) -> None:
    """What a worker's environment has."""
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    if device == "cpu":
        os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    else:
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


if __name__ == "__main__":
    main()
