"""`llmforge fuse`: a trained adapter merged, proved, kept whole or not at all, and found again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmforge.build.fusing import merge as fusing
from llmforge.cli import main
from llmforge.diagnostics import ConfigRefused
from llmforge.merging import order_of, replaced
from llmforge.plan import Plan
from llmforge.refs.subjects import Asked, Subject, find_subject
from llmforge.run.failures import diagnose
from llmforge.run.folder import RunFolder
from llmforge.run.making import clearance
from llmforge.run.making import order as making
from llmforge.run.making.holding import PlaceBusy, holder, workplace
from llmforge.run.making.labels import read_label
from llmforge.run.status import Status
from llmforge.run.terminal import Screen
from llmforge.stages.fuse import ProofFailed
from llmforge.stages.fuse import fuse as stage

if TYPE_CHECKING:
    from stand_in_hub import StandIn

QUICK = ("fuse.probe_rows=0", "fuse.new_tokens=2", "fuse.probe_tokens=32")
"""For what was not trained by the run's plan."""


def subject(run: RunFolder, *overrides: str) -> Subject:
    return find_subject(Asked(run.path, overrides=("fuse.probe_rows=0", *overrides)))


def carried_out(found: Subject) -> dict[str, Any]:
    """The stage in this process, as the worker does it."""
    order = order_of(found)
    figures = stage(found.plan, found.run, order, Screen())
    return making.keep_record(found.run, found.plan, order, figures)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(ConfigRefused) as caught:
        act()
    (found,) = caught.value.diagnostics
    return f"{found.code}: {found.message} [{found.hint}]"


def test_a_training_that_fuses_leaves_model_record_card_and_figures(home: Path) -> None:
    (folder,) = (home / "runs").iterdir()
    run = RunFolder.open(folder)
    assert run.status() is Status.FINISHED
    record = making.record(run, "fuse")
    assert record is not None
    assert record["proof"]["passed"]
    names = {probe["name"] for probe in record["proof"]["probes"]}
    assert any(name.startswith("held-out row") for name in names)

    fused = run.path / "fused"
    companions = {"tokenizer.json", "chat_template.jinja", "generation_config.json"}
    assert companions | {"config.json", "model.safetensors", "README.md"} <= set(files(fused))
    text = (fused / "README.md").read_text()
    assert "## Fused" in text
    assert "mean KL divergence" in text
    assert str(home) not in text + (fused / "llmforge.json").read_text()
    label = read_label(fused)
    assert label is not None
    assert label["proof"] == record["proof"]
    assert label["files"]["model.safetensors"] == record["files"]["model.safetensors"]

    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db")
    (recorded,) = client.search_runs(["1"])
    assert recorded.info.status == "FINISHED"
    assert recorded.data.metrics["fuse/proof/overall/agreement"] == 1.0
    assert "fuse.json" in {one.path for one in client.list_artifacts(recorded.info.run_id)}


def test_what_was_made_is_answered_from_its_record(run: RunFolder, capsys: Any) -> None:
    before = files(run.path / "fused")
    asked = ["fuse", "--run", str(run.path)]
    assert main(asked) == 0
    assert "this is its record" in capsys.readouterr().err
    assert files(run.path / "fused") == before

    other = subject(run, "fuse.dtype=float16")
    told = replaced(other, order_of(other))
    assert told is not None
    assert "fuse.dtype" in told
    assert carried_out(other)["merge"]["dtype"] == "float16"
    again = subject(run, "fuse.dtype=float16")
    assert making.finished(run, order_of(again)) is not None


def planted(monkeypatch: pytest.MonkeyPatch, fault: Callable[[Path], None]) -> None:
    """Something happens to the merged weights before they are proved."""
    merge = fusing.fuse

    def bad(base: Path, adapter: Path, target: Path, *rest: Any, **more: Any) -> Any:
        found = merge(base, adapter, target, *rest, **more)
        fault(target)
        return found

    monkeypatch.setattr(fusing, "fuse", bad)


def test_a_bad_merge_is_refused_and_the_good_one_stays(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file, save_file

    good = files(run.path / "fused")
    found = subject(run, "fuse.new_tokens=2")
    module = "model.layers.0.self_attn.v_proj"

    def scaled(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        base = load_file(run.model / "base" / "model.safetensors")
        name = f"{module}.weight"
        weights[name] = base[name] + 3 * (weights[name] - base[name])
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    with monkeypatch.context() as patch:
        planted(patch, scaled)
        with pytest.raises(ProofFailed, match=module) as failed:
            carried_out(found)
    assert failed.value.proof.first_difference is not None
    assert failed.value.proof.first_difference.name == module

    def swapped(folder: Path) -> None:
        path = folder / "tokenizer.json"
        told = json.loads(path.read_text())
        words = told["model"]["vocab"]
        one, two = sorted(words, key=words.get)[-2:]
        words[one], words[two] = words[two], words[one]
        path.write_text(json.dumps(told))

    with monkeypatch.context() as patch:
        planted(patch, swapped)
        with pytest.raises(ProofFailed, match="token"):
            carried_out(found)
    assert files(run.path / "fused") == good
    assert [path.name for path in run.path.iterdir() if path.name.startswith(".fused")] == []


@pytest.mark.slow
def test_a_merge_that_was_killed_leaves_the_earlier_one_and_is_done_again(run: RunFolder) -> None:
    good = files(run.path / "fused")
    work = run.path / ".fused.making"
    words = ["fuse", "--run", str(run.path), "fuse.dtype=float32", "fuse.new_tokens=3"]
    driver = subprocess.Popen(
        [sys.executable, "-m", "llmforge", *words], env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while not work.is_dir() and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert work.is_dir()
    worker = int((run.path / "log.txt").read_text().rpartition("pid ")[2].split()[0])
    os.kill(worker, signal.SIGKILL)
    assert driver.wait(60) == 1
    assert files(run.path / "fused") == good
    assert run.status() is Status.FINISHED

    record = carried_out(subject(run, "fuse.dtype=float32", "fuse.new_tokens=3"))
    assert record["proof"]["passed"]
    assert not work.exists()


def test_the_fused_model_is_found_by_run_by_folder_and_where_it_was_moved(
    run: RunFolder, tmp_path: Path
) -> None:
    from llmforge import load
    from llmforge.refs import find_model

    shutil.rmtree(run.path / "fused")
    told = refusal(lambda: find_model(run.path, weights="fused"))
    assert told.startswith("LF863")
    assert f"llmforge fuse --run {run.run_id}" in told
    carried_out(subject(run))

    by_run = find_model(run.path, weights="fused")
    by_folder = find_model(run.path / "fused")
    assert by_run.folder == by_folder.folder == run.path / "fused"
    assert by_folder.run is not None
    moved = shutil.copytree(run.path / "fused", tmp_path / "elsewhere")
    place = find_model(moved)
    assert place.plan is not None
    assert place.plan.settings["generation"] == by_run.plan.settings["generation"]  # type: ignore[union-attr]
    one, tokenizer = load(moved)
    two, _ = load(run.path)
    ids = tokenizer("The capital of Norway", return_tensors="pt")
    assert (one(**ids).logits - two(**ids).logits).abs().max() < 1e-4

    (moved / "model.safetensors").write_bytes(b"")
    assert "broken" in refusal(lambda: find_model(moved))


def test_an_adapter_without_a_run_gets_a_run_folder_of_its_own(
    run: RunFolder, tmp_path: Path
) -> None:
    alone = shutil.copytree(run.model, tmp_path / "adapters" / "My Adapter")
    found = find_subject(Asked(alone, overrides=QUICK))
    assert found.trained is None
    assert found.run.run_id.startswith("my-adapter-")
    record = carried_out(found)
    assert record["proof"]["passed"]
    assert (found.run.path / "fused" / "model.safetensors").is_file()


def test_an_adapter_on_the_hub_is_merged_into_a_base_on_the_hub(
    run: RunFolder, hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    constants = "huggingface_hub.constants"  # which were read from the environment before
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(f"{constants}.ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
    for name, folder in (("base", run.model / "base"), ("adapter", run.model)):
        api = huggingface_hub.HfApi(hub.url)
        api.create_repo(f"me/{name}")
        api.upload_folder(repo_id=f"me/{name}", folder_path=folder, ignore_patterns=["base/*"])
    config = hub.repositories["me/adapter"].branches["main"]
    told = json.loads(config["adapter_config.json"])
    config["adapter_config.json"] = json.dumps(
        {**told, "base_model_name_or_path": "me/base"}
    ).encode()

    found = find_subject(Asked("me/adapter", overrides=QUICK))
    record = carried_out(found)

    assert record["proof"]["passed"]
    assert record["label"].startswith("me/adapter at ")
    assert record["base"].startswith("me/base at ")
    assert refusal(lambda: find_subject(Asked("me/nothing"))).startswith("LF863")
    told = json.loads(config["adapter_config.json"])
    config["adapter_config.json"] = json.dumps(
        {**told, "base_model_name_or_path": "me/gone"}
    ).encode()
    hub.repositories["me/adapter"].commits.append(("main", "1" * 40, "another base"))
    assert refusal(lambda: find_subject(Asked("me/adapter"))).startswith("LF942")


def test_a_registered_version_is_merged(run: RunFolder, home: Path) -> None:
    from llmforge.refs.models import registry_of

    shutil.copy(home / "mlflow.db", "mlflow.db")
    assert main(["register", str(run.path), "helper"]) == 0
    assert registry_of().versions("helper")
    shutil.rmtree(run.path / "fused")

    found = find_subject(Asked("models:/helper/1", overrides=("fuse.probe_rows=0",)))

    assert found.run.path == run.path
    assert carried_out(found)["proof"]["passed"]
    assert (run.path / "fused" / "model.safetensors").is_file()


def test_what_cannot_be_merged_is_refused_before_anything_is_loaded(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = run.model / "base"

    def asked(*words: str) -> Callable[[], object]:
        return lambda: order_of(subject(run, *words))

    whole = refusal(lambda: order_of(find_subject(Asked(base))))
    assert whole.startswith("LF940")
    assert "full model" in whole

    occupied = tmp_path / "mine"
    occupied.mkdir()
    (occupied / "thesis.txt").write_text("years of work")
    told = refusal(asked(f"fuse.folder={occupied}"))
    assert told.startswith("LF947")
    assert "thesis.txt" in told
    told = refusal(asked(f"fuse.base={run.path / 'fused'}", f"fuse.folder={run.path / 'fused'}"))
    assert told.startswith("LF947")
    assert "holds what this is made of" in told

    with monkeypatch.context() as patch:
        patch.setattr(clearance, "free_disk", lambda _: 1000)
        assert refusal(asked("fuse.dtype=float16")).startswith("LF945")
    with monkeypatch.context() as patch:
        patch.setattr(clearance, "free_memory", lambda: 2**20)
        told = refusal(asked("fuse.dtype=float16"))
        assert told.startswith("LF946")
        assert "1.0 MiB are free" in told

    config = json.loads((base / "config.json").read_text())
    other = shutil.copytree(base, tmp_path / "other")
    (other / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    told = refusal(asked(f"fuse.base={other}"))
    assert told.startswith("LF943")
    assert "layers 3, and 1 in training" in told
    packed = {**config, "quantization_config": {"quant_method": "gptq", "bits": 4}}
    (other / "config.json").write_text(json.dumps(packed))
    assert refusal(asked(f"fuse.base={other}")).startswith("LF941")
    assert refusal(asked("fuse.base=nowhere/at/all")).startswith("LF942")
    told = refusal(lambda: find_subject(Asked(run.path, overrides=("optimizer.lr=1",))))
    assert told.startswith("LF948")

    alone = shutil.copytree(run.model, tmp_path / "alone")
    config_file = alone / "adapter_config.json"
    kept = config_file.read_text()
    config_file.write_text(json.dumps({**json.loads(kept), "peft_type": "PREFIX_TUNING"}))
    assert "prefix tuning" in refusal(lambda: find_subject(Asked(alone)))
    config_file.write_text(kept)
    (alone / "adapter_model.safetensors").write_bytes(b"\x00" * 40)
    assert "adapter cannot be read" in refusal(lambda: find_subject(Asked(alone)))


def test_a_base_that_moved_or_changed_since_the_training(run: RunFolder, tmp_path: Path) -> None:
    from llmforge.run.making.originals import find_original

    cache = tmp_path / "cache"
    base = shutil.move(run.model / "base", tmp_path / "base")
    plan = run.plan()
    identity = {path.name: _digest(path) for path in Path(base).glob("*.[js][sa]*")}
    known = {name: identity[name] for name in ("config.json", "model.safetensors")}
    settings = {**plan.settings, "model": {"kind": "folder", "path": str(base)}}
    facts = {**plan.facts, "identity": {**plan.facts["identity"], "model": known}}
    lowered = {**plan.lowered, "model": {"pretrained_model_name_or_path": str(base)}}
    over: Plan = replace(plan, settings=settings, facts=facts, lowered=lowered)
    _rename_base(run.model, "")

    found = find_original(run.model, over, None, cache)
    assert found.folder == Path(base)
    with (Path(base) / "config.json").open("a") as out:
        out.write("\n")
    told = refusal(lambda: find_original(run.model, over, None, cache))
    assert told.startswith("LF944")
    assert "config.json has changed" in told
    assert find_original(run.model, over, str(base), cache).folder == Path(base)
    shutil.move(base, tmp_path / "gone")
    told = refusal(lambda: find_original(run.model, over, None, cache))
    assert told.startswith("LF942")
    assert "fuse.base=" in told
    assert refusal(lambda: find_original(run.model, None, None, cache)).startswith("LF942")


def _digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def _rename_base(adapter: Path, name: str) -> None:
    file = adapter / "adapter_config.json"
    told = json.loads(file.read_text())
    file.write_text(json.dumps({**told, "base_model_name_or_path": name}))


def test_a_merged_model_is_asked_and_measured_by_its_run(run: RunFolder, capfd: Any) -> None:
    asked = ["generate", "What is 2 + 3?", "--run", str(run.path), "--json"]
    answers = []
    for words in (asked, [*asked, "--weights", "fused"]):
        assert main(words) == 0
        answers.append(json.loads(capfd.readouterr().out))
    assert [one["model"] for one in answers] == [run.run_id, f"{run.run_id}, fused"]
    assert answers[0]["answer"] == answers[1]["answer"]

    assert main(["evaluate", "--run", str(run.path), "--weights", "fused"]) == 0
    figures = dict(line.split() for line in capfd.readouterr().out.splitlines() if line)
    result = run.result() or {}
    assert float(figures["eval_loss"]) == pytest.approx(result["eval_loss"], rel=1e-3)


@pytest.mark.slow
def test_two_that_are_told_the_same_folder_do_not_write_into_one_another(
    run: RunFolder, tmp_path: Path, capfd: Any
) -> None:
    other = shutil.copytree(run.path, tmp_path / "runs" / "other")
    words = ["fuse", "-o", str(tmp_path / "out"), "fuse.probe_rows=0"]
    first = subprocess.Popen(
        [sys.executable, "-m", "llmforge", *words, "--run", str(run.path)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while (process := holder(tmp_path / "out")) is None and first.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)

    assert main([*words, "--run", str(other)]) == 2

    told = capfd.readouterr().err
    assert f"error[LF949]: {tmp_path / 'out'} is being made by {process}" in told
    assert "hint: fuse.folder=<another folder>" in told
    assert first.wait(120) == 0
    record = making.record(run, "fuse")
    assert record is not None
    assert record["files"].keys() == files(tmp_path / "out").keys()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")] == []


def test_a_place_that_was_taken_since_it_was_checked(run: RunFolder, tmp_path: Path) -> None:
    found = subject(run, f"fuse.folder={tmp_path / 'out'}")
    order = order_of(found)
    with workplace(tmp_path / "out"), pytest.raises(PlaceBusy) as busy:
        stage(found.plan, found.run, order, Screen())
    told = diagnose(busy.value, found.plan)
    assert (told.code, told.hint) == ("LF949", "fuse.folder=<another folder>")
    assert f"process {os.getpid()}" in told.message


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_base_that_was_packed_while_it_was_loaded_is_merged_in_full_precision(
    run: RunFolder,
) -> None:
    pytest.importorskip("bitsandbytes")
    from conftest import TINY

    rest = [word for word in TINY if not word.startswith(("model.", "tokenizer.", "name="))]
    base = ["model=folder", f"model.path={run.path / 'fused'}", "quantization=4bit"]
    assert main(["train", "name=packed", *rest, *base, "lora=small", "tracking=none"]) == 0
    (packed,) = Path("runs").glob("packed-*")

    record = carried_out(subject(RunFolder.open(packed)))

    assert record["base"] == str(run.path / "fused"), "the original, not what was packed"
    assert record["proof"]["passed"]
    assert record["merge"]["dtype"] == "float32"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_merge_that_fails_after_training_keeps_the_training(
    work: Path, capsys: Any, fused_words: tuple[str, ...]
) -> None:
    from conftest import TINY

    words = [
        "train",
        "name=strict",
        *TINY[1:],
        *fused_words,
        "fuse.dtype=bfloat16",
        "tracking=none",
    ]
    assert main([*words, "fuse.max_difference=0"]) == 1
    told = capsys.readouterr().err
    assert "LF950" in told
    assert "hint: fuse.dtype=float32" in told
    (folder,) = (work / "runs").iterdir()
    run = RunFolder.open(folder)
    assert run.status() is Status.FINISHED
    assert run.manifest.is_file()
    assert making.record(run, "fuse") is None
    assert [path.name for path in folder.iterdir() if "fused" in path.name] == []
    trained = (run.model / "adapter_model.safetensors").stat().st_mtime_ns

    assert main(words) == 0
    assert "was finished at" in capsys.readouterr().err
    assert (run.model / "adapter_model.safetensors").stat().st_mtime_ns == trained
    assert (making.record(run, "fuse") or {})["proof"]["passed"]


def test_a_run_that_is_not_finished_has_nothing_to_merge(home: Path, capsys: Any) -> None:
    with chdir(home):
        assert main(["fuse", "name=other", "hardware=cpu", "lora=small", "model=tiny_llama"]) == 2
    told = capsys.readouterr().err
    assert "LF809" in told
    assert "hint: llmforge train name=other" in told
