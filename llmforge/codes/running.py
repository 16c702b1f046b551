"""Codes of at run time: title and text of each; data only."""

from __future__ import annotations

RUNNING: dict[str, tuple[str, str]] = {
    "LF801": (
        "worker failed",
        "An exception ended the run. Its traceback stands in the run folder's log.txt; the same "
        "command resumes from the last checkpoint.",
    ),
    "LF802": (
        "loss or gradient not finite",
        "The run was stopped before the optimizer took the step, so the weights are still good. "
        "The notes name process, micro batch and rows; not_finite.json in the run folder has all "
        "of them with their losses. Usual causes: too high a rate, float16 overflow, an empty "
        "label.",
    ),
    "LF803": (
        "out of memory",
        "Smaller trainer.micro_batch, shorter collator.max_length, "
        "trainer.gradient_checkpointing=true, a quantized base.",
    ),
    "LF804": (
        "worker killed",
        "A signal ended it from outside; SIGKILL most often comes from the kernel when main "
        "memory is full. The same command resumes from the last checkpoint.",
    ),
    "LF805": (
        "component that could not be built",
        "The message names the section, where it was set, and the original error.",
    ),
    "LF806": (
        "data changed since the plan",
        "A file's content is not what the plan was made of. Compile again to use the new content.",
    ),
    "LF807": (
        "tracking server out of reach",
        "Metrics stay in the run folder and are sent when it answers again. A warning.",
    ),
    "LF808": (
        "run folder in use",
        "Another process is running the same plan; two of them would write over each other. Wait "
        "for it, or give this run another `name`.",
    ),
    "LF809": (
        "no such run",
        "A run is named by its id, a unique part of it, its folder, or `last`; `llmforge runs` "
        "lists what there is.",
    ),
    "LF810": (
        "run that differs from its plan",
        "Steps or trained parameters were foretold otherwise. A warning: the result stands, the "
        "compiler is at fault.",
    ),
    "LF811": (
        "packed samples that see each other",
        "Changing one sample of a packed row moved the logits of another: the attention does "
        "not keep them apart. Found by a check before the first step; nothing was trained.",
    ),
    "LF812": (
        "model that cannot be had",
        "Its files are not all in the hub's local cache, and the hub does not give them: no "
        "network, no access, or no such model. Found before a worker starts.",
    ),
    "LF813": (
        "rows that end an epoch are trained on twice",
        "Several processes need full batches, and an epoch's last ones are filled. A row without "
        "loss can fill one where the loss is a sum over the tokens of the whole step, or counts "
        "pairs; a trainer with a loss of its own, and a model that is not told the tokens of a "
        "step, take rows of the epoch's beginning again. A warning: with a number of rows that "
        "the global batch divides, none is taken twice.",
    ),
    "LF820": (
        "too little room on the disk",
        "The run folder's file system has less free space than the final model and the checkpoints "
        "kept at once will take. Found before the first step. Free some space, keep fewer "
        "checkpoints, or choose another `paths.runs`.",
    ),
    "LF821": (
        "checkpoint of another run",
        "The newest checkpoint in the run folder was written with other data or numerics, or its "
        "state is laid out for another sharding. Going on from it would be neither run. "
        "`checkpoint.resume=false` removes it and starts at the beginning.",
    ),
    "LF822": (
        "model or checkpoint that could not be saved",
        "Writing failed, or what was read back before the first step is not what was written. "
        "Checkpoints that were whole before are whole still: the same command goes on from them "
        "once the cause is gone.",
    ),
    "LF831": (
        "hook that raised",
        "A method of the run's experiment (section `hooks`) raised; the message names the hook and "
        "the line. The traceback is in the run's log; after a fix the same command goes on, as "
        "another run, since the experiment's code is part of the fingerprint.",
    ),
    "LF840": (
        "metric that the evaluation did not report",
        "The best checkpoint is chosen by a metric (`checkpoint.best`) that an evaluation during "
        "training did not give. Exact match and metrics on text are only there when rows could be "
        "asked: held-out rows with a question and a whole reference answer.",
    ),
    "LF841": (
        "benchmark task that lm-eval does not know",
        "Tasks are named as lm-eval names them; a folder's task files are YAML with a `task`.",
    ),
    "LF862": (
        "setting that a finished model has behind it",
        "A trained model is asked with settings of `generation`; its data, numerics and parts were "
        "settled when it was trained. To train with the setting, give it to `llmforge train`.",
    ),
    "LF863": (
        "no such model",
        "A model is named by its run (an id, the start of one, an MLflow run id, `last`), by a "
        "folder (a run's, a checkpoint's, one with weights or an adapter), or by a version in "
        "MLflow's registry: `models:/name/3`, `name@best`. `llmforge runs` and `llmforge models` "
        "list what there is.",
    ),
    "LF864": (
        "no such checkpoint",
        "`checkpoint=` takes `best`, `last` or a number of steps. Only checkpoints count that are "
        "sealed and whole: a broken one is named with what is wrong with it. A run knows its best "
        "checkpoint when it was trained with `checkpoint.best`.",
    ),
    "LF865": (
        "model that cannot be loaded as asked",
        "Its base is gone or another one, the adapter has another base than the one it is put "
        "beside, or it is to be merged where that is no change of weights or would be rounded "
        "away.",
    ),
    "LF866": (
        "prompt that cannot be answered",
        "It is empty, fills the model's context, or the model's chat template refuses it; or the "
        "file of prompts, or of answers, is not what it should be.",
    ),
    "LF867": (
        "beams in a talk",
        "Beam search keeps several answers and changes what it has written until the end, so it "
        "cannot be shown as it is generated. `llmforge generate` can use beams.",
    ),
}
