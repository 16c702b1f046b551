"""`llmforge push REF` of what was made of a run's model, and of folders that are no run's."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from huggingface_hub import ModelCard

from llmforge.run.folder import RunFolder
from llmforge.run.hub.record import entries
from llmforge.run.making import order as making
from llmforge.run.making.labels import LABEL, write_label
from llmforge.run.making.order import keep_record
from llmforge.stage_order import FOLDERS

# the hub on the loopback stands beside the tests of uploads
sys.path.insert(0, str(Path(__file__).parent / "run"))

if TYPE_CHECKING:
    from stand_in_hub import StandIn

CARD = '---\nlibrary_name: transformers\n---\n\n# small\n\nfrom_pretrained(".")\n'


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A hub on the loopback; `HF_TOKEN` is `me`'s."""
    from stand_in_hub import running

    with running() as found:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setenv("HF_TOKEN", "token-of-me")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield found


def write_model(folder: Path, **files: str) -> Path:
    """A folder as a hub would see it: texts, and bytes that are called weights."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "config.json": json.dumps({"_name_or_path": str(folder), "model_type": "llama"}),
        "tokenizer.json": "{}",
        "tokenizer_config.json": "{}",
        "README.md": CARD,
        **files,
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"weights of " + folder.name.encode())
    return folder


@pytest.fixture
def made(work: Path, compiled: Callable[..., Any]) -> Callable[[str], tuple[RunFolder, Path]]:
    """`made("fuse")`: a run, and what a stage has made of its model, with record and label."""

    def make(stage: str) -> tuple[RunFolder, Path]:
        plan = compiled("name=small", "hardware=cpu", "tracking=none", "lora=small")
        run = RunFolder(work / "runs" / plan.run_id)
        run.path.mkdir(parents=True)
        plan.save(run.plan_file)
        run.write_json("status.json", {"status": "finished", "attempts": 1})
        write_model(run.model)
        folder = write_model(run.path / FOLDERS[stage])
        order = making.order(plan, run, stage, run.model, run.run_id, 8)  # type: ignore[arg-type]
        figures = {"seconds": 1.0}
        write_label(folder, plan, order, run.run_id, figures)
        keep_record(run, plan, replace(order, target=str(folder)), figures)
        return run, folder

    return make


@pytest.mark.parametrize("stage", ["fuse", "quantize"])
def test_what_was_made_goes_out_whole_and_private(
    stage: str, made: Callable[..., Any], hub: StandIn, llmforge: Callable[[str], Any]
) -> None:
    run, folder = made(stage)
    what = FOLDERS[stage]

    told = llmforge(f"push {run.run_id} --what {what} --repository me/out")

    assert told.code == 0, told.err
    assert f"{what} is on the hub" in told.out
    assert hub.repositories["me/out"].private
    files = hub.files("me/out")
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert set(files) == {path.name for path in folder.iterdir()}
    assert 'from_pretrained("me/out")' in ModelCard(files["README.md"].decode()).text
    assert hub.messages("me/out")[0].startswith(f"{run.run_id}, {what} ")
    assert entries(run)[-1]["what"] == what
    here = str(run.path).encode()
    assert [name for name, content in files.items() if here in content] == []
    assert list((run.path / ".push").iterdir()) == []


def test_a_made_folder_says_what_it_is_wherever_it_lies(
    made: Callable[..., Any], hub: StandIn, llmforge: Callable[[str], Any], tmp_path: Path
) -> None:
    run, folder = made("fuse")
    assert llmforge(f"push {folder} --repository me/out").code == 0
    assert entries(run)[-1]["what"] == "fused"
    shutil.copytree(folder, tmp_path / "elsewhere" / "mine")

    told = llmforge(f"push {tmp_path / 'elsewhere' / 'mine'} --repository me/other")

    assert told.code == 0, told.err
    assert set(hub.files("me/other")) == set(hub.files("me/out"))
    assert hub.messages("me/other")[0].startswith(f"{run.run_id}, ")
    assert list((tmp_path / "elsewhere").iterdir()) == [tmp_path / "elsewhere" / "mine"]


def test_any_folder_with_a_model(work: Path, hub: StandIn, llmforge: Callable[[str], Any]) -> None:
    folder = write_model(work / "mine", **{"trainer_state.json": "{}"})
    (folder / "optimizer.pt").write_bytes(b"a pickle")
    (folder / "README.md").unlink()

    told = llmforge("push mine --repository me/mine --public")

    assert told.code == 0, told.err
    assert not hub.repositories["me/mine"].private
    files = hub.files("me/mine")
    assert set(files) == {
        "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    }  # fmt: skip
    assert json.loads(files["config.json"])["_name_or_path"] == "mine"
    card = ModelCard(files["README.md"].decode())
    assert card.data.library_name == "transformers"
    assert 'from_pretrained("me/mine")' in card.text


def test_an_adapter_with_a_base_on_the_hub_keeps_its_name(
    work: Path, hub: StandIn, llmforge: Callable[[str], Any]
) -> None:
    config = {"peft_type": "LORA", "base_model_name_or_path": "some-org/some-base"}
    folder = write_model(work / "mine", **{"adapter_config.json": json.dumps(config)})
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "README.md").unlink()

    assert llmforge("push mine --repository me/mine").code == 0

    files = hub.files("me/mine")
    assert json.loads(files["adapter_config.json"]) == config
    card = ModelCard(files["README.md"].decode())
    assert (card.data.library_name, card.data.base_model) == ("peft", "some-org/some-base")


def refused(told: Any, code: str, hint: str | None = None) -> str:
    assert told.code == 2, told.err
    assert f"error[{code}]" in told.err
    assert hint is None or f"hint: {hint}" in told.err
    return str(told.err)


def test_what_must_not_go_out(
    made: Callable[..., Any], hub: StandIn, llmforge: Callable[[str], Any], work: Path
) -> None:
    run, folder = made("fuse")
    name = run.run_id
    refused(llmforge(f"push {name} --what quantized --repository me/out"), "LF913",
            f"llmforge quantize --run {name}")  # fmt: skip
    refused(llmforge(f"push {folder} --what adapter --repository me/out"), "LF916")
    refused(llmforge(f"push {folder} --checkpoint last --repository me/out"), "LF916")
    refused(llmforge(f"push {run.model} --repository me/out"), "LF916")
    config = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(config.replace(":", " ", 1), encoding="utf-8")
    changed = refused(llmforge(f"push {name} --what fused --repository me/out"), "LF915",
                      f"llmforge fuse --run {name}")  # fmt: skip
    assert "config.json has changed" in changed
    assert "config.json has changed" in refused(
        llmforge(f"push {folder} --repository me/out"), "LF915"
    )
    (folder / "model.safetensors").unlink()
    refused(llmforge(f"push {name} --what fused --repository me/out"), "LF914")
    (work / "notes").mkdir()
    refused(llmforge("push notes --repository me/out"), "LF914")
    refused(llmforge("push notes"), "LF701", "llmforge push notes --repository <owner>/notes")
    assert hub.repositories == {}


def test_a_run_s_model_that_has_changed_does_not_go_out(
    made: Callable[..., Any], hub: StandIn, llmforge: Callable[[str], Any]
) -> None:
    from llmforge.run.outcome import write_manifest

    run, _ = made("fuse")
    write_manifest(run)
    (run.model / "model.safetensors").write_bytes(b"other weights")
    refused(llmforge(f"push {run.run_id} --repository me/out"), "LF915")
    assert hub.repositories == {}


def test_a_failed_upload_of_a_folder_is_told_without_the_token(
    work: Path, hub: StandIn, llmforge: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(work / "mine")
    monkeypatch.setenv("HF_TOKEN", "a-wrong-one")
    told = llmforge("push mine --repository me/mine")
    assert told.code == 1
    assert "error[LF920]" in told.err
    assert "llmforge push mine --repository me/mine" in told.err
    assert "a-wrong-one" not in told.err


def test_the_label_goes_out_with_the_folder(
    made: Callable[..., Any], hub: StandIn, llmforge: Callable[[str], Any]
) -> None:
    run, _ = made("quantize")
    with chdir(run.path.parent.parent):
        assert llmforge(f"push {run.run_id} --what quantized --repository me/out").code == 0
    assert json.loads(hub.files("me/out")[LABEL])["run_id"] == run.run_id
