"""How fast and in how much memory data are prepared: tokenising, a large file, the cache.

Three measurements, each beside a baseline taken in the same run (packing has its own script,
`benchmarks/packing.py`):

* tokenise: rows to samples with masks and end tokens in an Arrow file, against the same tokenizer's
  bare `encode_batch` on the same texts, in turn, on the same cores. For `completion`, and for
  `chat` with a template. Aim: at least 90 % of the bare rate.
* large: a JSONL file of so many MB through plan and `llmforge prepare`, with the peak memory of the
  largest process. Aim: at most 1 GB for 2 GB.
* again: the same once more, answered from the cache. Aim: at most 0.5 s.

    python benchmarks/data.py GSM8K.jsonl [large_mb] [tokenise_mb]

This process stays small: what it starts would seem to have had its memory too.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

PAIRS = 5
FIELDS = ["data.fields.prompt=question", "data.fields.completion=answer", "model=small_llama"]
LLMFORGE = [sys.executable, "-m", "llmforge"]


def tokenise(file: str, collator: str) -> None:
    """Prints the ratio of prepared to bare tokens a second, in elapsed and in processor time."""
    import statistics

    import llmforge
    from llmforge.build.arrow import Side
    from llmforge.build.batches import Makers, batched
    from llmforge.build.data import rows_of
    from llmforge.build.layout import Laid
    from llmforge.build.tokenize import texts_of
    from llmforge.build.tokenizer import open_tokenizer
    from llmforge.registry import component
    from llmforge.stages.prepare import prepare

    plan = llmforge.compile(
        [*FIELDS, "data=jsonl", f"data.train={file}", "data.eval_fraction=0", "evaluation=end",
         "tokenizer.vocabulary=4096", "tracking=none", f"collator={collator}"]
    )  # fmt: skip
    prepared = prepare(plan)
    tokenizer = open_tokenizer(prepared.tokenizer_folder)
    rows = list(rows_of(component("data", "jsonl").load_builder()(plan).train))
    masker, spec = component("collator", collator).load_builder(), plan.spec.collator
    texts = []
    for batch in batched(rows):
        laid = masker._lay_out(batch, tokenizer, spec)  # noqa: SLF001 - the very same texts
        texts.append(texts_of([item for item in laid if isinstance(item, Laid)]))
    tokens = prepared.report["train"]["tokens"]

    def bare() -> None:
        for text in texts:
            tokenizer.backend_tokenizer.encode_batch(text, add_special_tokens=False)

    def ours() -> None:
        with (
            tempfile.TemporaryDirectory() as folder,
            Makers(plan, tokenizer, prepared.tokenizer_folder) as makers,
            Path(folder, "receipt").open("w", encoding="utf-8") as receipt,
        ):
            side = Side(Path(folder, "train.arrow"), receipt, int(spec.max_length), False)
            side.write({"train": rows}, makers)

    pairs = [(clock(bare), clock(ours)) for _ in range(PAIRS)]
    for (wall, _), (own, _) in pairs:
        print(f"  {collator:<11} bare {tokens / wall / 1e3:8,.0f} k tokens/s   "
              f"prepared {tokens / own / 1e3:8,.0f} k   ratio {wall / own:.2f}")  # fmt: skip
    wall = statistics.median(b[0] / o[0] for b, o in pairs)
    best = min(b[0] for b, _ in pairs) / min(o[0] for _, o in pairs)
    cpu = statistics.median(b[1] / o[1] for b, o in pairs)
    print(f"  {collator:<11} ratio: median {wall:.2f}, best of each {best:.2f}; of processor time "
          f"{cpu:.2f} (aim 0.9)", flush=True)  # fmt: skip


def clock(act: Any) -> tuple[float, float]:
    """Seconds elapsed, and seconds of all cores."""
    start, cpu = time.perf_counter(), time.process_time()
    act()
    return time.perf_counter() - start, time.process_time() - cpu


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
                break
    return rows


def large(file: Path, rows: int) -> None:
    """Plan, prepare and the second run of one large file, by the command line."""
    words = [*FIELDS, "data=jsonl", f"data.train={file}", "evaluation=end", "tracking=none",
             "tokenizer.source=tokenizer", "model.vocabulary=4096"]  # fmt: skip
    size = file.stat().st_size / 1e6
    told = f"  {size:,.0f} MB, {rows:,} rows"
    seconds = run([*LLMFORGE, "plan", *words])
    print(f"{told}: plan, every row read and checked, {seconds:.1f} s ({size / seconds:.0f} MB/s)")
    seconds = run([*LLMFORGE, "prepare", *words])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    print(f"{told}: prepare {seconds:.1f} s ({size / seconds:.1f} MB/s); peak memory of the "
          f"largest process {peak:.2f} GB (aim 1)")  # fmt: skip
    again = min(run([*LLMFORGE, "prepare", *words]) for _ in range(3))
    plan = min(run([*LLMFORGE, "plan", *words]) for _ in range(3))
    print(f"{told}: again, the whole command, {again:.2f} s (aim 0.5); its plan alone {plan:.2f} s")


def run(command: list[str]) -> float:
    """Seconds of a command that must succeed."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    if sys.argv[1] == "tokenise":
        tokenise(*sys.argv[2:4])
        return
    source, sizes = Path(sys.argv[1]).resolve(), [float(text) for text in sys.argv[2:4]]
    large_mb, tokenise_mb = [*sizes, *(200.0, 20.0)[len(sizes) :]]
    here = Path(__file__).resolve()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        repeated(source, Path("rows.jsonl"), max(tokenise_mb, 5))
        print(f"tokenise, {tokenise_mb:g} MB", flush=True)
        for collator in ("completion", "chat"):
            command = [sys.executable, str(here), "tokenise", "rows.jsonl", collator]
            subprocess.run(
                command, check=True, env={**os.environ, "TOKENIZERS_PARALLELISM": "true"}
            )
        next(Path(".llmforge/prepared").glob("*/tokenizer")).rename("tokenizer")
        print(f"large file, {large_mb:g} MB", flush=True)
        large(Path("large.jsonl"), repeated(source, Path("large.jsonl"), large_mb))


if __name__ == "__main__":
    main()
