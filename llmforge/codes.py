"""The table of codes: what each one means, for `llmforge explain CODE`.

Rules explain themselves in their docstrings (`compiler/rules/`); the codes of composing, probing
and running are explained here. `explain_code` joins both.
"""

from __future__ import annotations

FAMILIES = {
    "LF1": "composition and schema",
    "LF2": "batch and schedule",
    "LF3": "precision and quantization",
    "LF4": "distributed",
    "LF5": "data",
    "LF6": "model and adapter",
    "LF7": "tracking and sweeps",
    "LF8": "at run time",
    "LF9": "export",
}

CODES: dict[str, tuple[str, str]] = {
    "LF100": (
        "composition that Hydra refuses",
        "Hydra stopped for a reason that has no code of its own; its words are in the message.",
    ),
    "LF101": (
        "unknown key",
        "No setting has this name, so it would be read by nobody. Near matches are shown. A key "
        "that another option of the same group has needs that option chosen first: `lora=small "
        "lora.r=8`.",
    ),
    "LF102": (
        "unknown option or group",
        "The group has no such option. `llmforge list GROUP` shows what there is; an option of "
        "your own is one YAML file in `<your folder>/GROUP/`, found with `--config-dir`.",
    ),
    "LF103": (
        "unknown kind",
        "`kind` names the component a section stands for. `llmforge list` shows the known ones.",
    ),
    "LF104": (
        "value that is not allowed",
        "The value has another type than the setting, lies outside its bounds, or is not one of "
        "its choices. `llmforge explain KEY` shows what is allowed and why.",
    ),
    "LF105": (
        "missing value",
        "A setting without a sensible default (`???` in YAML) was not given.",
    ),
    "LF106": (
        "interpolation that does not resolve",
        "`${...}` names a key that does not exist, asks for an environment variable that is not "
        "set, or runs in a circle.",
    ),
    "LF107": (
        "YAML that does not parse",
        "A configuration file is a UTF-8 YAML mapping of plain values; tags, and keys that are "
        "not text or numbers, have no place in it.",
    ),
    "LF108": (
        "duplicate key in a YAML file",
        "The same key stands twice on one level; YAML would keep the last in silence.",
    ),
    "LF109": (
        "YAML too large when expanded",
        "Aliases, nesting or size beyond what a configuration needs; such files can exhaust "
        "memory when they are loaded.",
    ),
    "LF110": (
        "code named by configuration",
        "`_target_` would run whatever it names. Components are chosen by `kind`, and only those "
        "that are registered exist.",
    ),
    "LF111": (
        "shipped option shadowed",
        "A file of yours stands in for a shipped one of the same name. A warning, so that nobody "
        "wonders where a value comes from.",
    ),
    "LF112": (
        "override that cannot be read",
        "Overrides are Hydra's grammar: key=value, group=option, +new=value, ~gone. Values with "
        "spaces or special characters need quotes: 'key=\"a b\"'. Several values separated by "
        "commas are a sweep: add -m.",
    ),
    "LF113": (
        "group chosen twice",
        "Two options of one group on one command line; only one can hold.",
    ),
    "LF114": (
        "secret given as a plain value",
        "Tokens and passwords would be written into plans, logs and the tracking server. Name "
        "the environment variable that holds it: env:NAME.",
    ),
    "LF115": (
        "config folder does not exist",
        "`--config-dir` names no folder, so the shipped options would stay in force unnoticed.",
    ),
    "LF116": (
        "plan file that cannot be used",
        "Not JSON, not a plan, or a plan of another version of llmforge.",
    ),
    "LF117": (
        "experiment that loses",
        "A file that nobody asked for on the command line, such as `local/default.yaml`, comes "
        "later in the defaults list and replaces a value of the chosen experiment. A warning; "
        "the hint sets the experiment's value again.",
    ),
    "LF118": (
        "file that includes itself",
        "The defaults lists lead from a file back to it, so composing would never end. Take one "
        "of the entries out.",
    ),
    "LF119": (
        "list that meets a mapping",
        "One file writes the key as a list and another as a mapping; the two cannot be merged.",
    ),
    "LF121": (
        "plugin that cannot be imported",
        "A module named in `plugins` is not found or raises. It is looked for in the working "
        "folder, in PYTHONPATH and among installed packages.",
    ),
    "LF122": (
        "registration that has no place",
        "A plugin registers a component where none can be chosen, or under a name that no setting "
        "can hold. Callbacks, collators, experiments, metrics, optimizers and trainers are "
        "registered by `llmforge.register`, data set classes by `llmforge.dataset`.",
    ),
    "LF123": (
        "name registered twice",
        "Two definitions under one name: which of them a run had would depend on the order of "
        "imports. `override=True` says that the later one is meant.",
    ),
    "LF124": (
        "component of the wrong class",
        "What is called while a run goes on must be what it is called as: a spec inherits from its "
        "section's spec class, a trainer from `ForgeTrainer`, a callback from `TrainerCallback`, "
        "and so on. The source is read and not imported.",
    ),
    "LF125": (
        "builder that is not there",
        "A registration names the class or function that builds its component as "
        "`package.module:name`. It is imported in the worker; whether it is there is seen now.",
    ),
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
    "LF710": (
        "sweep that varies nothing",
        "A sweep needs a key with several values: `optimizer.lr=1e-4,2e-4`, `lora=glob(8bit_*)`, "
        "`seed=range(1,4)`. A glob that matches no option, an empty range or an interval without "
        "room names none.",
    ),
    "LF711": (
        "key that is varied twice",
        "Two overrides vary the same key, so it is not clear which points are meant.",
    ),
    "LF712": (
        "interval in a grid",
        "A grid tries every point, and an interval has no end of them. `sweep=search` proposes "
        "points out of intervals; a grid takes a list or a range.",
    ),
    "LF713": (
        "folder of another sweep",
        "The folder holds a sweep of the same name over other keys, with another base or another "
        "objective. Its trials would be mixed up with these.",
    ),
    "LF714": (
        "sweep that is being driven",
        "Another process starts the trials of this sweep, so they would run twice.",
    ),
    "LF715": (
        "point that cannot work",
        "The compiler refuses some points of the sweep. They are left out and counted; "
        "`sweep.refused=stop` starts nothing while there are any.",
    ),
    "LF716": (
        "trials that fail alike",
        "Several trials in a row failed for the same reason, so the next one would too. "
        "`sweep.equal_failures` says how many it takes.",
    ),
    "LF720": (
        "space outside the schema",
        "A search may only propose what its keys can be: both ends of each interval and every "
        "choice are compiled before it starts.",
    ),
    "LF721": (
        "interval that its key cannot have",
        "An interval is of numbers, of whole ones where the key is a whole number, and above zero "
        "where it is even in its logarithm (`tag(log,interval(1e-5,1e-3))`).",
    ),
    "LF722": (
        "search without its packages",
        "Searches and pruners are Optuna's, CMA-ES needs `cmaes`, and the Gaussian process scipy. "
        "`pip install 'llmforge[search]'` brings them.",
    ),
    "LF723": (
        "objective that no run reports",
        "What is sought must be a figure of the result: a metric of the evaluations, "
        "`train_loss`, `tokens_per_second`, `seconds`, ...",
    ),
    "LF724": (
        "objective without a direction",
        "Losses are better when they are smaller, accuracies when they are larger. Of a metric of "
        "your own only you know, unless its spec class says so (`better`).",
    ),
    "LF725": (
        "sampler or pruner that does not fit",
        "A pruner judges by one figure that is measured during training, before the last step. "
        "CMA-ES seeks one figure, in intervals. Several figures are named by `sweep.objectives` "
        "alone.",
    ),
    "LF726": (
        "study that cannot be used",
        "The study of a search lies in a journal in the sweep's folder, or in an SQL database that "
        "`sweep.storage` names. It is locked, broken, unreachable, or its address says a secret. "
        "What became of trials stands in their run folders, so a new study finds them again.",
    ),
    "LF727": (
        "study of another space",
        "The storage holds a study of this name over other keys, other choices or other "
        "objectives, and its trials say nothing of these. The ends of an interval may move.",
    ),
    "LF728": (
        "search that finds nothing to run",
        "So many proposals in a row were refused by the compiler that the space itself is in "
        "question (`sweep.refused_in_row`). They cost no trials; what was refused is listed.",
    ),
    "LF729": (
        "study that does not answer",
        "A worker could not tell its study how the trial does. The training goes on, the trial is "
        "no longer pruned, and the sweep is told its result at the end. A warning.",
    ),
    "LF730": (
        "launcher that is not installed",
        "Hydra's launchers but the basic one come as packages of their own. "
        "`pip install 'llmforge[launchers]'` brings those for joblib and submitit, "
        "`llmforge[ray]` what the one for Ray needs.",
    ),
    "LF731": (
        "launcher that is not known",
        "`hydra/launcher` names no launcher of Hydra's, of llmforge's, of an installed plugin or "
        "of your own folder. `llmforge list hydra/launcher` shows them.",
    ),
    "LF732": (
        "launcher that failed",
        "The launcher itself, not a trial, ended with an error: a job could not be submitted, or "
        "its process died. Trials keep what their folders have. When not even one of the jobs was "
        "begun the sweep stops, since the next would not be either.",
    ),
    "LF733": (
        "flags that contradict each other",
        "`-m` asks for several runs; `--cfg`, `--info` and the like show one composition.",
    ),
    "LF740": (
        "record of a sweep that is not complete",
        "The sweep's page, or its run in MLflow (the parent of its trials' runs), could not be "
        "written to the end. Trials and their results are not affected; the same command again "
        "completes the record and runs nothing twice. A warning.",
    ),
    "LF741": (
        "filter that cannot be read",
        "`llmforge runs --where` takes comparisons of settings and figures with values: "
        "`eval_loss<2`, `lora.kind=lora`, `name~demo`; joined by `and`, `or`, `not` and "
        "parentheses. `NAME=null` asks for runs without it.",
    ),
    "LF742": (
        "column that no run has",
        "A column, a sort order or a filter names a setting or figure that none of the runs has. "
        "Settings have dotted keys, as `llmforge plan` shows them; figures stand in `result.json`.",
    ),
    "LF743": (
        "report that cannot be written",
        "`llmforge report` takes the name or folder of a sweep, the id or folder of a run, or "
        "`last`; the page is written into that folder, or where `-o` says.",
    ),
    "LF744": (
        "re-run that came out differently",
        "`llmforge train --run REF` trained the recorded plan once more, and some metrics are not "
        "the same bit for bit. Another device, other versions of the libraries "
        "(`environment.json` of both runs) and kernels that are not deterministic "
        "(`deterministic=true` asks for those that are) do that. A warning; `comparison.json` has "
        "the differences of every metric.",
    ),
    "LF745": (
        "resident worker and a launcher that starts its own processes",
        "Trials share a resident worker one after another, on one device, when Hydra's basic "
        "launcher starts them. `sweep.resident=auto` shares where that is so, and only there.",
    ),
    "LF746": (
        "trial that cannot share a resident worker",
        "`sweep.resident=on` wants every trial in one worker that keeps the frozen base loaded. A "
        "trial that trains or changes the base's weights, or runs code of your own, cannot leave "
        "the worker as it was; `auto` gives it a process of its own.",
    ),
    "LF801": (
        "worker failed",
        "An exception ended the run. Its traceback stands in the run folder's log.txt; the same "
        "command resumes from the last checkpoint.",
    ),
    "LF802": (
        "loss or gradient not finite",
        "The run was stopped before the optimizer took the step, so the weights are still good. The "
        "notes name process, micro batch and rows; not_finite.json in the run folder has all of "
        "them with their losses. Usual causes: too high a rate, float16 overflow, an empty label.",
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
    "LF841": (
        "benchmark task that lm-eval does not know",
        "Tasks are named as lm-eval names them; a folder's task files are YAML with a `task`.",
    ),
    "LF901": (
        "upload to the hub failed",
        "The model is in the run folder; the run itself is not affected.",
    ),
    "LF920": (
        "token that the hub does not take",
        "The variable that `hub.token` names is not set, here or in `paths.env_file`, or the hub "
        "does not know what it holds. Asked before the run starts, unless `hub.check=false`; for "
        "an upload that failed so, `llmforge push REF` does it again.",
    ),
    "LF922": (
        "repository that one may not write to",
        "The token is for reading, or the repository belongs to somebody else, or to an "
        "organization in which one may only read. Asked before the run starts, unless "
        "`hub.check=false`.",
    ),
    "LF924": (
        "hub out of reach",
        "No answer, or the network is off. The training itself does not need the hub: "
        "`hub.check=false` starts it all the same, and `llmforge push REF` uploads later.",
    ),
    "LF929": (
        "tokenizer without a BOS token",
        "`hub.add_bos=true` lets the uploaded tokenizer begin texts with the BOS token, and there "
        "is none. `hub.add_bos=null` uploads it as it is.",
    ),
    "LF910": (
        "versions that were not registered",
        "MLflow's registry did not take the run's checkpoints and model as versions. A warning: "
        "they lie in the run folder, and `llmforge register RUN NAME` does it later.",
    ),
    "LF911": (
        "weights that were not uploaded",
        "MLflow did not take the files of a checkpoint or of the final model. A warning: they lie "
        "in the run folder, and `llmforge register RUN NAME tracking.upload=final` tries again.",
    ),
    "LF912": (
        "registry out of reach",
        "Names and versions of models stand in MLflow at `tracking.uri`, which did not answer, or "
        "nothing is tracked at all. A run's id or folder needs no registry.",
    ),
}


def known_codes() -> dict[str, str]:
    """Every code with its title, rules included."""
    from llmforge.compiler.rules import RULES

    titles = {code: title for code, (title, _) in CODES.items()}
    titles |= {rule.code: rule.title for rule in RULES}
    return dict(sorted(titles.items()))


def explain_code(code: str) -> str | None:
    """Title, family and text of a code; None if there is no such code."""
    from llmforge.compiler.rules import RULES

    for rule in RULES:
        if rule.code == code:
            title, text = rule.title, _dedent(rule.text)
            break
    else:
        if code not in CODES:
            return None
        title, text = CODES[code]
    return f"{code}: {title} ({FAMILIES[code[:3]]})\n\n{text.strip()}"


def _dedent(text: str) -> str:
    import inspect

    return inspect.cleandoc(text)
