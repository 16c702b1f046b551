"""Codes of composition and schema: title and text of each; data only."""

from __future__ import annotations

COMPOSING: dict[str, tuple[str, str]] = {
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
}
