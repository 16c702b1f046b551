"""Uploads to a hub on the loopback: what arrives, what is refused, what troubles do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import save_file

from llmforge.plan import Plan
from llmforge.run import sealing
from llmforge.run.checkpoints import Checkpoint
from llmforge.run.folder import RunFolder
from llmforge.run.hub import Order, order_of, push
from llmforge.run.hub.pushing import warning
from llmforge.run.hub.record import entries

if TYPE_CHECKING:
    from stand_in_hub import StandIn

PUSH = ("tracking=none", "hub=push", "hub.repository=me/model", "hub.wait=0.01", "hub.timeout=5.0")
CANARY = "canary-5e1f"


def write_model(folder: Path, seed: int = 0, **texts: Any) -> None:
    """A model folder as a run leaves it: weights, config, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    save_file({"weight": torch.rand(64, 64)}, folder / "model.safetensors")
    for name, content in {
        "config.json": {"model_type": "llama"},
        "tokenizer.json": {"model": {"vocab": {"/home": 1}}},
        "tokenizer_config.json": {"name_or_path": str(folder)},
        **texts,
    }.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def trained(tiny: Callable[..., Plan]) -> Callable[..., tuple[Plan, RunFolder, Order]]:
    """A run that is done, with one checkpoint."""

    def make(*overrides: str) -> tuple[Plan, RunFolder, Order]:
        plan = tiny(*PUSH, *overrides)
        run = RunFolder.create(plan)
        write_model(run.model)
        state = run.checkpoint_folder / "checkpoint-8"
        write_model(state, seed=8)
        (state / "optimizer.pt").write_bytes(b"momenta")
        best = {"best_model_checkpoint": str(state), "global_step": 8}
        (state / "trainer_state.json").write_text(json.dumps(best), encoding="utf-8")
        plan.save(state / "plan.json")
        sealing.seal(state, {"step": 8, "run_id": plan.run_id})
        order = order_of(plan)
        assert order is not None
        return plan, run, order

    return make


def test_the_final_model_arrives_whole_and_private(trained, hub: StandIn) -> None:
    plan, run, order = trained()

    entry = push(plan, run, order)

    assert entry.error is None
    assert hub.repositories["me/model"].private
    files = hub.files("me/model")
    assert sorted(files) == [
        *("README.md", "config.json", "model.safetensors", "plan.json"),
        *("tokenizer.json", "tokenizer_config.json"),
    ]
    assert files["model.safetensors"] == (run.model / "model.safetensors").read_bytes()
    card = ModelCard(files["README.md"].decode())
    assert 'from_pretrained("me/model")' in card.text
    assert Plan.from_dict(json.loads(files["plan.json"])).fingerprint == plan.fingerprint
    assert hub.messages("me/model") == [f"{plan.run_id}, model (llmforge {plan.llmforge})"]
    assert entries(run)[-1]["commit"] == entry.commit == hub.repositories["me/model"].head("main")
    assert list((run.path / ".push").iterdir()) == []


def test_the_second_time_nothing_is_sent(trained, hub: StandIn) -> None:
    plan, run, order = trained()
    first = push(plan, run, order)
    received = hub.received

    second = push(plan, run, order)

    assert (second.unchanged, second.commit) == (True, first.commit)
    assert hub.received == received
    assert len(hub.messages("me/model")) == 1


def test_neither_secrets_nor_places_of_this_machine_arrive(
    trained, hub: StandIn, monkeypatch: pytest.MonkeyPatch, work: Path
) -> None:
    monkeypatch.setenv("MY_TOKEN", CANARY)
    hub.users[CANARY] = hub.users["token-of-me"]
    plan, run, order = trained("hub.token=env:MY_TOKEN", "hub.what=checkpoint")
    told = {"_name_or_path": f"{Path.home()}/models/base", "note": f"sent with {CANARY}"}
    write_model(run.model, **{"config.json": told})

    assert push(plan, run, order).error is None

    files = hub.files("me/model")
    assert json.loads(files["config.json"]) == {
        "_name_or_path": "base",
        "note": "sent with <MY_TOKEN>",
    }
    assert json.loads(files["checkpoint/trainer_state.json"])["best_model_checkpoint"] == (
        "checkpoint-8"
    )
    places = (CANARY, str(work), str(Path.home()), str(Path.cwd()), str(run.path.parent))
    told_anyway = [
        (name, place) for name, content in files.items() for place in places
        if place.encode() in content
    ]  # fmt: skip
    assert told_anyway == []
    assert files["tokenizer.json"] == (run.model / "tokenizer.json").read_bytes()


def test_a_checkpoint_can_be_gone_on_from_where_it_arrives(
    trained, hub: StandIn, tmp_path: Path
) -> None:
    plan, run, order = trained("hub.what=checkpoint")

    assert push(plan, run, order).error is None

    arrived = hub.checkout("me/model", tmp_path / "arrived") / "checkpoint"
    assert sealing.fault(arrived, thorough=True) is None
    assert sealing.facts(arrived)["step"] == 8
    assert (arrived / "optimizer.pt").read_bytes() == b"momenta"
    assert Plan.load(arrived / "plan.json").stages == plan.stages
    here = run.checkpoint_folder / "checkpoint-8"
    assert sealing.fault(here, thorough=True) is None, "the run's own is as it was"


def test_without_being_asked_for_no_training_state_goes_out(trained, hub: StandIn) -> None:
    plan, run, order = trained()
    state = Checkpoint(run.checkpoint_folder / "checkpoint-8", 8)

    assert push(plan, run, order, state).error is None

    files = hub.files("me/model")
    assert files["model.safetensors"] == (state.path / "model.safetensors").read_bytes()
    assert not {"optimizer.pt", "trainer_state.json", "checkpoint.json"} & set(files)


def test_an_adapter_names_its_base_as_others_know_it(
    trained, hub: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, run, order = trained("lora=small", "hub.what=adapter")
    write_model(run.model, **{
        "adapter_config.json": {"peft_type": "LORA", "base_model_name_or_path": "/home/ann/base"},
    })  # fmt: skip
    (run.model / "model.safetensors").rename(run.model / "adapter_model.safetensors")
    write_model(run.model / "base")

    assert push(plan, run, order).error is None

    files = hub.files("me/model")
    config = json.loads(files["adapter_config.json"])
    assert config["base_model_name_or_path"] == "me/model", "the base was made from scratch"
    assert "adapter_model.safetensors" in files
    assert not [name for name in files if name.startswith("base/")]
    assert ModelCard(files["README.md"].decode()).data.library_name == "peft"


def test_weights_of_an_earlier_model_do_not_stay(trained, hub: StandIn) -> None:
    plan, run, order = trained()
    push(plan, run, order)
    files = hub.files("me/model")
    files |= {"LICENSE": b"mine", "notes/model.safetensors": b"mine"}
    whole = run.model / "model.safetensors"
    whole.rename(run.model / "model-00001-of-00001.safetensors")

    assert push(plan, run, order).error is None

    left = set(hub.files("me/model"))
    assert "model.safetensors" not in left
    assert {"model-00001-of-00001.safetensors", "LICENSE", "notes/model.safetensors"} <= left


def test_another_branch(trained, hub: StandIn) -> None:
    plan, run, order = trained("hub.revision=trial")
    assert push(plan, run, order).error is None
    assert "model.safetensors" in hub.files("me/model", "trial")
    assert hub.files("me/model") == {}


@pytest.mark.parametrize(
    ("method", "place", "what"),
    [
        ("POST", "/api/repos/create", 500),
        ("POST", "/commit/", 503),
        ("PUT", "/large/", "cut"),
        ("POST", "/commit/", "cut"),
    ],
)
def test_trouble_that_passes_is_waited_out(
    method: str, place: str, what: int | str, trained, hub: StandIn
) -> None:
    plan, run, order = trained()
    hub.trouble(method, place, what, times=2)

    entry = push(plan, run, order)

    assert entry.error is None
    files = hub.files("me/model")
    assert files["model.safetensors"] == (run.model / "model.safetensors").read_bytes()
    assert len(hub.messages("me/model")) == 1


def test_trouble_that_stays_leaves_the_repository_as_it_was(trained, hub: StandIn) -> None:
    plan, run, order = trained("hub.attempts=2")
    push(plan, run, order)
    before = dict(hub.files("me/model"))
    write_model(run.model, seed=1)
    hub.trouble("POST", "/commit/", "cut", times=9)

    entry = push(plan, run, order)

    assert entry.error is not None
    assert entry.error["code"] == "LF924"
    assert (
        f"to repeat it: llmforge push {plan.run_id} --repository me/model" in entry.error["notes"]
    )
    assert hub.files("me/model") == before
    assert [bool(known["error"]) for known in entries(run)] == [False, True]


def test_a_hub_that_never_answers_is_given_up(trained, hub: StandIn) -> None:
    plan, run, order = trained("hub.attempts=1", "hub.timeout=0.2")
    hub.trouble("POST", "/api/repos/create", 3.0)
    entry = push(plan, run, order)
    assert entry.error is not None
    assert entry.error["code"] == "LF924"
    assert "Timeout" in entry.error["message"]


@pytest.mark.parametrize(
    ("token", "repository", "code", "hint"),
    [
        (None, "me/model", "LF920", "export HF_TOKEN=<a token that may write>"),
        ("wrong", "me/model", "LF920", "export HF_TOKEN=<a token that may write>"),
        ("token-of-me", "somebody/model", "LF922", "hub.repository=<you>/model"),
    ],
)
def test_refusals_are_told_once_and_without_the_token(
    token, repository, code, hint, trained, hub: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, run, order = trained(f"hub.repository={repository}")
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", token)

    entry = push(plan, run, order)

    found = warning(entry)
    assert found
    assert (found.code, found.hint, found.is_error) == (code, hint, False)
    assert [ask for ask in hub.asked if "create" in ask] == (
        ["POST /api/repos/create"] if token else []
    )
    assert (token or "nothing of the kind") not in json.dumps(entries(run))


def test_the_token_may_stand_in_a_file(
    trained, hub: StandIn, monkeypatch: pytest.MonkeyPatch, work: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    (work / "tokens").write_text("OTHER=x\nHF_TOKEN='token-of-me'\n", encoding="utf-8")
    plan, run, order = trained(f"paths.env_file={work / 'tokens'}")
    assert push(plan, run, order).error is None


def make_tokenizer(folder: Path, **specials: str) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"<s>": 0, "</s>": 1, "legs": 2, "?": 3}, unk_token="?"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, **specials).save_pretrained(folder)


def test_the_tokenizer_that_goes_out_begins_with_bos_and_the_run_s_own_does_not(
    trained, hub: StandIn, tmp_path: Path
) -> None:
    from llmforge.build.tokenizer import open_tokenizer

    plan, run, order = trained("hub.add_bos=true")
    make_tokenizer(run.model, bos_token="<s>", eos_token="</s>")

    assert push(plan, run, order).error is None

    out = open_tokenizer(hub.checkout("me/model", tmp_path / "out"))
    assert out("legs")["input_ids"] == [0, 2]
    assert open_tokenizer(run.model)("legs")["input_ids"] == [2]


def test_bos_that_there_is_none_of(trained, hub: StandIn) -> None:
    plan, run, order = trained("hub.add_bos=true")
    make_tokenizer(run.model, eos_token="</s>")

    entry = push(plan, run, order)

    assert entry.error is not None
    assert (entry.error["code"], entry.error["hint"]) == ("LF929", "hub.add_bos=null")
    assert hub.repositories == {}
