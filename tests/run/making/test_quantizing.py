"""`llmforge quantize`: packed, measured, kept whole or not at all; what cannot work is refused.

The run has trained an adapter, so it is the fused model that is packed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmforge.build.quantizing.calibration import checked
from llmforge.build.quantizing.work import NotQuantized
from llmforge.diagnostics import ConfigRefused
from llmforge.refs.subjects import Asked, Subject, find_subject
from llmforge.run.folder import RunFolder
from llmforge.run.making import clearance
from llmforge.run.making import order as making
from llmforge.run.making.labels import read_label
from llmforge.run.making.order import Order
from llmforge.run.making.quantizing import quantize_order
from llmforge.run.terminal import Screen
from llmforge.schema.quantize import CalibrationSpec
from llmforge.stages.quantize import calibration_samples
from llmforge.stages.quantize import quantize as stage

SMALL = ("quantize.speed_tokens=4",)
GPTQ = ("quantize=gptq", "quantize.group_size=32", "quantize.calibration.samples=16",
        "quantize.calibration.length=32", *SMALL)  # fmt: skip
INT4 = ("quantize=int4", "quantize.group_size=32", *SMALL)

PLAIN = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
text = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
ids = tokenizer(text, return_tensors="pt")
said = model.generate(**ids, max_new_tokens=4, do_sample=False)
assert said.shape[1] > ids["input_ids"].shape[1]
assert "llmforge" not in sys.modules
print(model.config.quantization_config.quant_method)
"""


def subject(ref: Path, *overrides: str) -> Subject:
    return find_subject(Asked(ref, overrides=overrides))


def ordered(found: Subject) -> Order:
    return quantize_order(found.plan, found.run, found.place, found.step)


def carried_out(found: Subject) -> dict[str, Any]:
    """The stage in this process, as the worker does it."""
    order = ordered(found)
    figures = stage(found.plan, found.run, order, Screen())
    return making.keep_record(found.run, found.plan, order, figures)


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(ConfigRefused) as caught:
        act()
    (found,) = caught.value.diagnostics
    return f"{found.code}: {found.message} [{found.hint}]"


def failure(found: Subject) -> Any:
    with pytest.raises(NotQuantized) as caught:
        carried_out(found)
    return caught.value


def plain(folder: Path) -> str:
    """What transformers alone makes of a folder; the name of the method."""
    ran = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN, str(folder)], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout.split()[-1].lower()


def beside(run: RunFolder) -> list[str]:
    """What lies in the run folder of a making that failed."""
    return [path.name for path in run.path.iterdir() if "quantized" in path.name]


def test_integers_are_packed_measured_and_read_by_plain_transformers(run: RunFolder) -> None:
    pytest.importorskip("compressed_tensors")

    record = carried_out(subject(run.path, *INT4))

    assert record["measured_on"] == "8 held-out rows of the run"
    result = run.result() or {}
    assert record["perplexity_before"] == pytest.approx(result["eval_perplexity"], rel=0.02)
    assert abs(record["perplexity_growth"]) < 0.1
    assert record["layers"] == 7
    assert record["bytes_after"] < record["bytes_before"]
    assert 0 <= record["mean_kl"] < 0.1
    assert 0.5 < record["agreement"] <= 1
    assert record["tokens_per_second_after"] > 0

    folder = run.path / "quantized"
    label = read_label(folder)
    assert label is not None
    assert label["stage"] == "quantize"
    assert label["perplexity_after"] == record["perplexity_after"]
    assert "## Quantized" in (folder / "README.md").read_text()
    assert (folder / "chat_template.jinja").is_file()
    assert "compressed" in plain(folder)
    assert making.finished(run, ordered(subject(run.path, *INT4))) is not None
    assert making.finished(run, ordered(subject(run.path, *INT4, "quantize.bits=8"))) is None


def test_gptq_is_calibrated_on_the_runs_own_samples(run: RunFolder) -> None:
    pytest.importorskip("gptqmodel")
    prepared = sorted(Path(".llmforge").rglob("*.arrow"))
    before = [path.stat().st_mtime_ns for path in prepared]

    record = carried_out(subject(run.path, *GPTQ))

    assert record["calibration"]["samples"] == 16
    assert set(record["layer_errors"]["worst"]) <= {
        f"model.layers.0.{name}_proj"
        for name in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate",
                     "mlp.up", "mlp.down")
    }  # fmt: skip
    assert record["layers"] == 7
    assert abs(record["perplexity_growth"]) < 0.1
    assert [path.stat().st_mtime_ns for path in prepared] == before

    folder = run.path / "quantized"
    stored = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert (stored["bits"], stored["group_size"], stored["checkpoint_format"]) == (4, 32, "gptq")
    assert json.loads((folder / "quantize_config.json").read_text())["desc_act"] is False
    assert "gptq" in plain(folder)


def test_a_folder_as_autogptq_wrote_it_is_read(run: RunFolder) -> None:
    """Its config knew no `checkpoint_format`, and lay in a file of its own as well."""
    pytest.importorskip("gptqmodel")
    import torch

    from llmforge.build.load import load_weights

    carried_out(subject(run.path, *GPTQ))
    folder, old = run.path / "quantized", run.path / "old"
    shutil.copytree(folder, old)
    config = json.loads((old / "config.json").read_text())
    keys = ("bits", "group_size", "damp_percent", "desc_act", "sym", "true_sequential")
    own = {key: config["quantization_config"][key] for key in keys}
    own |= {"static_groups": False, "model_name_or_path": None, "model_file_base_name": "model"}
    (old / "quantize_config.json").write_text(json.dumps(own))
    config["quantization_config"] = {**own, "quant_method": "gptq"}
    (old / "config.json").write_text(json.dumps(config))

    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        one, two = (load_weights(place, None)(ids).logits for place in (folder, old))
    # its config names no kernel, so another one may be taken
    assert torch.allclose(one, two, atol=1e-2)


@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes_is_saved_packed(run: RunFolder, bits: int) -> None:
    pytest.importorskip("bitsandbytes")

    record = carried_out(subject(run.path, f"quantize=bnb_{bits}bit", *SMALL))

    assert record["layers"] == 7
    assert abs(record["perplexity_growth"]) < 0.1
    stored = json.loads((run.path / "quantized" / "config.json").read_text())
    assert stored["quantization_config"][f"load_in_{bits}bit"] is True


def test_a_model_that_grew_too_perplexed_is_not_kept(run: RunFolder) -> None:
    pytest.importorskip("compressed_tensors")
    carried_out(subject(run.path, *INT4))
    earlier = (run.path / "quantized" / "model.safetensors").read_bytes()
    bound = "quantize.max_perplexity_growth=0.0"
    asked = subject(run.path, *INT4, "quantize.bits=8", bound)
    # whether rounding does harm to a model that knows nothing is chance: the bound is what counts
    import llmforge.stages.quantize as module

    kept = module._figures
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_figures", lambda *a: kept(*a) | {"perplexity_growth": 0.25})
        error = failure(asked)

    assert (error.code, error.key) == ("LF970", "quantize.max_perplexity_growth")
    assert "by 25.0%" in str(error)
    assert (run.path / "quantized" / "model.safetensors").read_bytes() == earlier
    assert beside(run) == ["quantized"]


@pytest.mark.usefixtures("everything_installed")
def test_calibration_on_other_rows_and_on_texts(run: RunFolder) -> None:
    from llmforge.build.quantizing.work import Work, tokenizer_of
    from llmforge.plan import Plan

    rows = [{"question": f"What is {n}?", "answer": str(n)} for n in range(9)]
    Path("other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["data=jsonl", "data.train=other.jsonl", "data.fields.prompt=question",
             "data.fields.completion=answer"]  # fmt: skip
    chosen = json.dumps(words)
    data = ("quantize.calibration.source=data", f"quantize.calibration.data={chosen}")
    asked = subject(run.path, *GPTQ, *data)
    other, own = ordered(asked), ordered(subject(run.path, *GPTQ))
    assert own.fingerprint != other.fingerprint
    # the second order takes nothing away that the first one's worker reads
    assert (own.rows, bool(other.rows)) == ("", True)
    plan = Plan.load(run.path / other.rows)
    spec = asked.plan.spec.quantize.calibration  # type: ignore[attr-defined]
    fused = run.path / "fused"
    tokenizer = tokenizer_of(fused)
    work = Work(asked.plan, fused, run.path / "staged", tokenizer)
    found = calibration_samples(work, spec, plan, trained=True)
    assert len(found) == 8  # the run holds rows out, and of nine that is one
    assert "What is" in tokenizer.decode(found[0])
    assert all(len(ids) <= 32 for ids in found)

    short = ("quantize.calibration.source=texts", 'quantize.calibration.texts=["Hello"]')
    asked = subject(run.path, *GPTQ, *short, "quantize.calibration.length=64")
    spec = asked.plan.spec.quantize.calibration  # type: ignore[attr-defined]
    with pytest.raises(NotQuantized) as caught:
        calibration_samples(work, spec, None, trained=True)
    assert caught.value.code == "LF966"
    assert "fewer than one block of 64" in str(caught.value)
    assert caught.value.hint == "quantize.calibration.source=run"


@pytest.mark.parametrize(
    ("rows", "asked", "trained", "hint"),
    [
        (100, {"source": "run", "samples": 4}, True, "quantize.calibration.samples=7"),
        (6, {"source": "run", "samples": 4}, True, "quantize=int8"),
        (4, {"source": "texts", "samples": 8}, True, "quantize.calibration.source=run"),
        (4, {"source": "data", "samples": 8}, False, "quantize=int8"),
    ],
)
def test_what_to_do_about_too_few_tokens(
    rows: int, asked: dict[str, Any], trained: bool, hint: str
) -> None:
    spec = CalibrationSpec(data=[], texts=[], length=64, **asked)
    with pytest.raises(NotQuantized) as caught:
        checked([[1] * 10] * 4, rows, 64, spec, trained)
    assert (caught.value.code, caught.value.hint) == ("LF966", hint)
    assert len(checked([[1] * 10] * 7, rows, 64, spec, trained)) == 7


def test_what_cannot_be_quantized_is_refused(run: RunFolder) -> None:
    assert refusal(lambda: ordered(subject(run.path, "quantize=none"))) == (
        "LF960: `quantize.kind` is none: it is not said how the model is to be quantized "
        "[quantize=gptq]"
    )
    taken = run.path / "mine"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    asked = subject(run.path, *INT4, f"quantize.folder={taken}")
    assert refusal(lambda: ordered(asked)).startswith("LF969:")
    assert (taken / "notes.txt").read_text() == "mine"

    base = run.model / "base"
    asked = subject(base, *INT4)
    config = base / "config.json"
    stored = json.loads(config.read_text())
    config.write_text(json.dumps(stored | {"quantization_config": {"quant_method": "awq"}}))
    assert "quantized already (awq)" in refusal(lambda: ordered(asked))


def test_too_little_room_is_told_with_figures(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = subject(run.path, *INT4)
    monkeypatch.setattr(clearance, "free_disk", lambda _folder: 1000)
    assert refusal(lambda: ordered(asked)).startswith("LF968:")
    monkeypatch.setattr(clearance, "free_disk", lambda _folder: 10**15)
    monkeypatch.setattr(clearance, "free_memory", lambda: 1000)
    assert refusal(lambda: ordered(asked)).startswith("LF973:")


def test_an_adapter_must_be_fused_first(run: RunFolder) -> None:
    asked = subject(run.path, *INT4)
    assert ordered(asked).label == f"{run.run_id}, fused"
    shutil.rmtree(run.path / "fused")
    told = refusal(lambda: ordered(asked))
    assert told.startswith("LF972:")
    assert told.endswith(f"[llmforge fuse --run {run.run_id}]")
