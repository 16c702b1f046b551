"""How fast and in how much memory data are prepared: tokenising, packing, a large file, the cache.

Four measurements, each beside a baseline taken in the same run:

* tokenise: samples of GSM8K with masks, end tokens and Arrow arrays, against the same tokenizer's
  bare `encode_batch` on the same texts, in turn, on the same cores. For `completion` and for `chat`
  with a template. Aim: at least 90 % of the bare rate.
* pack: rows placed a second, see `benchmarks/packing.py`.
* large: a JSONL file of so many MB through plan and `llmforge prepare`, with the peak memory of the
  process that tokenises. Aim: at most 1 GB for 2 GB.
* again: the same once more, answered from the cache. Aim: at most 0.5 s.

    python benchmarks/data.py GSM8K.jsonl [large_mb] [tokenise_mb]
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import llmforge
from llmforge.build.arrow import Side
from llmforge.build.batches import Makers, batched
from llmforge.build.data import rows_of
from llmforge.build.layout import Laid
from llmforge.build.tokenize import texts_of
from llmforge.build.tokenizer import open_tokenizer
from llmforge.registry import component

PAIRS = 5


def tokenise(overrides: list[str], collator: str) -> None:
    """Median ratio of prepared to bare tokens a second."""
    plan = llmforge.compile([*overrides, f"collator={collator}", "tracking=none"])
    from llmforge.stages.prepare import prepare

    prepared = prepare(plan)
    tokenizer = open_tokenizer(prepared.tokenizer_folder)
    splits = component("data", plan.spec.data.kind).load_builder()(plan)
    rows = list(rows_of(splits.train))
    lay_out = component("collator", collator).load_builder()._lay_out  # noqa: SLF001 - the same texts
    texts = [
        texts_of(
            [
                laid
                for laid in lay_out(batch, tokenizer, plan.spec.collator)
                if isinstance(laid, Laid)
            ]
        )
        for batch in batched(rows)
    ]
    tokens = prepared.report["train"]["tokens"]
    ratios = []
    for _ in range(PAIRS):
        bare = clock(
            lambda: [
                tokenizer.backend_tokenizer.encode_batch(t, add_special_tokens=False) for t in texts
            ]
        )
        with (
            tempfile.TemporaryDirectory() as folder,
            Makers(plan, tokenizer, prepared.tokenizer_folder) as makers,
            Path(folder, "receipt").open("w") as receipt,
        ):
            side = Side(
                Path(folder, "train.arrow"),
                receipt,
                int(plan.spec.collator.max_length),
                with_prompts=False,
            )
            ours = clock(lambda side=side, makers=makers: side.write({"train": rows}, makers))
        ratios.append(bare / ours)
        print(
            f"  {collator:<11} bare {tokens / bare / 1e3:8,.0f} k tokens/s   with masks {tokens / ours / 1e3:8,.0f} k   ratio {bare / ours:.3f}"
        )
    print(f"  {collator:<11} median ratio {statistics.median(ratios):.3f} (aim 0.9)")


def clock(act: Any) -> float:
    """Seconds."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def repeated(source: Path, target: Path, megabytes: float) -> int:
    """The file again and again, each row with a number of its own, until it is that large."""
    lines = source.read_text(encoding="utf-8").splitlines()

    def numbered() -> Iterator[str]:
        number = 0
        while True:
            for line in lines:
                row = json.loads(line)
                row["question"] = f"{number}. {row['question']}"
                number += 1
                yield json.dumps(row, ensure_ascii=False) + "\n"

    size = rows = 0
    with target.open("w", encoding="utf-8") as file:
        for line in numbered():
            size += file.write(line)
            rows += 1
            if size >= megabytes * 1e6:
                return rows
    return rows


def large(source: Path, megabytes: float) -> None:
    """Plan, prepare and the second run of one large file, by the command line."""
    file = Path("large.jsonl")
    rows = repeated(source, file, megabytes)
    words = [
        "data=jsonl",
        f"data.train={file}",
        "data.fields.prompt=question",
        "data.fields.completion=answer",
        "model=small_llama",
        "evaluation=end",
        "tracking=none",
        "tokenizer.source=tokenizer",
        "model.vocabulary=4096",
    ]
    command = [sys.executable, "-m", "llmforge"]
    told = f"  {file.stat().st_size / 1e6:,.0f} MB, {rows:,} rows"
    print(f"{told}: plan (every row read and checked) {run([*command, 'plan', *words]):.1f} s")
    seconds = run([*command, "prepare", *words])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(
        f"{told}: prepare {seconds:.1f} s, {file.stat().st_size / 1e6 / seconds:.1f} MB/s; peak memory of the largest process {peak:.2f} GiB (aim 1.0)"
    )
    again = [run([*command, "prepare", *words]) for _ in range(3)]
    bare = [run([*command, "plan", *words]) for _ in range(3)]
    print(
        f"{told}: again, whole command {min(again):.2f} s (aim 0.5), of which {min(bare):.2f} s are start-up and plan"
    )


def run(command: list[str]) -> float:
    """Seconds of a command that must succeed."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return time.perf_counter() - start


def main() -> None:
    source = Path(sys.argv[1]).resolve()
    large_mb = float(sys.argv[2]) if len(sys.argv) > 2 else 200
    tokenise_mb = float(sys.argv[3]) if len(sys.argv) > 3 else 20
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        repeated(source, Path("rows.jsonl"), tokenise_mb)
        overrides = [
            "data=jsonl",
            "data.train=rows.jsonl",
            "data.eval_fraction=0",
            "evaluation=end",
            "data.fields.prompt=question",
            "data.fields.completion=answer",
            "model=small_llama",
            "tokenizer.vocabulary=4096",
        ]
        print(f"tokenise, {tokenise_mb:g} MB")
        tokenise(overrides, "completion")
        tokenise(overrides, "chat")
        newest = max(
            Path(".llmforge/prepared").glob("*/tokenizer"), key=lambda p: p.stat().st_mtime
        )
        newest.rename("tokenizer")
        print(f"large file, {large_mb:g} MB")
        large(source, large_mb)


if __name__ == "__main__":
    main()
