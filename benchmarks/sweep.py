"""A sweep of LoRA trials in one resident worker, against the same trials in cold processes.

The same grid (ranks by learning rates) twice in one go, each sweep whole and from its command:
expansion, preparation, trials, leaderboard. Trials are short (a few optimizer steps of a small
Llama that lies in a folder), so that what is compared is what a trial costs beside its training:
where training takes minutes, the ratio tends to 1. Final adapters of both sweeps are compared byte
for byte. Aim: a quarter of the time for 16 trials.

    python benchmarks/sweep.py [trials, 16] [further overrides, hardware=cpu ...]

On a machine with a GPU the trials use it; nothing is recorded in MLflow (tracking=none).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

RATES = 4
"""Learning rates of the grid; the rest is ranks."""

BASE = """
import sys
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

backend = Tokenizer(models.BPE())
backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
backend.decoder = decoders.ByteLevel()
backend.train_from_iterator(
    ["user assistant what is the answer"],
    trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False,
    ),
)
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>"
)
tokenizer.chat_template = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\\n{{ m.content }}<|im_end|>\\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\\n{% endif %}"
)
tokenizer.save_pretrained(sys.argv[1])
AutoModelForCausalLM.from_config(
    AutoConfig.for_model(
        "llama", num_hidden_layers=4, hidden_size=128, intermediate_size=352, vocab_size=320,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=256, eos_token_id=2,
        pad_token_id=0, tie_word_embeddings=True,
    )
).save_pretrained(sys.argv[1])
"""

TRIAL = (
    "model=folder", "model.path=base", "lora=small", "tracking=none", "data.rows=200",
    "data.max_train_rows=64", "data.max_eval_rows=8", "data.max_cut_tokens=null",
    "collator.max_length=128", "trainer.epochs=null", "trainer.max_steps=3",
    "trainer.global_batch=8", "trainer.micro_batch=8", "evaluation=end", "evaluation.samples=0",
    "checkpoint.every=null",
)  # fmt: skip


def timed(command: list[str], folder: Path) -> float:
    """Wall seconds of a command.

    Raises:
        SystemExit: it failed.
    """
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return time.perf_counter() - start


def processes(folder: Path) -> int:
    """Worker processes that the trials of a sweep ran in."""
    logs = folder.glob("*/*/log.txt")
    return len({log.read_text(encoding="utf-8").splitlines()[0].rpartition(" ")[2] for log in logs})


def different(one: Path, other: Path) -> int:
    """Trials whose final adapters are not the same bytes."""
    found = sorted(one.glob("*/*/model/adapter_model.safetensors"))
    by_run = {path.parts[-3]: path for path in other.glob("*/*/model/adapter_model.safetensors")}
    return sum(path.read_bytes() != by_run[path.parts[-3]].read_bytes() for path in found)


def main() -> None:
    """See the module."""
    words = sys.argv[1:]
    trials = int(words.pop(0)) if words and words[0].isdigit() else 16
    ranks = ",".join(str(2 * (1 + number)) for number in range(max(1, trials // RATES)))
    rates = ",".join(f"{1 + number}e-4" for number in range(min(RATES, trials)))
    python = sys.executable
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        timed([python, "-c", BASE, "base"], work)
        sweep = [python, "-m", "llmforge", "sweep", *TRIAL, *words]
        # data are prepared once before both, and files of the libraries are read once
        timed([*sweep, "lora.r=1", "optimizer.lr=1e-4,2e-4", "sweep.folder=before"], work)
        seconds = {
            mode: timed(
                [*sweep, f"lora.r={ranks}", f"optimizer.lr={rates}",
                 f"sweep.resident={mode}", f"sweep.folder={mode}"],
                work,
            )
            for mode in ("on", "off")
        }  # fmt: skip
        count = len(list((work / "on").glob("*/*/result.json")))
        workers = {mode: processes(work / mode) for mode in seconds}
        unequal = different(work / "on", work / "off")
    for mode, words_of in (("on", "resident"), ("off", "cold")):
        print(
            f"{words_of:<9} {count} trials in {workers[mode]} processes: {seconds[mode]:7.1f} s, "
            f"{seconds[mode] / count:.2f} s a trial"
        )
    print(f"ratio     {seconds['on'] / seconds['off']:.3f} of the cold time")
    print(f"adapters  {count - unequal} of {count} the same byte for byte")


if __name__ == "__main__":
    main()
