"""Codes of passes and probes: batch, precision, distributed, data, model; data only.

Title and text of each code. Rules have theirs in `compiler/rules/`.
"""

from __future__ import annotations

CHECKING: dict[str, tuple[str, str]] = {
    "LF210": (
        "`--fit` of a key that has no largest value",
        "`llmforge plan --fit KEY` looks for the largest value whose memory sheet fits. It knows "
        "the sizes of batches, rows and adapters, and only of models whose shape is known.",
    ),
    "LF224": (
        "override of what the model is",
        "`llmforge evaluate --run` measures a model that is there: its rows, metrics, generation, "
        "machine and arithmetic can be others, but model, adapter, tokenizer and training are what "
        "they were. Another model is another run.",
    ),
    "LF225": (
        "benchmarks without their package",
        "`--tasks` runs tasks of lm-eval, which is not installed: it is the extra `benchmarks`.",
    ),
    "LF226": (
        "task file that runs code",
        "A task file may name Python functions (`!function`), which would run on this machine with "
        "your rights. Read them, and say that you trust them with `--trust-task-code`.",
    ),
    "LF227": (
        "no such benchmark task",
        "A task is named as lm-eval names it, or by a folder of your own with a task file (YAML).",
    ),
    "LF228": (
        "evaluation that cannot be kept or has no rows",
        "Each evaluation of a run has a name of its own, and earlier ones are never overwritten; "
        "and there must be held-out rows to measure.",
    ),
    "LF316": (
        "preset file that cannot be used",
        "A preset is a flat JSON object with the keys of Void-Trainer. A missing key, one that "
        "nothing reads, or a value of another type is refused: it would train with other numbers "
        "than the file seems to say.",
    ),
    "LF408": (
        "hardware of the plan is not here",
        "The plan was made for another machine. Compile it again here with `hardware=auto`, or "
        "run it where that machine is.",
    ),
    "LF432": (
        "DeepSpeed file that cannot be used",
        "`deepspeed=file` reads a JSON object with a ZeRO stage from 1 to 3 when the plan is made. "
        "What it says of batch sizes, accumulation, clipping, precision, optimizer and scheduler "
        "must be the plan's, or `auto`.",
    ),
    "LF501": (
        "data file does not exist",
        "No file is there, or it cannot be read. Paths are taken from the working folder.",
    ),
    "LF502": (
        "data file without rows",
        "The file is empty or holds only blank lines: there is nothing to learn from.",
    ),
    "LF503": (
        "data file that is not UTF-8",
        "Text in another encoding would train on garbled words. Convert it once; the hint shows "
        "how.",
    ),
    "LF504": (
        "malformed line",
        "A line is not one JSON object, a record has too few values, a file is not what its kind "
        "says. Nothing is skipped in silence: mend or remove the row, or let some be left out with "
        "data.max_bad_rows.",
    ),
    "LF505": (
        "row without what its shape needs",
        "A column is missing, or holds another type. `data.fields` maps column names.",
    ),
    "LF506": (
        "shape not recognised",
        "Rows hold text, prompt and completion, or messages; `data.fields` says which columns "
        "hold them.",
    ),
    "LF509": (
        "too few rows to hold some out",
        "The share is less than one conversation of any skill. A larger share or more rows are "
        "needed, or 0 to hold out none.",
    ),
    "LF511": (
        "fold column that does not say which fold",
        "`data.fold` names a column that says `train` or `valid` of each row. Another word "
        "would put the row nowhere, and a second evaluation set would say it twice.",
    ),
    "LF512": (
        "rows that cannot be used",
        "Faulty rows are refused unless `data.max_bad_rows` lets some be left out; then this "
        "is a warning, and the receipt of the prepared data lists each with its reason.",
    ),
    "LF514": (
        "database that does not answer the question",
        "The database is down, has no such table, or refuses the statement; its own message "
        "is shown. Only statements that read are run.",
    ),
    "LF515": (
        "function or class of your own that cannot be used",
        "A transform or data set class is not registered, or raised. It is registered by a "
        "module named in `plugins`.",
    ),
    "LF516": (
        "condition that cannot be read",
        "`data.select` holds conditions `COLUMN OPERATOR VALUE` with a JSON value, such as "
        "`score >= 0.5` or `lang in ['en']` with double quotes.",
    ),
    "LF518": (
        "weights that do not fit the sources",
        "`data.weights` gives every source of a mix its share of the training rows, and names "
        "nothing else.",
    ),
    "LF530": (
        "pair without a preference",
        "The better and the worse answer of a row are the same, so there is nothing to learn from "
        "it. Rows may be left out with `data.max_bad_rows`; the receipt lists each.",
    ),
    "LF531": (
        "answers to different prompts",
        "A pair is two answers to one prompt. Without a column for the prompt "
        "(`data.fields.prompt`), texts must begin alike, and chats must be the same up to their "
        "last message.",
    ),
    "LF532": (
        "pair that ends without an answer",
        "The last message of both chats must be the assistant's: it is what is preferred or not.",
    ),
    "LF602": (
        "model folder that cannot be used",
        "It does not exist, has no config.json, or one that is not a JSON object. A model of the "
        "hub is chosen with `model=hub`.",
    ),
    "LF603": (
        "architecture without formulas",
        "Sizes and modules of this architecture are not known before it is built. A warning.",
    ),
    "LF605": (
        "shape that cannot be built",
        "Heads must divide the width, and key-value heads must divide the heads; families "
        "without grouped-query attention have as many key-value heads as heads.",
    ),
    "LF606": (
        "model not in the local cache",
        "Plans use no network; facts of a hub model are known once it was downloaded, or by the "
        "sizes that `model.shape` gives. Where both are there and differ, the notes say in what: "
        "the downloaded config.json counts, since it is what will be built. A warning.",
    ),
    "LF607": (
        "tokenizer or template not found",
        "`tokenizer.source` is auto, train, model or a folder; `chat_template` is auto, chatml or "
        "a file.",
    ),
    "LF608": (
        "weights that are not safetensors",
        "Pickled weights can run code when they are read; convert them once where you trust them.",
    ),
    "LF623": (
        "weights that the other run does not make",
        "With `model=trained` the model is what another run leaves: the weights it trains "
        "(`model.weights=model`), or its adapter merged into its base (`fused`). A run with an "
        "adapter has no whole model before it is fused, and one without has nothing to fuse.",
    ),
    "LF624": (
        "run that needs itself",
        "`model.overrides` names a run whose own model is trained by a run that stands above it, "
        "so none of them could begin; or more runs stand on each other than anybody means.",
    ),
    "LF625": (
        "model that is not trained yet",
        "The run that trains the model is compiled with the plan, but it is not finished on this "
        "machine. `llmforge run` trains it first, and goes on with what is asked for.",
    ),
}
