"""Time and peak memory of the loss, forward and backward, by kernel, against whole logits.

    python benchmarks/loss_kernels.py [--device cuda] [--kernels full chunked liger]
                                      [--vocabulary 32768] [--tokens 4096] [--hidden 1024]

A llama of one narrow layer under a head of the given size, so that the loss is most of the work.
Every figure is of a process of its own; kernels take turns, so that a drifting machine slows all
alike. `labelled` is the share of tokens that carry a label: half of a chat, all of a plain text.
Peak memory is what the passes added to the loaded model (CPU: resident set; CUDA: allocated).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from itertools import product

KERNELS = ("full", "chunked")


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of the quickest of several passes, and bytes added at the peak; a process's work."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from llmforge.build import loss_kernels

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=8,
        num_key_value_heads=1,
        tie_word_embeddings=False,
    )
    model = AutoModelForCausalLM.from_config(config).to(options.device)
    model.requires_grad_(False)
    model.model.layers.requires_grad_(True)
    model.lm_head.requires_grad_(options.trained)
    ids = torch.randint(options.vocabulary, (4, options.tokens // 4), device=options.device)
    labels = ids.masked_fill(torch.rand(ids.shape, device=options.device) > options.labelled, -100)
    if options.chunk:
        loss_kernels.CHUNK_BYTES, loss_kernels.LEAST_TOKENS = 0, options.chunk
    lean = None if options.kernel == "full" else loss_kernels.LeanLoss(model, options.kernel)
    cuda = options.device == "cuda"
    weights = sum(w.numel() * 4 for w in model.parameters() if w.requires_grad)

    def one_pass() -> float:
        model.zero_grad()
        begin = time.perf_counter()
        with torch.autocast(options.device, torch.bfloat16, enabled=cuda):
            if lean is None:
                loss = model(ids, labels=labels).loss
            else:
                with lean.in_force():
                    loss = model(ids, labels=labels).loss
        loss.backward()
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    before = torch.cuda.memory_allocated() if cuda else resident()
    times = [one_pass() for _ in range(options.passes)]
    peak = torch.cuda.max_memory_allocated() if cuda else resident()
    return {"seconds": min(times), "bytes": peak - before - weights}


def resident() -> int:
    """Largest resident set of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kernels", nargs="+", default=list(KERNELS))
    parser.add_argument("--vocabulary", type=int, default=32_768)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunk", type=int, default=0, help="tokens; 0: as the package has it")
    parser.add_argument("--kernel", help=argparse.SUPPRESS)
    parser.add_argument("--labelled", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--trained", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kernel:
        print(json.dumps(measure(options)))
        return
    print(f"{options.tokens} tokens, vocabulary {options.vocabulary}, hidden {options.hidden}, "
          f"{options.device}")  # fmt: skip
    for trained, labelled in product((True, False), (1.0, 0.5)):
        found: dict[str, list[dict[str, float]]] = {kernel: [] for kernel in options.kernels}
        for _ in range(options.rounds):
            for kernel in options.kernels:
                own = ["--kernel", kernel, "--labelled", str(labelled)]
                own += ["--trained"] * trained
                command = [sys.executable, __file__, *sys.argv[1:], *own]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(done.stderr)
                found[kernel].append(json.loads(done.stdout.splitlines()[-1]))
        for kernel, values in found.items():
            seconds = [value["seconds"] for value in values]
            ratios = [s / b["seconds"] for s, b in zip(seconds, found["full"], strict=True)]
            memory = statistics.median(value["bytes"] for value in values)
            whole = statistics.median(value["bytes"] for value in found["full"])
            print(
                f"head {'trained' if trained else 'frozen ':<7}  labelled {labelled:4.0%}  "
                f"{kernel:<8} {statistics.median(seconds):7.3f} s  "
                f"{statistics.median(ratios):5.2f} x   {memory / 2**20:7.0f} MiB  "
                f"{memory / whole:5.2f} x",
                flush=True,
            )


if __name__ == "__main__":
    main()
